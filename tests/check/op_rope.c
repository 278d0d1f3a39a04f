/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `rope`. */
#include "check.h"

#include <math.h>

static const struct {
    int64_t n_heads, d_head, d_rotary;
} shapes[] = {
    {1, 2, 2},
    {1, 4, 4},
    {3, 15, 10},
    {2, 16, 16},
    {5, 17, 2},
    {3, 24, 24},
    {2, 33, 32},
    {4, 64, 64},
    {2, 128, 64},
    {1, 130, 130},
};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const value_kind x_kinds[] = {VALUES_RANDOM, VALUES_RANDOM, VALUES_LARGE,
    VALUES_TINY, VALUES_ZEROS, VALUES_MIXED};
enum { APART, IN_PLACE, PLACE_COUNT };

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* n_cols: values of a head; n_rows: those that rotate; causal: interleaved. */
static void name_case(check_case *c)
{
    case_name(c, QMI_OP_ROPE, "h%lldx%lld/r%lld/t%lld/%s/%s/%s",
        (long long)c->n_heads, (long long)c->n_cols, (long long)c->n_rows,
        (long long)c->n_tokens, value_kind_name(c->x),
        c->causal ? "interleaved" : "halves",
        c->mode == IN_PLACE ? "in-place" : "apart");
}

static check_case *add_case(case_list *list, size_t s, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->n_heads = shapes[s].n_heads;
    c->n_cols = shapes[s].d_head;
    c->n_rows = shapes[s].d_rotary;
    c->n_tokens = n_tokens;
    return c;
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        check_case *c = case_add(list);
        c->n_heads = 32;
        c->n_cols = c->n_rows = 128;
        c->n_tokens = 33;
        name_case(c);
        return;
    }
    for (size_t s = 0; s < COUNT(shapes); s++)
        for (size_t t = 0; t < COUNT(token_counts); t++) {
            check_case *c = add_case(list, s, token_counts[t]);
            c->x = x_kinds[choose(list->n, 1, COUNT(x_kinds))];
            c->causal = choose(list->n, 2, 2) == 0;
            c->mode = (int)choose(list->n, 3, PLACE_COUNT);
            name_case(c);
        }
}

/* An output that starts with the input has no operand "src" of its own. */
static const float *src_of(const problem *p)
{
    return find_floats(p, p->c->mode == IN_PLACE ? "dst" : "src");
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    const int64_t width = c->n_heads * c->n_cols;
    (void)err;
    qmi_op_rope *o = &p->body.u.rope;
    o->n_tokens = c->n_tokens;
    o->n_heads = c->n_heads;
    o->d_head = c->n_cols;
    o->d_rotary = c->n_rows;
    o->interleaved = c->causal;
    operand *turns =
        add_floats(p, "turns", VIEW_AT(rope.turns), c->n_tokens, c->n_rows);
    /* Angles of any size, and a scale as yarn has it. */
    for (int64_t t = 0; t < c->n_tokens; t++)
        for (int64_t m = 0; m < c->n_rows / 2; m++) {
            const double angle = 6.3 * (double)rng_unit(r);
            float *row = turns->data.floats + t * c->n_rows;
            row[m] = (float)(1.25 * cos(angle));
            row[c->n_rows / 2 + m] = (float)(1.25 * sin(angle));
        }
    operand *src = add_floats(p, c->mode == IN_PLACE ? "dst" : "src",
        VIEW_AT(rope.src), c->n_tokens, width);
    fill_values(src->data.floats, c->n_tokens * width, r, c->x);
    if (c->mode == IN_PLACE) {
        src->is_output = true;
        src->view_at[1] = VIEW_AT(rope.dst);
    } else {
        add_output(p, "dst", VIEW_AT(rope.dst), c->n_tokens, width);
    }
    return QMOE_OK;
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    const float *src = src_of(p), *turns = find_floats(p, "turns");
    double *out = make_bound(p, "dst");
    const int64_t n_pairs = c->n_rows / 2;
    for (int64_t i = 0; i < c->n_tokens * c->n_heads; i++)
        for (int64_t m = 0; m < n_pairs; m++) {
            const float *x = src + i * c->n_cols;
            const float *turn = turns + i / c->n_heads * c->n_rows;
            const int64_t first = c->causal ? 2 * m : m;
            const int64_t second = c->causal ? 2 * m + 1 : m + n_pairs;
            const double a = fabs((double)x[first]);
            const double b = fabs((double)x[second]);
            const double co = fabs((double)turn[m]);
            const double si = fabs((double)turn[n_pairs + m]);
            /* A product, a sum, and the reference; values that do not rotate are
             * exact. */
            out[i * c->n_cols + first] =
                3 * UNIT_ROUNDOFF * (a * co + b * si) + 3 * SMALLEST_NORMAL;
            out[i * c->n_cols + second] =
                3 * UNIT_ROUNDOFF * (b * co + a * si) + 3 * SMALLEST_NORMAL;
        }
}

static check_cost cost(const problem *p)
{
    const check_case *c = p->c;
    const double n = (double)(c->n_tokens * c->n_heads);
    return (check_cost){
        .bytes = operand_bytes(p), .flops = 3 * n * (double)c->n_rows};
}

const check_op check_rope = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
