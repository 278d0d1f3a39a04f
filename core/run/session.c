/* SPDX-License-Identifier: Apache-2.0
 * Comes in: an open model, and where it is to run.  Goes out: a session, its
 * weights bound to a device.  Everything it holds goes with it; it goes when
 * neither its caller nor a call uses it. */
#include "session.h"

#include <string.h>

#include "alloc.h"
#include "place.h"

/* ---- creation ---- */

/* All that is not an expert's, of a checkpoint that has no data before. */
static qmoe_status fetch_generated(const qmoe_model *m, qmi_error *err)
{
    if (!qmi_checkpoint_is_generated(m->checkpoint))
        return QMOE_OK;
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        if (w->role != QMOE_ROLE_EXPERTS)
            QMI_TRY(qmi_checkpoint_fetch(
                m->checkpoint, w->parts[0].data, w->parts[0].n_bytes, err));
    }
    return QMOE_OK;
}

/* Progress is reported about this often: small models load unnoticed. */
enum { LOAD_STEP_BYTES = 4 << 20 };

static qmoe_status bind_weights(
    qmoe_session *s, bool with_experts, qmi_error *err)
{
    const qmoe_model *m = s->model;
    QMI_TRY(fetch_generated(m, err));
    s->bound =
        qmi_calloc(m->n_weights, sizeof *s->bound, "weight bindings", err);
    if (s->bound == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(s->backend->weights_plan(
        s->device, m->weights, m->n_weights, with_experts, err));
    uint64_t done = 0, total = 0, reported = 0;
    for (size_t i = 0; i < m->n_weights; i++)
        if (with_experts || m->weights[i].role != QMOE_ROLE_EXPERTS)
            total += qmi_weight_bytes(&m->weights[i]);
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
static qmoe_status list_buffers(qmoe_session *s, qmi_error *err)
{
    const qmi_graph *graph = &s->model->graph;
    const char what[] = "the buffers of a session";
    s->slots = qmi_calloc(graph->n_slots + 1, sizeof *s->slots, what, err);
    s->caches = qmi_calloc(graph->n_caches + 1, sizeof *s->caches, what, err);
    s->tables = qmi_calloc(graph->n_tables + 1, sizeof *s->tables, what, err);
    return s->slots != NULL && s->caches != NULL && s->tables != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

static qmoe_status set_up(qmoe_session *s, const qmoe_session_options *options,
    bool with_experts, qmi_error *err)
{
    const qmi_device_options device_options = {
        .n_threads = s->model->hooks->n_threads,
        .expert_cache_bytes = options->expert_cache_bytes,
        .memory_bytes = options->device_memory_bytes,
        .weights = s->model->weights,
        .n_weights = with_experts ? s->model->n_weights : 0,
    };
    qmi_place place;
    QMI_TRY(qmi_place_choose(&place, qmi_context_of(s->model->hooks),
        options->backend, options->device, options->device_name, err));
    /* Their pages come from no file: given back, they would be lost. */
    if (options->expert_cache_bytes != 0 &&
        qmi_checkpoint_is_generated(s->model->checkpoint))
        return qmi_fail(err, QMOE_E_INVALID,
            "a bound on the expert cache has no effect on synthetic experts");
    QMI_TRY(qmi_place_check_bounds(&place, options->expert_cache_bytes,
        options->device_memory_bytes, err));
    s->backend = place.backend;
    s->info = place.info;
    QMI_TRY(s->backend->device_open(
        &s->device, s->info.index, &device_options, err));
    QMI_TRY(list_buffers(s, err));
    return bind_weights(s, with_experts, err);
}

static void release_buffers(qmoe_session *s)
{
    const qmi_graph *graph = &s->model->graph;
    qmi_lists_release(&s->lists, s->backend, s->device);
    qmi_shrink(s->backend, s->device, &s->top);
    for (size_t i = 1; s->slots != NULL && i <= graph->n_slots; i++)
        qmi_shrink(s->backend, s->device, &s->slots[i]);
    for (size_t i = 1; s->caches != NULL && i <= graph->n_caches; i++)
        qmi_shrink(s->backend, s->device, &s->caches[i]);
    for (size_t i = 1; s->tables != NULL && i <= graph->n_tables; i++)
        qmi_shrink(s->backend, s->device, &s->tables[i].values);
    for (size_t i = 0; i < s->n_bound; i++)
        s->backend->weight_unbind(s->device, &s->bound[i]);
}

static void destroy(qmoe_session *session)
{
    if (session->device != NULL) {
        release_buffers(session);
        session->backend->device_close(session->device);
    }
    qmi_free(session->slots);
    qmi_free(session->caches);
    qmi_free(session->tables);
    qmi_free(session->bound);
    qmi_free(session->encoder_ids);
    qmi_free(session->sequences);
    qmi_free(session->top_host);
    qmi_model_release(session->model);
    qmi_free(session);
}

qmoe_status qmi_session_create(qmoe_session **out, qmoe_model *model,
    const qmoe_session_options *options, bool with_experts)
{
    *out = NULL;
    qmi_error *err = &model->hooks->error;
    qmoe_session_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    if (known.expert_capacity < 0)
        return qmi_fail(err, QMOE_E_INVALID, "expert capacity is negative");
    qmoe_session *s = qmi_calloc(1, sizeof *s, "a session", err);
    if (s == NULL)
        return QMOE_E_NOMEM;
    s->model = model;
    qmi_model_retain(model);
    s->capacity = known.expert_capacity;
    qmoe_status status = set_up(s, &known, with_experts, err);
    if (status != QMOE_OK) {
        destroy(s);
        return status;
    }
    *out = s;
    return QMOE_OK;
}

qmoe_status qmoe_session_create(
    qmoe_session **out, qmoe_model *model, const qmoe_session_options *options)
{
    if (out != NULL)
        *out = NULL;
    QMI_TRY(qmi_model_call_begin(model, __func__, out == NULL));
    return qmi_model_call_end(
        model, qmi_session_create(out, model, options, true));
}

void qmoe_session_destroy(qmoe_session *session)
{
    if (session == NULL)
        return;
    if (session->is_running)
        session->is_destroyed = true;
    else
        destroy(session);
}

qmoe_status qmi_session_check(const qmoe_session *session, qmi_error *err)
{
    if (!session->is_destroyed)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INVALID,
        "the session was destroyed by a hook of a call that uses it");
}

qmoe_status qmi_session_call_begin(
    qmoe_session *session, const char *function, bool lacks)
{
    if (session == NULL)
        return QMOE_E_INVALID;
    if (session->is_running)
        return qmi_fail(&session->model->hooks->error, QMOE_E_INVALID,
            "%s: the session is in use by the call whose hook this is",
            function);
    QMI_TRY(qmi_model_call_begin(session->model, function, lacks));
    session->is_running = true;
    return QMOE_OK;
}

qmoe_status qmi_session_call_end(qmoe_session *session, qmoe_status status)
{
    qmoe_model *model = session->model;
    session->is_running = false;
    if (session->is_destroyed)
        destroy(session);
    return qmi_model_call_end(model, status);
}

void qmoe_session_device(const qmoe_session *session, qmoe_device_info *out)
{
    if (out != NULL)
        *out = session != NULL ? session->info : (qmoe_device_info){0};
}
