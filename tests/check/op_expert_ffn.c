/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `expert_ffn`. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

/* Which experts tokens go to. */
enum { TO_ANY, TO_ONE, TO_LAST, SOME_DROPPED, TO_DRAWN_COUNT };
/* Round the experts, so that each gets the same number of tokens. */
enum { TO_EVEN = TO_DRAWN_COUNT, TO_COUNT };
static const char *const to_names[TO_COUNT] = {
    "any", "one", "last", "some-dropped", "even"};

typedef struct shape {
    int64_t n_experts, d_model, d_ff;
    int64_t n_tokens; /* 0: every entry of token_counts */
} shape;

static const shape shapes[] = {
    {1, 1, 1, 0},
    {2, 15, 17, 0},
    {3, 16, 32, 0},
    {4, 33, 31, 0},
    {16, 32, 61, 0},
    {5, 61, 15, 0},
    {33, 17, 16, 0},
    {3, 127, 33, 0},
    {4, 256, 512, 2},
    {2, 256, 512, 33},
};
static const shape qmi_bench_shapes[] = {
    {8, 768, 3072, 1}, {8, 768, 3072, 7}, {8, 768, 3072, 33}};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const value_kind x_kinds[] = {
    VALUES_RANDOM, VALUES_LARGE, VALUES_TINY, VALUES_ZEROS, VALUES_MIXED,
    VALUES_SPECIAL, /* in the residual alone: see op_linear.c */
};
static const value_kind w_kinds[] = {
    VALUES_RANDOM,
    VALUES_RANDOM,
    VALUES_STRUCTURED,
    VALUES_LARGE,
    VALUES_TINY,
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static check_case *add_case(
    case_list *list, const weight_kind *kind, const shape *s, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->weight = kind;
    c->n_mats = s->n_experts;
    c->n_cols = s->d_model;
    c->n_rows = s->d_ff;
    c->n_tokens = n_tokens;
    c->top_k = 1;
    c->residual = RESIDUAL_IN_PLACE;
    c->act = QMI_ACT_RELU;
    return c;
}

static void name_case(check_case *c)
{
    case_name(c, QMI_OP_EXPERT_FFN,
        "e%lldx%lldx%lld/t%lld/top%lld/to-%s/%s*%s/%s/%s", (long long)c->n_mats,
        (long long)c->n_cols, (long long)c->n_rows, (long long)c->n_tokens,
        (long long)c->top_k, to_names[c->mode], value_kind_name(c->x),
        value_kind_name(c->w), weight_layout_name(c->layout),
        residual_name(c->residual));
    if (c->wide)
        case_name_add(c, "/gate-%s/%s",
            c->second != NULL ? c->second->name : "none", act_name(c->act));
}

/* Formats mix where one kernel takes both: dense ones, and the same with and
 * without a rotation. */
static const weight_kind *other_kind(const weight_kind *kind, size_t i)
{
    const size_t n = weight_kind_count(), from = choose(i, 10, n);
    for (size_t k = 0; k < n; k++) {
        const weight_kind *other = weight_kind_at((from + k) % n);
        if (other != kind && ((other->dense && kind->dense) ||
                                 strcmp(other->format, kind->format) == 0))
            return other;
    }
    return kind;
}

/* A gate, mostly of the weights' own format, or another activation; up to eight
 * experts of a token. */
static void widen(check_case *c, size_t i)
{
    static const qmi_act acts[] = {QMI_ACT_SILU, QMI_ACT_SILU, QMI_ACT_RELU};
    c->act = acts[choose(i, 7, COUNT(acts))];
    c->wide = true;
    if (choose(i, 8, 8) != 0)
        c->second = choose(i, 9, 4) != 0 ? c->weight : other_kind(c->weight, i);
    if (c->n_mats >= 8 && choose(i, 11, 2) == 0)
        c->top_k = 8;
}

static void vary(check_case *c, size_t i)
{
    c->x = x_kinds[choose(i, 1, COUNT(x_kinds))];
    c->w = w_kinds[choose(i, 2, COUNT(w_kinds))];
    c->layout = (weight_layout)choose(i, 3, LAYOUT_COUNT);
    c->residual = (residual_mode)choose(i, 4, RESIDUAL_COUNT);
    c->top_k = c->n_mats > 1 ? 1 + (int64_t)choose(i, 5, 2) : 1;
    c->mode = (int)choose(i, 6, TO_DRAWN_COUNT);
    if (choose(i, 12, 3) == 0)
        widen(c, i);
    name_case(c);
}

static void list_bench(case_list *list)
{
    for (size_t k = 0; k < weight_kind_count(); k++) {
        const weight_kind *kind = weight_kind_at(k);
        if (kind->dense && k != 0)
            continue;
        for (size_t s = 0; s < COUNT(qmi_bench_shapes); s++)
            name_case(add_case(list, kind, &qmi_bench_shapes[s],
                qmi_bench_shapes[s].n_tokens));
    }
}

/* Nine tokens for each of a few experts: where tokens are packed by eight, the
 * ninth costs most.  They come first, before larger cases have made a backend's
 * work space grow, so that a write behind its end is one. */
static void list_even(case_list *list, size_t k)
{
    enum { EACH = 9, FEWEST = 5, MOST = 8 };
    const weight_kind *kind = weight_kind_at(k);
    for (int64_t e = FEWEST; e <= MOST; e++)
        for (int64_t top_k = 1; top_k <= 2; top_k++) {
            if (!weight_kind_takes(k, (size_t)(e + top_k)))
                continue;
            const shape s = {.n_experts = e, .d_model = 33, .d_ff = 61};
            check_case *c =
                add_case(list, kind, &s, (EACH * e + top_k - 1) / top_k);
            c->top_k = top_k;
            c->mode = TO_EVEN;
            if (e == MOST)
                widen(c, list->n);
            name_case(c);
        }
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        list_bench(list);
        return;
    }
    for (size_t k = 0; k < weight_kind_count(); k++)
        list_even(list, k);
    size_t n = 0;
    for (size_t k = 0; k < weight_kind_count(); k++) {
        for (size_t s = 0; s < COUNT(shapes); s++) {
            for (size_t t = 0; t < COUNT(token_counts); t++) {
                int64_t fixed = shapes[s].n_tokens;
                if ((fixed != 0 && t != 0) || !weight_kind_takes(k, s + t))
                    continue;
                vary(add_case(list, weight_kind_at(k), &shapes[s],
                         fixed != 0 ? fixed : token_counts[t]),
                    n++);
            }
        }
    }
    add_corrupt_cases(list, QMI_OP_EXPERT_FFN);
}

