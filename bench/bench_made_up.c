/* SPDX-License-Identifier: Apache-2.0
 * Stacks of random codes for a synthetic model (bench_made_up.h).  In: a model
 * of generated weights and a compressed format.  Out: the same model with
 * random experts in that format.  Compressing them would take long and change
 * no speed.  Weights other than experts are the model's own and are not
 * copied. */
#include "bench_made_up.h"

#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "available_memory.h"
#include "cancel.h"
#include "rotation.h"

/* Per weight, of random codes in a format of variable size. */
static const double most_bits = 9.0 / 8;

/* The system promises memory that it does not have and ends the program when
 * it is used; so what a first matrix takes is added up before. */
static qmoe_status check_memory(const qmoe_model *model,
    const qmi_format *format, qmi_bench_copies copies, qmi_error *err)
{
    uint64_t n_bytes = 0;
    const uint64_t available = qmi_available_memory();
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        /* Aliased copies are one in memory. */
        const int64_t n_mats = copies == QMI_BENCH_ALIASED ? 1 : w->n_mats;
        if (w->role == QMOE_ROLE_EXPERTS)
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
    s->weight.role = QMOE_ROLE_EXPERTS;
    /* Kernels rotate their inputs as for a compressed model. */
    s->weight.rotation = format->rotates ? QMI_ROTATION_DEFAULT : 0;
    *w = s->weight;
    return QMOE_OK;
}

qmoe_status qmi_bench_made_up_make(qmi_bench_made_up *out,
    const qmoe_model *model, const char *format_name, qmi_bench_copies copies,
    qmi_error *err)
{
    const size_t n = model->n_weights;
    const qmi_format *format = qmi_format_find(format_name);
    *out = (qmi_bench_made_up){0};
    if (format == NULL || format->dense)
        return qmi_fail(err, QMOE_E_INVALID, "'%s' is not a compressed format",
            format_name);
    QMI_TRY(check_memory(model, format, copies, err));
    out->model = *model;
    out->model.expert_format = format->name;
    out->stacks = qmi_calloc(n, sizeof *out->stacks, "stacks", err);
    out->model.weights =
        qmi_calloc(n, sizeof *model->weights, "the weight table", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (out->stacks != NULL && out->model.weights != NULL) {
        memcpy(out->model.weights, model->weights, n * sizeof *model->weights);
        status = QMOE_OK;
    }
    for (size_t i = 0; i < n && status == QMOE_OK; i++)
        if (model->weights[i].role == QMOE_ROLE_EXPERTS)
            status = make_stack(out, i, format, copies, err);
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
