/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `glu`. */
#include "check.h"

#include <math.h>

static const int64_t widths[] = {1, 15, 16, 17, 33, 127, 1031};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const value_kind kinds[] = {
    VALUES_RANDOM, VALUES_RANDOM, VALUES_MIXED, VALUES_TINY, VALUES_ZEROS};
enum { APART, OVER_GATE, OVER_UP, PLACE_COUNT };
static const char *const place_names[] = {"apart", "over-gate", "over-up"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* n_rows: columns of the gate. */
static void name_case(check_case *c)
{
    case_name(c, QMI_OP_GLU, "c%lld/g%lld/t%lld/%s/%s*%s/%s",
        (long long)c->n_cols, (long long)c->n_rows, (long long)c->n_tokens,
        act_name(c->act), value_kind_name(c->x), value_kind_name(c->w),
        place_names[c->mode]);
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        check_case *c = case_add(list);
        c->n_cols = c->n_rows = 6144;
        c->n_tokens = 33;
        c->act = QMI_ACT_SILU;
        name_case(c);
        return;
    }
    for (size_t w = 0; w < COUNT(widths); w++)
        for (size_t t = 0; t < COUNT(token_counts); t++)
            for (int act = 0; act < QMI_ACT_COUNT; act++) {
                check_case *c = case_add(list);
                c->n_cols = widths[w];
                c->n_tokens = token_counts[t];
                c->act = (qmi_act)act;
                c->n_rows = choose(list->n, 1, 3) == 0 ? 1 : c->n_cols;
                c->x = kinds[choose(list->n, 2, COUNT(kinds))];
                c->w = kinds[choose(list->n, 3, COUNT(kinds))];
                c->mode = (int)choose(list->n, 4, PLACE_COUNT);
                if (c->n_rows != c->n_cols && c->mode == OVER_GATE)
                    c->mode = OVER_UP;
                name_case(c);
            }
}

static const char *name_of(const check_case *c, const char *own, int over)
{
    return c->mode == over ? "dst" : own;
}

static void add_input(problem *p, const char *name, int64_t at, int64_t n_cols,
    rng *r, value_kind kind)
{
    operand *o = add_floats(p, name, at, p->c->n_tokens, n_cols);
    fill_values(o->data.floats, p->c->n_tokens * n_cols, r, kind);
    if (name[0] != 'd')
        return;
    o->is_output = true;
    o->view_at[1] = VIEW_AT(glu.dst);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    (void)err;
    qmi_op_glu *o = &p->body.u.glu;
    o->n_tokens = c->n_tokens;
    o->n_cols = c->n_cols;
    o->n_gate_cols = c->n_rows;
    o->act = c->act;
    add_input(p, name_of(c, "gate", OVER_GATE), VIEW_AT(glu.gate), c->n_rows, r,
        c->x);
    add_input(
        p, name_of(c, "up", OVER_UP), VIEW_AT(glu.up), c->n_cols, r, c->w);
    if (c->mode == APART)
        add_output(p, "dst", VIEW_AT(glu.dst), c->n_tokens, c->n_cols);
    return QMOE_OK;
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    const float *gate = find_floats(p, name_of(c, "gate", OVER_GATE));
    const float *up = find_floats(p, name_of(c, "up", OVER_UP));
    double *out = make_bound(p, "dst");
    for (int64_t t = 0; t < c->n_tokens; t++)
        for (int64_t i = 0; i < c->n_cols; i++) {
            const double z =
                (double)gate[c->n_rows == 1 ? t : t * c->n_cols + i];
            const double u = fabs((double)up[t * c->n_cols + i]);
            out[t * c->n_cols + i] =
                (act_error(c->act, z, 0) +
                    2 * UNIT_ROUNDOFF * act_size(c->act, z)) *
                    u +
                (u + 2) * SMALLEST_NORMAL;
        }
}

static check_cost cost(const problem *p)
{
    const double n = (double)(p->c->n_tokens * p->c->n_cols);
    return (check_cost){.bytes = operand_bytes(p), .flops = 6 * n};
}

const check_op check_glu = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
