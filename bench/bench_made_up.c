/* SPDX-License-Identifier: Apache-2.0
 * Stacks of random codes for a synthetic model (bench_made_up.h).  In: a model
 * of generated weights and compressed formats.  Out: the same model with random
 * experts, and other matrices, in these formats.  Compressing them would take
 * long and change no speed.  All else is the model's own and is not copied. */
#include "bench_made_up.h"

#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "available_memory.h"
#include "cancel.h"
#include "rotation.h"

/* Per weight, of random codes in a format of variable size. */
static const double most_bits = 9.0 / 8;

/* NULL: the weight stays. */
static const qmi_format *format_for(
    const qmi_weight *w, const qmi_bench_formats *formats)
{
    if (w->role == QMOE_ROLE_EXPERTS)
        return formats->experts;
    return qmi_model_may_compress(w->role, w->n_rows) ? formats->others : NULL;
}

/* The system promises memory that it does not have and ends the program when
 * it is used; so what a first matrix takes is added up before. */
static qmoe_status check_memory(const qmoe_model *model,
    const qmi_bench_formats *formats, qmi_bench_copies copies, qmi_error *err)
{
    uint64_t n_bytes = 0;
    const uint64_t available = qmi_available_memory();
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        /* Aliased copies are one in memory. */
        const int64_t n_mats = copies == QMI_BENCH_ALIASED ? 1 : w->n_mats;
        const qmi_format *format = format_for(w, formats);
        if (format != NULL)
            n_bytes +=
                qmi_stack_size(format, n_mats, w->n_rows, w->n_cols, most_bits);
        else
            n_bytes += w->parts[0].n_bytes;
    }
    if (available == 0 || n_bytes < available)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_NOMEM,
        "the synthetic model takes %" PRIu64 " MB, %" PRIu64
        " MB are available; ask for fewer experts or blocks",
        n_bytes >> 20, available >> 20);
}

static qmoe_status make_stack(qmi_bench_made_up *m, size_t index,
    const qmi_format *format, qmi_bench_copies copies, qmi_error *err)
{
    qmi_weight *w = &m->model.weights[index];
    qmi_bench_stack *s = &m->stacks[index];
    /* Making a stack takes a while; the user may not want to wait. */
    QMI_TRY(qmi_check_cancel(err));
    QMI_TRY(qmi_bench_stack_make_count(
        s, format, w->n_rows, w->n_cols, w->n_mats, copies, err));
    s->weight.name = w->name;
    s->weight.role = w->role;
    /* Kernels rotate their inputs as for a compressed model. */
    s->weight.rotation = format->rotates ? QMI_ROTATION_DEFAULT : 0;
    *w = s->weight;
    return QMOE_OK;
}

qmoe_status qmi_bench_format_find(
    const qmi_format **out, const char *name, qmi_error *err)
{
    *out = name != NULL ? qmi_format_find(name) : NULL;
    if (name == NULL || (*out != NULL && !(*out)->dense))
        return QMOE_OK;
    return qmi_fail(
        err, QMOE_E_INVALID, "'%s' is not a compressed format", name);
}

qmoe_status qmi_bench_made_up_make(qmi_bench_made_up *out,
    const qmoe_model *model, const qmi_bench_formats *formats,
    qmi_bench_copies copies, qmi_error *err)
{
    const size_t n = model->n_weights;
    *out = (qmi_bench_made_up){0};
    QMI_TRY(check_memory(model, formats, copies, err));
    out->model = *model;
    out->model.expert_format = formats->experts->name;
    out->stacks = qmi_calloc(n, sizeof *out->stacks, "stacks", err);
    out->model.weights =
        qmi_calloc(n, sizeof *model->weights, "the weight table", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (out->stacks != NULL && out->model.weights != NULL) {
        memcpy(out->model.weights, model->weights, n * sizeof *model->weights);
        status = QMOE_OK;
    }
    for (size_t i = 0; i < n && status == QMOE_OK; i++) {
        const qmi_format *format = format_for(&model->weights[i], formats);
        if (format != NULL)
            status = make_stack(out, i, format, copies, err);
    }
    if (status != QMOE_OK)
        qmi_bench_made_up_free(out);
    return status;
}

void qmi_bench_made_up_free(qmi_bench_made_up *made_up)
{
    for (size_t i = 0; made_up->stacks != NULL && i < made_up->model.n_weights;
         i++)
        qmi_bench_stack_free(&made_up->stacks[i]);
    qmi_free(made_up->stacks);
    qmi_free(made_up->model.weights);
    *made_up = (qmi_bench_made_up){0};
}
