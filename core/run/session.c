/* SPDX-License-Identifier: Apache-2.0
 * Comes in: an open model, and where it is to run.  Goes out: a session, its
 * weights bound to a device.  Everything it holds goes with it; it goes when
 * neither its caller nor a call uses it. */
#include "kv_rows.h"
#include "session.h"

#include <string.h>

#include "alloc.h"

/* with_experts: the compressor's pass runs experts by itself and binds none. */
static qmoe_status set_up(qmoe_session *s, const qmoe_session_options *options,
    bool with_experts, qmi_error *err)
{
    const qmi_device_options device_options = {
        .n_threads = s->model->hooks->n_threads,
        .expert_cache_bytes = options->expert_cache_bytes,
        .memory_bytes = options->device_memory_bytes,
        /* That pass is a calibration. */
        .exact_inputs = !with_experts,
        .weights = s->model->weights,
        .n_weights = with_experts ? s->model->n_weights : 0,
    };
    qmi_place place;
    /* The place first: what is refused below depends on it. */
    QMI_TRY(qmi_place_choose(&place, qmi_context_of(s->model->hooks),
        options->backend, options->device, options->device_name, err));
    /* Their pages come from no file: given back, they would be lost. */
    if (options->expert_cache_bytes != 0 &&
        qmi_checkpoint_is_generated(s->model->checkpoint))
        return qmi_fail(err, QMOE_E_INVALID,
            "a bound on the expert cache has no effect on synthetic experts");
    QMI_TRY(qmi_place_check_bounds(&place, options->expert_cache_bytes,
        options->device_memory_bytes, err));
    return qmi_stage_open(
        &s->stage, s->model, &place, &device_options, with_experts, err);
}

/* Accepts what was opened halfway. */
static void destroy(qmoe_session *session)
{
    if (session->stage.device != NULL)
        qmi_shrink(
            session->stage.backend, session->stage.device, &session->top);
    qmi_stage_close(&session->stage);
    qmi_free(session->encoder_ids);
    qmi_free(session->sequences);
    qmi_free(session->cached_ids);
    qmi_free(session->top_host);
    /* The model last: the stage has its weights. */
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
    /* From here on destroy can clean up. */
    s->model = model;
    qmi_model_retain(model);
    s->capacity = known.expert_capacity;
    qmoe_status status = qmi_kv_type_find(&s->kv_type, known.kv_type, err);
    if (status == QMOE_OK)
        status = set_up(s, &known, with_experts, err);
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
    /* In a hook of its own call: the call's end destroys it. */
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
    /* A hook must not start a second pass in the middle of the first. */
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
    /* Read before the session may go. */
    qmoe_model *model = session->model;
    session->is_running = false;
    if (session->is_destroyed)
        destroy(session);
    return qmi_model_call_end(model, status);
}

void qmoe_session_device(const qmoe_session *session, qmoe_device_info *out)
{
    if (out != NULL)
        *out = session != NULL ? session->stage.info : (qmoe_device_info){0};
}
