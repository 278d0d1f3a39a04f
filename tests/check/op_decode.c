/* SPDX-License-Identifier: Apache-2.0
 * Cases of `decode`: a range of rows of one matrix, exactly where rows are not
 * rotated. */
#include "check.h"

typedef struct shape {
    int64_t n_rows, n_cols;
} shape;

static const shape shapes[] = {
    {1, 1},
    {1, 27},
    {2, 28},
    {3, 29},
    {16, 15},
    {17, 16},
    {33, 33},
    {31, 61},
    {256, 127},
    {32, 512},
};
static const shape qmi_bench_shapes[] = {{768, 3072}, {3072, 768}};
static const value_kind kinds[] = {VALUES_RANDOM, VALUES_SPECIAL, VALUES_TINY,
    VALUES_ZEROS, VALUES_STRUCTURED, VALUES_LARGE};

/* Ranges of rows: all, one in the middle, all but the first, but the last. */
static const struct {
    const char *name;
    int from_begin, from_end;
} ranges[] = {{"all", 0, 0}, {"middle", 1, 1}, {"tail", 1, 0}, {"head", 0, 1}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static check_case *add_case(
    case_list *list, const weight_kind *kind, const shape *s)
{
    check_case *c = case_add(list);
    c->weight = kind;
    c->n_rows = s->n_rows;
    c->n_cols = s->n_cols;
    return c;
}

static void name_case(check_case *c)
{
    case_name(c, QMI_OP_DECODE, "%lldx%lld/%s/%s/mat%lldof%lld/%s",
        (long long)c->n_rows, (long long)c->n_cols, value_kind_name(c->w),
        weight_layout_name(c->layout), (long long)c->mat, (long long)c->n_mats,
        ranges[c->mode].name);
}

static void vary(check_case *c, size_t i, size_t range)
{
    c->mode = (int)range;
    c->w = kinds[choose(i, 1, COUNT(kinds))];
    c->layout = (weight_layout)choose(i, 2, LAYOUT_COUNT);
    c->n_mats = choose(i, 3, 2) == 0 ? 3 : 1;
    c->mat = (int64_t)choose(i, 4, (size_t)c->n_mats);
    name_case(c);
}

static void list_bench(case_list *list)
{
    for (size_t k = 0; k < weight_kind_count(); k++)
        for (size_t s = 0; s < COUNT(qmi_bench_shapes); s++)
            if (k == 0 || !weight_kind_at(k)->dense)
                name_case(
                    add_case(list, weight_kind_at(k), &qmi_bench_shapes[s]));
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        list_bench(list);
        return;
    }
    for (size_t k = 0; k < weight_kind_count(); k++)
        for (size_t s = 0; s < COUNT(shapes); s++)
            for (size_t range = 0; range < COUNT(ranges); range++)
                if ((range == 0 || shapes[s].n_rows > 2) &&
                    weight_kind_takes(k, s + range))
                    vary(add_case(list, weight_kind_at(k), &shapes[s]), list->n,
                        range);
    add_corrupt_cases(list, QMI_OP_DECODE);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    const weight_request request = {
        c->weight, c->layout, c->w, c->n_mats, c->n_rows, c->n_cols};
    QMI_TRY(add_weight(p, offsetof(qmi_op, u.decode.weight), &request, r, err));
    qmi_op_decode *o = &p->body.u.decode;
    o->mat = c->mat;
    o->row = ranges[c->mode].from_begin;
    o->n_rows = c->n_rows - o->row - ranges[c->mode].from_end;
    add_output(p, "dst", VIEW_AT(decode.dst), o->n_rows, c->n_cols);
    return QMOE_OK;
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    const qmi_op_decode *o = &p->body.u.decode;
    if (p->weights[0]->stored == NULL)
        return;
    double *out = make_bound(p, "dst");
    for (int64_t i = 0; i < o->n_rows; i++)
        add_decode_bound(out + i * c->n_cols, p->weights[0],
            c->mat * c->n_rows + o->row + i);
}

static check_cost cost(const problem *p)
{
    uint64_t stack = qmi_weight_bytes(&p->weights[0]->host);
    return (check_cost){
        .bytes = operand_bytes(p) + (double)stack / (double)p->c->n_mats};
}

const check_op check_decode = {
    .list = list_cases, .build = build, .bound = bound, .cost = cost};
