/* SPDX-License-Identifier: Apache-2.0
 * What operations build their problems from: case lists, operands, weights,
 * and the sums their bounds are made of (docs/numerics.md). */
#include "check.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const check_op *check_op_of(qmi_op_kind kind)
{
    static const check_op *const ops[QMI_OP_COUNT] = {
#define X(name, member, text) &check_##member,
        QMI_OP_MAP(X)
#undef X
    };
    return ops[kind];
}

/* ---- cases ---- */

const char *residual_name(residual_mode mode)
{
    static const char *const names[RESIDUAL_COUNT] = {
        "no-residual", "residual", "in-place"};
    return names[mode];
}

check_case *case_add(case_list *list)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity != 0 ? 2 * list->capacity : 64;
        check_case *grown = check_calloc(capacity, sizeof *grown);
        if (list->n != 0)
            memcpy(grown, list->cases, list->n * sizeof *grown);
        free(list->cases);
        list->cases = grown;
        list->capacity = capacity;
    }
    check_case *c = &list->cases[list->n++];
    *c = (check_case){.n_mats = 1, .alpha = 1};
    return c;
}

void case_list_free(case_list *list)
{
    free(list->cases);
    *list = (case_list){0};
}

void case_name(check_case *c, qmi_op_kind kind, const char *format, ...)
{
    const char *weight = c->weight != NULL ? c->weight->name : NULL;
    int n = snprintf(c->name, sizeof c->name, "%s/%s%s", qmi_op_name(kind),
        weight != NULL ? weight : "", weight != NULL ? "/" : "");
    va_list args;
    va_start(args, format);
    vsnprintf(c->name + n, sizeof c->name - (size_t)n, format, args);
    va_end(args);
}

void case_name_add(check_case *c, const char *format, ...)
{
    const size_t n = strlen(c->name);
    va_list args;
    va_start(args, format);
    vsnprintf(c->name + n, sizeof c->name - n, format, args);
    va_end(args);
}

const char *act_name(qmi_act act)
{
    static const char *const names[QMI_ACT_COUNT] = {
        "linear", "relu", "silu", "sigmoid"};
    return names[act];
}

const weight_kind *choose_dense(size_t index, unsigned salt)
{
    const weight_kind *dense[8];
    size_t n = 0;
    for (size_t k = 0; k < weight_kind_count(); k++)
        if (weight_kind_at(k)->dense && n < sizeof dense / sizeof *dense)
            dense[n++] = weight_kind_at(k);
    return dense[choose(index, salt, n)];
}

static bool has_corrupt_case(const case_list *list, const weight_kind *kind)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->cases[i].corrupt && list->cases[i].weight == kind)
            return true;
    return false;
}

void add_corrupt_cases(case_list *list, qmi_op_kind op)
{
    for (size_t i = 0, n = list->n; i < n; i++) {
        const weight_kind *kind = list->cases[i].weight;
        if (kind->corrupt == NULL || has_corrupt_case(list, kind))
            continue;
        check_case copy = list->cases[i];
        copy.corrupt = true;
        copy.mat = 0; /* the broken one */
        copy.mode = 0;
        case_name(&copy, op, "corrupt");
        *case_add(list) = copy;
    }
}

/* ---- operands ---- */

static operand *add_operand(problem *p, const char *name, int64_t view_at,
    int64_t n_rows, int64_t n_cols)
{
    if (p->n_operands == MAX_OPERANDS) {
        fprintf(stderr, "%s: error: too many operands\n",
            program_invocation_short_name);
        exit(2);
    }
    operand *o = &p->operands[p->n_operands++];
    *o = (operand){
        .name = name,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .view_at = {view_at, NO_VIEW},
    };
    return o;
}

operand *add_floats(problem *p, const char *name, int64_t view_at,
    int64_t n_rows, int64_t n_cols)
{
    operand *o = add_operand(p, name, view_at, n_rows, n_cols);
    o->data.bytes = check_calloc((size_t)(n_rows * n_cols), sizeof(float));
    return o;
}

operand *add_ints(problem *p, const char *name, int64_t view_at, int64_t n_rows,
    int64_t n_cols)
{
    operand *o = add_floats(p, name, view_at, n_rows, n_cols);
    o->is_integer = true;
    return o;
}

operand *add_output(problem *p, const char *name, int64_t view_at,
    int64_t n_rows, int64_t n_cols)
{
    operand *o = add_operand(p, name, view_at, n_rows, n_cols);
    o->is_output = true;
    return o;
}

