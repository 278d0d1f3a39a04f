/* SPDX-License-Identifier: Apache-2.0
 * Ways to be wrong at any operation: each computes the right answer, then
 * breaks one rule.  They know the operands from the problem being run. */
#include "selftest.h"

#include <math.h>
#include <stdlib.h>

const problem *mutant_problem;

qmoe_status run_reference(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    size_t n;
    return qmi_backend_reference()
        ->variants(NULL, op->kind, &n)
        ->run(NULL, op, err);
}

/* ---- places in the running operation ---- */

typedef struct array {
    float *at;
    int64_t n, n_cols;
    const double *bound;
    const float *want;
} array;

static array array_of(const qmi_op *op, const operand *o)
{
    qmi_view view;
    memcpy(&view, (const char *)op + o->view_at[0], sizeof view);
    return (array){qmi_host_pointer(view), o->n_rows * o->n_cols, o->n_cols,
        o->bound, o->want.floats};
}

/* The last output (route's weights, not its numbers). */
static array output_of(const qmi_op *op)
{
    const operand *found = NULL;
    for (size_t i = 0; i < mutant_problem->n_operands; i++)
        if (mutant_problem->operands[i].is_output)
            found = &mutant_problem->operands[i];
    return array_of(op, found);
}

static const operand *first_input(const problem *p)
{
    for (size_t i = 0; i < p->n_operands; i++)
        if (!p->operands[i].is_output)
            return &p->operands[i];
    return NULL;
}

static bool has_input(const problem *p)
{
    return first_input(p) != NULL;
}

static bool has_weight(const problem *p)
{
    return p->n_weights != 0;
}

static bool has_finite(const problem *p)
{
    const operand *found = NULL;
    for (size_t i = 0; i < p->n_operands; i++)
        if (p->operands[i].is_output)
            found = &p->operands[i];
    for (int64_t i = 0; i < found->n_rows * found->n_cols; i++)
        if (isfinite(found->want.floats[i]))
            return true;
    return false;
}

static void flip_lowest_bit(float *at)
{
    uint32_t bits;
    memcpy(&bits, at, sizeof bits);
    bits ^= 1;
    memcpy(at, &bits, sizeof bits);
}

/* An element that is a finite number; there is one (has_finite). */
static int64_t finite_element(const array *a)
{
    int64_t i = a->n / 2;
    while (!isfinite(a->want[i]))
        i = (i + 1) % a->n;
    return i;
}

/* ---- the ways ---- */

static qmoe_status no_op(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)op;
    (void)err;
    return QMOE_OK;
}

static qmoe_status dropped_tail(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    array y = output_of(op);
    float before = y.at[y.n - 1];
    QMI_TRY(run_reference(device, op, err));
    y.at[y.n - 1] = before;
    return QMOE_OK;
}

static qmoe_status over_run(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    array y = output_of(op);
    y.at[y.n] = 0;
    return QMOE_OK;
}

/* A whole tile too many, past the ordinary guard. */
static qmoe_status far_over_run(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    array y = output_of(op);
    y.at[y.n + 200] = 0;
    return QMOE_OK;
}

static qmoe_status under_run(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    output_of(op).at[-1] = 0;
    return QMOE_OK;
}

static qmoe_status accumulate(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    array y = output_of(op);
    float *before = check_calloc((size_t)y.n, sizeof *before);
    memcpy(before, y.at, (size_t)y.n * sizeof *before);
    qmoe_status status = run_reference(device, op, err);
    for (int64_t i = 0; i < y.n; i++)
        y.at[i] += before[i];
    free(before);
    return status;
}

static qmoe_status clobber_input(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    flip_lowest_bit(array_of(op, first_input(mutant_problem)).at);
    return QMOE_OK;
}

/* Undone before the second pass, which is then right. */
static qmoe_status clobber_weight(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    static bool flipped;
    const qmi_weight *w = &mutant_problem->weights[0]->host;
    const void *data = w->mats != NULL ? w->mats[0] : w->parts[0].data;
    uint8_t *byte = (uint8_t *)(uintptr_t)data;
    if (flipped)
        *byte ^= 1;
    QMI_TRY(run_reference(device, op, err));
    if (!flipped)
        *byte ^= 1;
    flipped = !flipped;
    return QMOE_OK;
}

static qmoe_status swapped_rows(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    array y = output_of(op);
    int64_t distance = y.n > y.n_cols ? y.n_cols : 1;
    for (int64_t i = 0; i < distance && i + distance < y.n; i++) {
        float first = y.at[i];
        y.at[i] = y.at[i + distance];
        y.at[i + distance] = first;
    }
    return QMOE_OK;
}

static qmoe_status nondeterministic(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    static int n_runs;
    QMI_TRY(run_reference(device, op, err));
    if (n_runs++ % 2 != 0)
        flip_lowest_bit(output_of(op).at);
    return QMOE_OK;
}

