/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `linear`. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

typedef struct shape {
    int64_t n_rows, n_cols;
    int64_t n_tokens; /* 0: every entry of token_counts */
} shape;

/* 1, tile - 1, tile, tile + 1 for tiles of 16 and 32; primes; the model's
 * (switch-mini: d_model 256, d_ff 512). */
static const shape shapes[] = {
    {1, 1, 0},
    {1, 33, 0},
    {17, 1, 0},
    {15, 16, 0},
    {16, 15, 0},
    {16, 16, 0},
    {17, 17, 0},
    {31, 33, 0},
    {32, 32, 0},
    {33, 31, 0},
    {7, 29, 0},
    {61, 127, 0},
    {127, 61, 0},
    {2, 1031, 0},
    {256, 512, 1},
    {512, 256, 7},
    {256, 256, 33},
};
/* Dense weights with tokens that a library takes; more than one slab. */
static const shape many_shapes[] = {
    {40, 64, 130},
    {9, 48, 97},
    {5, 520, 98},
    {4, 8, 2100},
};
enum { MANY_VARIATIONS = 6 };
static const shape qmi_bench_shapes[] = {
    {3072, 768, 1},
    {768, 3072, 1},
    {768, 3072, 7},
    {768, 3072, 33},
    {768, 768, 1},
    {768, 768, 33},
};
static const int64_t token_counts[] = {1, 2, 7, 33};

static const value_kind x_kinds[] = {
    VALUES_RANDOM, VALUES_LARGE, VALUES_TINY, VALUES_ZEROS, VALUES_MIXED,
    VALUES_SPECIAL, /* in the residual alone: see build */
};
static const value_kind w_kinds[] = {
    VALUES_RANDOM,
    VALUES_STRUCTURED,
    VALUES_LARGE,
    VALUES_TINY,
    VALUES_MIXED,
};
static const float alphas[] = {1.0f, 0.7071f, -2.5f};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void name_case(check_case *c)
{
    case_name(c, QMI_OP_LINEAR,
        "%lldx%lld/t%lld/%s*%s/%s/mat%lldof%lld/%s/%s/a%g",
        (long long)c->n_rows, (long long)c->n_cols, (long long)c->n_tokens,
        value_kind_name(c->x), value_kind_name(c->w),
        weight_layout_name(c->layout), (long long)c->mat, (long long)c->n_mats,
        residual_name(c->residual), act_name(c->act), (double)c->alpha);
    if (c->second != NULL)
        case_name_add(c, "/bias-%s", c->second->name);
}

static check_case *add_case(
    case_list *list, const weight_kind *kind, const shape *s, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->weight = kind;
    c->n_rows = s->n_rows;
    c->n_cols = s->n_cols;
    c->n_tokens = n_tokens;
    return c;
}

static void vary(check_case *c, size_t i)
{
    c->x = x_kinds[choose(i, 1, COUNT(x_kinds))];
    c->w = w_kinds[choose(i, 2, COUNT(w_kinds))];
    c->layout = (weight_layout)choose(i, 3, LAYOUT_COUNT);
    c->residual = (residual_mode)choose(i, 4, RESIDUAL_COUNT);
    c->act = choose(i, 5, 3) == 0 ? QMI_ACT_RELU : QMI_ACT_NONE;
    if (choose(i, 9, 4) == 0)
        c->second = choose_dense(i, 10);
    if (choose(i, 11, 6) < 2)
        c->act = choose(i, 11, 6) == 0 ? QMI_ACT_SILU : QMI_ACT_SIGMOID;
    c->wide = c->second != NULL || c->act > QMI_ACT_RELU;
    c->alpha = alphas[choose(i, 6, COUNT(alphas))];
    c->n_mats = choose(i, 7, 3) == 0 ? 3 : 1;
    c->mat = (int64_t)choose(i, 8, (size_t)c->n_mats);
    name_case(c);
}

static void list_bench(case_list *list)
{
    for (size_t k = 0; k < weight_kind_count(); k++)
        for (size_t s = 0; s < COUNT(qmi_bench_shapes); s++)
            if (k == 0 || !weight_kind_at(k)->dense)
                name_case(add_case(list, weight_kind_at(k),
                    &qmi_bench_shapes[s], qmi_bench_shapes[s].n_tokens));
}

/* All terms of one sign: what a sum cuts off at each step adds up. */
static void list_one_sign(case_list *list)
{
    static const shape one_sign[] = {{33, 16, 7}, {33, 1040, 7}};
    for (size_t k = 0; k < weight_kind_count(); k++)
        for (size_t s = 0; s < COUNT(one_sign); s++) {
            check_case *c = add_case(
                list, weight_kind_at(k), &one_sign[s], one_sign[s].n_tokens);
            c->x = c->w = VALUES_POSITIVE;
            c->n_mats = 1;
            c->alpha = 1.0f;
            name_case(c);
        }
}

/* Where the largest input decides how the others are rounded. */
static void list_outliers(case_list *list)
{
    static const shape wide = {33, 1040, 7};
    for (size_t k = 0; k < weight_kind_count(); k++) {
        if ((weight_kind_at(k)->traits & KIND_ROUNDED) == 0)
            continue;
        check_case *c = add_case(list, weight_kind_at(k), &wide, wide.n_tokens);
        c->x = VALUES_OUTLIERS;
        c->n_mats = 1;
        c->alpha = 1.0f;
        name_case(c);
    }
}

