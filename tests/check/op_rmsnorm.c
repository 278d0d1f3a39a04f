/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `rmsnorm`. */
#include "check.h"

#include <math.h>

static const int64_t widths[] = {1, 15, 16, 17, 31, 32, 33, 61, 127, 256, 1031};
static const int64_t qmi_bench_widths[] = {256, 768};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const float epsilons[] = {1e-6f, 0.1f};
static const value_kind x_kinds[] = {
    VALUES_RANDOM,
    VALUES_LARGE,
    VALUES_TINY,
    VALUES_ZEROS,
    VALUES_MIXED,
    VALUES_SPECIAL,
};
static const value_kind w_kinds[] = {
    VALUES_RANDOM, VALUES_LARGE, VALUES_TINY, VALUES_ZEROS};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static check_case *add_case(
    case_list *list, const weight_kind *kind, int64_t n_cols, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->weight = kind;
    c->n_rows = 1;
    c->n_cols = n_cols;
    c->n_tokens = n_tokens;
    c->alpha = epsilons[0];
    return c;
}

static void name_case(check_case *c)
{
    case_name(c, QMI_OP_RMSNORM, "c%lld/t%lld/%s*%s/%s/eps%g",
        (long long)c->n_cols, (long long)c->n_tokens, value_kind_name(c->x),
        value_kind_name(c->w), weight_layout_name(c->layout), (double)c->alpha);
}

static void vary(check_case *c, size_t i)
{
    c->x = x_kinds[choose(i, 1, COUNT(x_kinds))];
    c->w = w_kinds[choose(i, 2, COUNT(w_kinds))];
    c->layout = (weight_layout)choose(i, 3, LAYOUT_COUNT);
    c->alpha = epsilons[choose(i, 4, COUNT(epsilons))];
    name_case(c);
}

static void list_cases(case_list *list, bool bench)
{
    const int64_t *of = bench ? qmi_bench_widths : widths;
    size_t n = bench ? COUNT(qmi_bench_widths) : COUNT(widths);
    for (size_t k = 0; k < weight_kind_count(); k++) {
        const weight_kind *kind = weight_kind_at(k);
        if (!kind->dense || (bench && k != 0))
            continue;
        for (size_t w = 0; w < n; w++) {
            for (size_t t = 0; t < COUNT(token_counts); t++) {
                check_case *c = add_case(list, kind, of[w], token_counts[t]);
                if (bench)
                    name_case(c);
                else
                    vary(c, list->n);
            }
        }
    }
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    const weight_request request = {
        c->weight, c->layout, c->w, 1, 1, c->n_cols};
    QMI_TRY(
        add_weight(p, offsetof(qmi_op, u.rmsnorm.weight), &request, r, err));
    p->body.u.rmsnorm.n_tokens = c->n_tokens;
    p->body.u.rmsnorm.epsilon = c->alpha;
    operand *src =
        add_floats(p, "src", VIEW_AT(rmsnorm.src), c->n_tokens, c->n_cols);
    fill_values(src->data.floats, c->n_tokens * c->n_cols, r, c->x);
    add_output(p, "dst", VIEW_AT(rmsnorm.dst), c->n_tokens, c->n_cols);
    return QMOE_OK;
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    double *out = make_bound(p, "dst");
    const float *scale = p->weights[0]->values;
    /* Half the error of the sum passes the root; then the mean, epsilon, the
     * root, the division and two products. */
    double growth = sum_growth(c->n_cols) / 2 + 8;
    for (int64_t t = 0; t < c->n_tokens; t++) {
        const float *x = find_floats(p, "src") + t * c->n_cols;
        double mean = sum_abs_products(x, x, c->n_cols) / (double)c->n_cols;
        double factor = 1 / sqrt(mean + (double)c->alpha);
        for (int64_t i = 0; i < c->n_cols; i++) {
            double a = fabs((double)x[i]), s = fabs((double)scale[i]);
            double tiny = s * (factor + 1) + a * (factor + 1) + 1;
            out[t * c->n_cols + i] = UNIT_ROUNDOFF * growth * a * factor * s +
                                     SMALLEST_NORMAL * tiny;
        }
    }
}

static check_cost cost(const problem *p)
{
    uint64_t scale = qmi_weight_bytes(&p->weights[0]->host);
    return (check_cost){
        .bytes = operand_bytes(p) + (double)scale,
        .flops = 4.0 * (double)p->c->n_tokens * (double)p->c->n_cols,
    };
}

const check_op check_rmsnorm = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