/* Distinct experts of token t, or -1. */
static void draw_experts(int32_t *dst, const check_case *c, int64_t t, rng *r)
{
    int32_t *order = check_calloc((size_t)c->n_mats, sizeof *order);
    rng_permutation(r, order, c->n_mats);
    for (int64_t j = 0; j < c->top_k; j++) {
        dst[j] = order[j];
        if (c->mode == TO_ONE)
            dst[j] = (int32_t)j;
        if (c->mode == TO_LAST)
            dst[j] = (int32_t)(c->n_mats - 1 - j);
        if (c->mode == TO_EVEN)
            dst[j] = (int32_t)((t * c->top_k + j) % c->n_mats);
        if (c->mode == SOME_DROPPED && rng_below(r, 3) == 0)
            dst[j] = -1;
    }
    free(order);
}

static qmoe_status add_experts(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    /* Two large factors leave no room for a third within float32. */
    value_kind first = c->w, second = c->w;
    if (c->w == VALUES_LARGE && c->x != VALUES_TINY && c->x != VALUES_ZEROS)
        second = VALUES_RANDOM;
    if (c->second != NULL &&
        (c->w == VALUES_LARGE || c->w == VALUES_STRUCTURED))
        second = VALUES_RANDOM;
    if (c->second != NULL && (c->x == VALUES_LARGE || c->x == VALUES_MIXED))
        first = second = VALUES_RANDOM;
    const weight_request wi = {
        c->weight, c->layout, first, c->n_mats, c->n_rows, c->n_cols};
    const weight_request wo = {
        c->weight, c->layout, second, c->n_mats, c->n_cols, c->n_rows};
    QMI_TRY(add_weight(p, offsetof(qmi_op, u.expert_ffn.up), &wi, r, err));
    QMI_TRY(add_weight(p, offsetof(qmi_op, u.expert_ffn.down), &wo, r, err));
    if (c->second == NULL)
        return QMOE_OK;
    const weight_request gate = {
        c->second, c->layout, VALUES_RANDOM, c->n_mats, c->n_rows, c->n_cols};
    return add_weight(p, offsetof(qmi_op, u.expert_ffn.gate), &gate, r, err);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    QMI_TRY(add_experts(p, r, err));
    p->body.u.expert_ffn.n_tokens = c->n_tokens;
    p->body.u.expert_ffn.top_k = c->top_k;
    p->body.u.expert_ffn.act = c->act;
    operand *src =
        add_floats(p, "src", VIEW_AT(expert_ffn.src), c->n_tokens, c->n_cols);
    fill_values(src->data.floats, c->n_tokens * c->n_cols, r,
        c->x == VALUES_SPECIAL ? VALUES_RANDOM : c->x);
    int32_t *expert =
        add_ints(p, "expert", VIEW_AT(expert_ffn.expert), c->n_tokens, c->top_k)
            ->data.ints;
    float *weight = add_floats(
        p, "weight", VIEW_AT(expert_ffn.weight), c->n_tokens, c->top_k)
                        ->data.floats;
    for (int64_t t = 0; t < c->n_tokens; t++)
        draw_experts(expert + t * c->top_k, c, t, r);
    for (int64_t i = 0; i < c->n_tokens * c->top_k; i++)
        weight[i] = rng_unit(r);
    add_output_with_residual(p, VIEW_AT(expert_ffn.dst),
        VIEW_AT(expert_ffn.residual), c->n_tokens, c->n_cols, r, c->x);
    return QMOE_OK;
}