static void list_many(case_list *list, const weight_kind *kind)
{
    for (size_t s = 0; kind->dense && s < COUNT(many_shapes); s++)
        for (int i = 0; i < MANY_VARIATIONS; i++)
            vary(add_case(list, kind, &many_shapes[s], many_shapes[s].n_tokens),
                list->n);
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        list_bench(list);
        return;
    }
    for (size_t k = 0; k < weight_kind_count(); k++) {
        for (size_t s = 0; s < COUNT(shapes); s++) {
            for (size_t t = 0; t < COUNT(token_counts); t++) {
                int64_t fixed = shapes[s].n_tokens;
                if ((fixed != 0 && t != 0) || !weight_kind_takes(k, s + t))
                    continue;
                int64_t n = fixed != 0 ? fixed : token_counts[t];
                vary(add_case(list, weight_kind_at(k), &shapes[s], n), list->n);
            }
        }
        list_many(list, weight_kind_at(k));
    }
    list_one_sign(list);
    list_outliers(list);
    add_corrupt_cases(list, QMI_OP_LINEAR);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    const weight_request request = {
        c->weight, c->layout, c->w, c->n_mats, c->n_rows, c->n_cols};
    QMI_TRY(add_weight(p, offsetof(qmi_op, u.linear.weight), &request, r, err));
    p->body.u.linear.mat = c->mat;
    p->body.u.linear.n_tokens = c->n_tokens;
    p->body.u.linear.alpha = c->alpha;
    p->body.u.linear.act = c->act;
    QMI_TRY(add_vector(
        p, offsetof(qmi_op, u.linear.bias), c->n_rows, c->w, r, err));
    /* 0 * infinity in the sum would be NaN for a dense kernel and nothing for
     * a sparse one; ops.h does not decide, so sums stay finite. */
    value_kind x = c->x == VALUES_SPECIAL ? VALUES_RANDOM : c->x;
    operand *src =
        add_floats(p, "src", VIEW_AT(linear.src), c->n_tokens, c->n_cols);
    fill_values(src->data.floats, c->n_tokens * c->n_cols, r, x);
    add_output_with_residual(p, VIEW_AT(linear.dst), VIEW_AT(linear.residual),
        c->n_tokens, c->n_rows, r, c->x);
    return QMOE_OK;
}

/* What the activation takes, without rounding. */
static double before_act(
    const problem *p, int64_t row, const float *x, double bias)
{
    const check_case *c = p->c;
    const float *w =
        p->weights[0]->values + (c->mat * c->n_rows + row) * c->n_cols;
    double sum = 0;
    for (int64_t i = 0; i < c->n_cols; i++)
        sum += (double)w[i] * x[i];
    return (double)c->alpha * sum + bias;
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    const float *src = find_floats(p, "src"), *bias = find_vector(p);
    const float *residual = find_floats(p, "residual");
    const gen_weight *w = p->weights[0];
    float *x_stored = stored_x(w, src, c->n_tokens);
    double *out = make_bound(p, "dst");
    double alpha = fabs((double)c->alpha);
    double growth = sum_growth(c->n_cols) + 3 + (bias != NULL);
    for (int64_t row = 0; row < c->n_rows; row++) {
        const int64_t w_at = c->mat * c->n_rows + row;
        const float *w_row = stored_row(w, w_at);
        double w_sum = sum_abs(w_row, c->n_cols);
        const double b = bias != NULL ? (double)bias[row] : 0;
        for (int64_t t = 0; t < c->n_tokens; t++) {
            const float *x = x_stored + t * c->n_cols;
            const float *x_plain = src + t * c->n_cols;
            rotation_error e = rotation_error_of(w, w_at, x_plain);
            int64_t at = t * c->n_rows + row;
            double sum = alpha * sum_abs_products(x, w_row, c->n_cols);
            double tiny = alpha * (w_sum + sum_abs(x, c->n_cols) +
                                      (double)c->n_cols + e.flushed) +
                          2 + (bias != NULL);
            double r = residual != NULL ? fabs((double)residual[at]) : 0;
            out[at] = UNIT_ROUNDOFF *
                          (growth * sum + alpha * e.roundings + 2 * fabs(b)) +
                      SMALLEST_NORMAL * tiny;
            out[at] += alpha * input_error_of(p->inputs, w, w_at, x);
            if (c->act > QMI_ACT_RELU) {
                const double z = before_act(p, row, x_plain, b);
                out[at] = act_error(c->act, z, out[at]) +
                          2 * UNIT_ROUNDOFF * act_size(c->act, z);
            }
            out[at] += 2 * UNIT_ROUNDOFF * r;
        }
    }
    free(x_stored);
}

static check_cost cost(const problem *p)
{
    const check_case *c = p->c;
    double n = (double)c->n_rows * (double)c->n_cols;
    uint64_t bytes = qmi_weight_bytes(&p->weights[0]->host);
    return (check_cost){
        .bytes = operand_bytes(p) + (double)bytes / (double)c->n_mats,
        .flops = 2 * n * (double)c->n_tokens,
    };
}

const check_op check_linear = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