void add_output_with_residual(problem *p, int64_t dst_at, int64_t residual_at,
    int64_t n_rows, int64_t n_cols, rng *r, value_kind kind)
{
    residual_mode mode = p->c->residual;
    operand *dst = add_output(p, "dst", dst_at, n_rows, n_cols);
    if (mode == RESIDUAL_NONE)
        return;
    operand *residual = dst;
    if (mode == RESIDUAL_APART) {
        residual = add_floats(p, "residual", residual_at, n_rows, n_cols);
    } else {
        dst->view_at[1] = residual_at;
        dst->data.bytes =
            check_calloc((size_t)(n_rows * n_cols), sizeof(float));
    }
    fill_values(residual->data.floats, n_rows * n_cols, r, kind);
}

qmoe_status add_weight(problem *p, size_t place, const weight_request *request,
    rng *r, qmi_error *err)
{
    gen_weight *w = weight_create(request, r, err);
    if (w == NULL)
        return err->status != QMOE_OK ? err->status : QMOE_E_INTERNAL;
    if (p->c->corrupt && p->n_weights == 0)
        request->kind->corrupt(w);
    p->weights[p->n_weights] = w;
    p->weight_at[p->n_weights] = place;
    p->weight_hash[p->n_weights] = weight_hash(w);
    p->n_weights++;
    return QMOE_OK;
}

qmoe_status add_vector(problem *p, size_t place, int64_t n, value_kind values,
    rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    const weight_request request = {c->second, c->layout, values, 1, 1, n};
    if (c->second == NULL)
        return QMOE_OK;
    return add_weight(p, place, &request, r, err);
}

const float *find_vector(const problem *p)
{
    return p->c->second != NULL ? p->weights[p->n_weights - 1]->values : NULL;
}

const operand *find_operand(const problem *p, const char *name)
{
    for (size_t i = 0; i < p->n_operands; i++)
        if (strcmp(p->operands[i].name, name) == 0)
            return &p->operands[i];
    return NULL;
}

const float *find_floats(const problem *p, const char *name)
{
    const operand *o = find_operand(p, name);
    if (o == NULL && strcmp(name, "residual") == 0 &&
        p->c->residual == RESIDUAL_IN_PLACE)
        o = find_operand(p, "dst");
    return o != NULL ? o->data.floats : NULL;
}

double *make_bound(problem *p, const char *name)
{
    operand *o = (operand *)find_operand(p, name);
    free(o->bound);
    o->bound = check_calloc((size_t)(o->n_rows * o->n_cols), sizeof(double));
    return o->bound;
}

double operand_bytes(const problem *p)
{
    double n_bytes = 0;
    for (size_t i = 0; i < p->n_operands; i++)
        n_bytes +=
            4.0 * (double)p->operands[i].n_rows * (double)p->operands[i].n_cols;
    return n_bytes;
}

void problem_destroy(problem *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; i < p->n_operands; i++) {
        free(p->operands[i].data.bytes);
        free(p->operands[i].want.bytes);
        free(p->operands[i].bound);
    }
    for (size_t i = 0; i < p->n_weights; i++)
        weight_destroy(p->weights[i]);
    free(p);
}

/* ---- bounds ---- */

double sum_growth(int64_t n)
{
    double worst = (double)n, likely = 6 * sqrt((double)n);
    return 1 + (worst < likely ? worst : likely);
}

double act_size(qmi_act act, double x)
{
    const double sigmoid = 1 / (1 + exp(-x));
    switch (act) {
    case QMI_ACT_RELU:
        return fmax(x, 0);
    case QMI_ACT_SILU:
        return fabs(x) * sigmoid;
    case QMI_ACT_SIGMOID:
        return sigmoid;
    case QMI_ACT_NONE:
    case QMI_ACT_COUNT:
        break;
    }
    return fabs(x);
}

double act_error(qmi_act act, double x, double error)
{
    if (act != QMI_ACT_SILU && act != QMI_ACT_SIGMOID)
        return error;
    /* The exponential's relative error counts by how much of the denominator it
     * is; a sum and a division.  Where it overflows at least 2^-128 is lost per
     * unit of x. */
    const double rest = 1 / (1 + exp(x));
    const double own =
        UNIT_ROUNDOFF * act_size(act, x) * (rest * (2 * fabs(x) + 4) + 4);
    const double flushed = SMALLEST_NORMAL * (fmin(fabs(x), 128) + 2);
    /* Steepest: silu below 1.1, sigmoid 1/4. */
    return own + flushed + (act == QMI_ACT_SILU ? 1.1 : 0.25) * error;
}

double sum_abs(const float *a, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)a[i]);
    return sum;
}

double sum_abs_products(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)a[i] * b[i]);
    return sum;
}