/* Products of one token with all rows of an expert, and the error of each. */
static void multiply(double *h, double *error, qmi_inputs inputs,
    const gen_weight *w, int64_t expert, const float *x)
{
    const int64_t n_rows = w->host.n_rows, n_cols = w->host.n_cols;
    double growth = UNIT_ROUNDOFF * (sum_growth(n_cols) + 2);
    float *x_stored = stored_x(w, x, 1);
    double x_sum = sum_abs(x_stored, n_cols);
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t at = expert * n_rows + r;
        const float *values = w->values + at * n_cols;
        const float *row = stored_row(w, at);
        const rotation_error e = rotation_error_of(w, at, x);
        h[r] = 0;
        for (int64_t i = 0; i < n_cols; i++)
            h[r] += (double)values[i] * x[i];
        error[r] = input_error_of(inputs, w, at, x_stored) +
                   growth * sum_abs_products(row, x_stored, n_cols) +
                   UNIT_ROUNDOFF * e.roundings +
                   SMALLEST_NORMAL * (x_sum + sum_abs(row, n_cols) +
                                         (double)n_cols + e.flushed);
    }
    free(x_stored);
}

static double activate(qmi_act act, double x)
{
    return x < 0 && act != QMI_ACT_SIGMOID ? -act_size(act, x)
                                           : act_size(act, x);
}

/* Hidden values of one token in one expert, and the error of each: of
 * act(gate) times up, each with its own. */
static void hidden(
    double *h, double *error, const problem *p, int64_t expert, const float *x)
{
    const check_case *c = p->c;
    multiply(h, error, p->inputs, p->weights[0], expert, x);
    double *gate = check_calloc(2 * (size_t)c->n_rows, sizeof *gate);
    double *gate_error = gate + c->n_rows;
    if (c->second != NULL)
        multiply(gate, gate_error, p->inputs, p->weights[2], expert, x);
    for (int64_t r = 0; r < c->n_rows; r++) {
        const double z = c->second != NULL ? gate[r] : h[r];
        const double acted = activate(c->act, z);
        const double e =
            act_error(c->act, z, c->second != NULL ? gate_error[r] : error[r]) +
            2 * UNIT_ROUNDOFF * fabs(acted) * (c->act > QMI_ACT_RELU);
        if (c->second == NULL) {
            h[r] = acted;
            error[r] = e;
            continue;
        }
        error[r] = fabs(acted) * error[r] + fabs(h[r]) * e + e * error[r] +
                   2 * UNIT_ROUNDOFF * fabs(acted * h[r]) + SMALLEST_NORMAL;
        h[r] *= acted;
    }
    free(gate);
}

