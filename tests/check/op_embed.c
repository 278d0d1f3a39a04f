/* SPDX-License-Identifier: Apache-2.0
 * Cases of `embed`: rows of a table, exactly. */
#include "check.h"

typedef struct shape {
    int64_t n_rows, n_cols;
} shape;

static const shape shapes[] = {
    {1, 1},
    {2, 15},
    {16, 16},
    {33, 17},
    {31, 61},
    {100, 33},
    {257, 256},
};
static const shape qmi_bench_shapes[] = {{32128, 768}};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const value_kind kinds[] = {VALUES_RANDOM, VALUES_SPECIAL, VALUES_TINY,
    VALUES_ZEROS, VALUES_STRUCTURED, VALUES_LARGE};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void add_case(case_list *list, const weight_kind *kind, const shape *s,
    int64_t n_tokens, bool plain)
{
    check_case *c = case_add(list);
    c->weight = kind;
    c->n_rows = s->n_rows;
    c->n_cols = s->n_cols;
    c->n_tokens = n_tokens;
    if (!plain) {
        c->w = kinds[choose(list->n, 1, COUNT(kinds))];
        c->layout = (weight_layout)choose(list->n, 2, LAYOUT_COUNT);
    }
    case_name(c, QMI_OP_EMBED, "%lldx%lld/t%lld/%s/%s", (long long)c->n_rows,
        (long long)c->n_cols, (long long)n_tokens, value_kind_name(c->w),
        weight_layout_name(c->layout));
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        for (size_t s = 0; s < COUNT(qmi_bench_shapes); s++)
            add_case(list, weight_kind_at(0), &qmi_bench_shapes[s], 33, true);
        return;
    }
    for (size_t k = 0; k < weight_kind_count(); k++)
        for (size_t s = 0; s < COUNT(shapes); s++)
            for (size_t t = 0; t < COUNT(token_counts); t++)
                if (weight_kind_takes(k, s + t))
                    add_case(list, weight_kind_at(k), &shapes[s],
                        token_counts[t], false);
    add_corrupt_cases(list, QMI_OP_EMBED);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    const weight_request request = {
        c->weight, c->layout, c->w, 1, c->n_rows, c->n_cols};
    QMI_TRY(add_weight(p, offsetof(qmi_op, u.embed.table), &request, r, err));
    p->body.u.embed.n_tokens = c->n_tokens;
    int32_t *ids =
        add_ints(p, "ids", VIEW_AT(embed.ids), c->n_tokens, 1)->data.ints;
    for (int64_t t = 0; t < c->n_tokens; t++)
        ids[t] = (int32_t)rng_below(r, c->n_rows);
    /* Always the last row; the first too when there is a second token. */
    ids[0] = (int32_t)(c->n_rows - 1);
    if (c->n_tokens > 1)
        ids[1] = 0;
    add_output(p, "dst", VIEW_AT(embed.dst), c->n_tokens, c->n_cols);
    return QMOE_OK;
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    const int32_t *ids = find_operand(p, "ids")->data.ints;
    if (p->weights[0]->stored == NULL)
        return;
    double *out = make_bound(p, "dst");
    for (int64_t t = 0; t < c->n_tokens; t++)
        add_decode_bound(out + t * c->n_cols, p->weights[0], ids[t]);
}

static check_cost cost(const problem *p)
{
    uint64_t table = qmi_weight_bytes(&p->weights[0]->host);
    double share = (double)p->c->n_tokens / (double)p->c->n_rows;
    return (check_cost){.bytes = operand_bytes(p) + share * (double)table};
}

const check_op check_embed = {
    .list = list_cases, .build = build, .bound = bound, .cost = cost};
