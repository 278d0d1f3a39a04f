/* SPDX-License-Identifier: Apache-2.0
 * Comes in: a model and a device.  Goes out: the device opened, the model's
 * weights bound to it, and lists of buffers that have no memory until a step
 * needs it.  Whatever was opened is closed again, also after a failure half
 * way.  Each step of a program belongs to the stage of one block. */
#include "stage.h"

#include "alloc.h"

/* All that is not an expert's, of a checkpoint that has no data before. */
static qmoe_status fetch_generated(const qmoe_model *m, qmi_error *err)
{
    if (!qmi_checkpoint_is_generated(m->checkpoint))
        return QMOE_OK;
    for (size_t i = 0; i < m->n_weights; i++) {
        /* Experts are made when they are used; the rest is used by every
         * pass.  What benchmarks put in their place is there. */
        const qmi_weight *w = &m->weights[i];
        if (w->role != QMOE_ROLE_EXPERTS && w->format->dense && w->mats == NULL)
            QMI_TRY(qmi_checkpoint_fetch(
                m->checkpoint, w->parts[0].data, w->parts[0].n_bytes, err));
    }
    return QMOE_OK;
}

/* Progress is reported about this often: small models load unnoticed. */
enum { LOAD_STEP_BYTES = 4 << 20 };

static qmoe_status bind_weights(qmi_stage *s, bool with_experts, qmi_error *err)
{
    const qmoe_model *m = s->model;
    QMI_TRY(fetch_generated(m, err));
    s->bound =
        qmi_calloc(m->n_weights, sizeof *s->bound, "weight bindings", err);
    if (s->bound == NULL)
        return QMOE_E_NOMEM;
    /* Before the first upload: what does not fit is refused at once. */
    QMI_TRY(s->backend->weights_plan(
        s->device, m->weights, m->n_weights, with_experts, err));
    /* Bytes, so that the progress moves evenly. */
    uint64_t done = 0, total = 0, reported = 0;
    for (size_t i = 0; i < m->n_weights; i++)
        if (with_experts || m->weights[i].role != QMOE_ROLE_EXPERTS)
            total += qmi_weight_bytes(&m->weights[i]);
    /* n_bound counts what is bound, so that a failure unbinds that much; what
     * was left out is zero, which unbinding accepts. */
    for (; s->n_bound < m->n_weights; s->n_bound++) {
        const qmi_weight *w = &m->weights[s->n_bound];
        if (w->role == QMOE_ROLE_EXPERTS && !with_experts)
            continue;
        if (done - reported >= LOAD_STEP_BYTES) {
            QMI_TRY(qmi_progress(m->hooks, "load", w->name, done, total));
            reported = done;
        }
        QMI_TRY(
            s->backend->weight_bind(&s->bound[s->n_bound], s->device, w, err));
        done += qmi_weight_bytes(w);
    }
    return QMOE_OK;
}

/* Without memory until they are used. */
static qmoe_status list_buffers(qmi_stage *s, qmi_error *err)
{
    const qmi_graph *graph = &s->model->graph;
    const char what[] = "the buffers of a stage";
    /* Entry 0 stands for none. */
    s->slots = qmi_calloc(graph->n_slots + 1, sizeof *s->slots, what, err);
    s->caches = qmi_calloc(graph->n_caches + 1, sizeof *s->caches, what, err);
    s->tables = qmi_calloc(graph->n_tables + 1, sizeof *s->tables, what, err);
    return s->slots != NULL && s->caches != NULL && s->tables != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

qmoe_status qmi_stage_open(qmi_stage *out, const qmoe_model *model,
    const qmi_place *place, const qmi_device_options *options,
    bool with_experts, qmi_error *err)
{
    *out = (qmi_stage){.model = model,
        .backend = place->backend,
        .info = place->info,
        .end_block = model->n_blocks};
    QMI_TRY(place->backend->device_open(
        &out->device, place->info.index, options, err));
    QMI_TRY(list_buffers(out, err));
    return bind_weights(out, with_experts, err);
}

/* The block that step i goes with. */
static int32_t owner_of(const qmi_steps *steps, size_t i)
{
    /* To the nearest step of a block: forward from those before the blocks, back
     * from those behind. */
    const bool before = steps->items[i].block == QMI_BEFORE_BLOCKS;
    while (i < steps->n && steps->items[i].block < 0)
        i = before ? i + 1 : i - 1;
    /* Past either end: a program without blocks goes with the model's first. */
    return i < steps->n ? steps->items[i].block : 0;
}

void qmi_stage_steps(
    const qmi_stage *stage, const qmi_steps *steps, size_t *first, size_t *last)
{
    size_t i = 0;
    while (i < steps->n && !qmi_stage_has_block(stage, owner_of(steps, i)))
        i++;
    *first = i;
    while (i < steps->n && qmi_stage_has_block(stage, owner_of(steps, i)))
        i++;
    *last = i;
}

/* Buffers and weights before their device. */
static void release_buffers(qmi_stage *s)
{
    const qmi_graph *graph = &s->model->graph;
    qmi_lists_release(&s->lists, s->backend, s->device);
    for (size_t i = 1; s->slots != NULL && i <= graph->n_slots; i++)
        qmi_shrink(s->backend, s->device, &s->slots[i]);
    for (size_t i = 1; s->caches != NULL && i <= graph->n_caches; i++)
        qmi_shrink(s->backend, s->device, &s->caches[i]);
    for (size_t i = 1; s->tables != NULL && i <= graph->n_tables; i++)
        qmi_shrink(s->backend, s->device, &s->tables[i].values);
    for (size_t i = 0; i < s->n_bound; i++)
        s->backend->weight_unbind(s->device, &s->bound[i]);
}

void qmi_stage_close(qmi_stage *stage)
{
    if (stage->device != NULL) {
        release_buffers(stage);
        stage->backend->device_close(stage->device);
    }
    qmi_free(stage->slots);
    qmi_free(stage->caches);
    qmi_free(stage->tables);
    qmi_free(stage->bound);
    *stage = (qmi_stage){0};
}