/* out[i] += the error of weight * F_expert(x)[i]; size[i] += its terms. */
static void add_expert(double *out, double *size, const problem *p,
    int64_t expert, double weight, const float *x, double *h, double *error)
{
    const check_case *c = p->c;
    if (expert < 0) {
        for (int64_t i = 0; i < c->n_cols; i++)
            size[i] += weight * fabs((double)x[i]);
        return;
    }
    hidden(h, error, p, expert, x);
    double growth = UNIT_ROUNDOFF * (sum_growth(c->n_rows) + 2);
    const gen_weight *w = p->weights[1];
    float *hidden_floats = check_calloc((size_t)c->n_rows, sizeof(float));
    for (int64_t r = 0; r < c->n_rows; r++)
        hidden_floats[r] = (float)h[r];
    float *stored = stored_x(w, hidden_floats, 1);
    for (int64_t i = 0; i < c->n_cols; i++) {
        const int64_t at = expert * c->n_cols + i;
        const float *values = w->values + at * c->n_rows;
        const float *row = stored_row(w, at);
        const rotation_error e = rotation_error_of(w, at, hidden_floats);
        double sum = UNIT_ROUNDOFF * e.roundings +
                     input_error_of(p->inputs, w, at, stored);
        double terms = 0;
        double tiny = (double)c->n_rows + 1 + e.flushed;
        for (int64_t r = 0; r < c->n_rows; r++) {
            const double a = fabs((double)row[r]), b = fabs((double)stored[r]);
            sum += fabs((double)values[r]) * error[r];
            terms += a * b;
            tiny += a + b;
        }
        out[i] += weight * (sum + growth * terms) +
                  SMALLEST_NORMAL * (weight * tiny + terms);
        size[i] += weight * terms;
    }
    free(stored);
    free(hidden_floats);
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    double *out = make_bound(p, "dst");
    const float *src = find_floats(p, "src"),
                *weight = find_floats(p, "weight");
    const float *residual = find_floats(p, "residual");
    const int32_t *expert = find_operand(p, "expert")->data.ints;
    double *work =
        check_calloc((size_t)(2 * c->n_rows + c->n_cols), sizeof *work);
    double *h = work, *error = h + c->n_rows, *size = error + c->n_rows;
    for (int64_t t = 0; t < c->n_tokens; t++) {
        double *o = out + t * c->n_cols;
        for (int64_t i = 0; i < c->n_cols; i++)
            size[i] = residual != NULL
                          ? fabs((double)residual[t * c->n_cols + i])
                          : 0;
        for (int64_t j = t * c->top_k; j < (t + 1) * c->top_k; j++)
            add_expert(o, size, p, expert[j], (double)weight[j],
                src + t * c->n_cols, h, error);
        for (int64_t i = 0; i < c->n_cols; i++)
            o[i] += UNIT_ROUNDOFF * ((double)c->top_k + 2) * size[i] +
                    SMALLEST_NORMAL * ((double)c->top_k + 2);
    }
    free(work);
}

static check_cost cost(const problem *p)
{
    const check_case *c = p->c;
    const int32_t *expert = find_operand(p, "expert")->data.ints;
    bool *used = check_calloc((size_t)c->n_mats, sizeof *used);
    double n_used = 0, n_products = 0;
    for (int64_t i = 0; i < c->n_tokens * c->top_k; i++) {
        if (expert[i] < 0)
            continue;
        n_used += !used[expert[i]];
        used[expert[i]] = true;
        n_products++;
    }
    free(used);
    double stack = 0;
    for (size_t i = 0; i < p->n_weights; i++)
        stack += (double)qmi_weight_bytes(&p->weights[i]->host);
    return (check_cost){
        .bytes = operand_bytes(p) + stack * n_used / (double)c->n_mats,
        .flops = 2 * (double)p->n_weights * n_products *
                 (double)(c->n_rows * c->n_cols),
    };
}

const check_op check_expert_ffn = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