static qmoe_status thread_dependent(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    if (toy_threads(device) > 1)
        flip_lowest_bit(output_of(op).at);
    return QMOE_OK;
}

static qmoe_status wrong_status(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    return qmi_fail(err, QMOE_E_DEVICE, "broken on purpose");
}

/* One element, just outside of its bound. */
static qmoe_status off_by_tolerance(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    array y = output_of(op);
    int64_t i = finite_element(&y);
    if (y.bound == NULL || y.bound[i] == 0)
        flip_lowest_bit(&y.at[i]);
    else
        y.at[i] = (float)((double)y.at[i] + 1.5 * y.bound[i]);
    return QMOE_OK;
}

/* Every element, well inside of its bound: this one is good. */
static qmoe_status within_tolerance(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    QMI_TRY(run_reference(device, op, err));
    array y = output_of(op);
    for (int64_t i = 0; i < y.n && y.bound != NULL; i++) {
        double step = (i % 2 == 0 ? 0.45 : -0.45) * y.bound[i];
        if (isfinite(step) && step != 0)
            y.at[i] = (float)((double)y.at[i] + step);
    }
    return QMOE_OK;
}

static qmoe_status set_element(
    qmi_device *device, const qmi_op *op, qmi_error *err, float value)
{
    QMI_TRY(run_reference(device, op, err));
    array y = output_of(op);
    int64_t i = finite_element(&y);
    y.at[i] = value;
    return QMOE_OK;
}

static qmoe_status nan_element(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return set_element(device, op, err, NAN);
}

static qmoe_status infinite_element(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return set_element(device, op, err, INFINITY);
}

/* What lies behind an input gets into the result, if only times zero. */
static qmoe_status reads_past_input(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    array x = array_of(op, first_input(mutant_problem));
    float beyond = 0 * x.at[x.n];
    QMI_TRY(run_reference(device, op, err));
    output_of(op).at[0] += beyond;
    return QMOE_OK;
}

/* Takes for granted that results are 16-byte aligned. */
static qmoe_status aligned_only(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    array y = output_of(op);
    QMI_TRY(run_reference(device, op, err));
    uintptr_t down = (uintptr_t)y.at % 16;
    if (down != 0)
        memmove((char *)y.at - down, y.at, (size_t)y.n * sizeof *y.at);
    return QMOE_OK;
}

static const mutant mutants[] = {
    {"good", -1, NULL, run_reference, ALWAYS, 0, 0},
    {"within-tolerance", -1, NULL, within_tolerance, ALWAYS, 0, 0},
    {"no-op", -1, NULL, no_op, SOMETIMES, CHECK_VALUE, CHECK_REPEAT},
    {"dropped-tail", -1, NULL, dropped_tail, SOMETIMES, CHECK_VALUE,
        CHECK_REPEAT},
    {"over-run", -1, NULL, over_run, ALWAYS, CHECK_GUARD, 0},
    {"far-over-run", -1, NULL, far_over_run, SOMETIMES, CHECK_GUARD,
        CHECK_INPUT},
    {"under-run", -1, NULL, under_run, ALWAYS, CHECK_GUARD, 0},
    {"accumulate", -1, NULL, accumulate, SOMETIMES, CHECK_VALUE, CHECK_REPEAT},
    {"clobber-input", -1, has_input, clobber_input, ALWAYS, CHECK_INPUT, 0},
    {"clobber-weight", -1, has_weight, clobber_weight, ALWAYS, CHECK_INPUT, 0},
    {"swapped-rows", -1, NULL, swapped_rows, SOMETIMES, CHECK_VALUE, 0},
    {"nondeterministic", -1, NULL, nondeterministic, SOMETIMES, CHECK_REPEAT,
        CHECK_VALUE},
    {"thread-dependent", -1, NULL, thread_dependent, ALWAYS, CHECK_REPEAT,
        CHECK_VALUE},
    {"wrong-status", -1, NULL, wrong_status, ALWAYS, CHECK_STATUS, 0},
    {"off-by-tolerance", -1, has_finite, off_by_tolerance, ALWAYS, CHECK_VALUE,
        0},
    {"nan-element", -1, has_finite, nan_element, ALWAYS, CHECK_VALUE, 0},
    {"infinite-element", -1, has_finite, infinite_element, ALWAYS, CHECK_VALUE,
        0},
    {"reads-past-input", -1, has_input, reads_past_input, SOMETIMES,
        CHECK_VALUE, CHECK_REPEAT},
    {"aligned-only", -1, NULL, aligned_only, ALWAYS, CHECK_GUARD,
        CHECK_VALUE | CHECK_REPEAT},
};

const mutant *mutant_at(size_t index)
{
    return index < sizeof mutants / sizeof *mutants ? &mutants[index] : NULL;
}
