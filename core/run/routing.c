/* SPDX-License-Identifier: Apache-2.0
 * Noted and imposed routing (routing.h).  In: passes of a session.  Out: the
 * experts that each route step chose, in the order of the steps; or, when it
 * imposes, the noted ones in place of the router's.  The weights of the choices
 * stay the router's own. */
#include "routing.h"

#include "alloc.h"

static qmoe_status reserve(qmi_routing *r, size_t n, qmi_error *err)
{
    /* Doubling: the number of passes is not known. */
    size_t capacity = r->capacity != 0 ? r->capacity : 1024;
    while (capacity - r->n < n)
        capacity *= 2;
    if (capacity == r->capacity)
        return QMOE_OK;
    int32_t *grown = qmi_regrow(
        r->expert, r->n, capacity, sizeof *grown, "the routing", err);
    if (grown == NULL)
        return QMOE_E_NOMEM;
    r->expert = grown;
    r->capacity = capacity;
    return QMOE_OK;
}

static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    if (step->kind != QMI_OP_ROUTE)
        return QMOE_OK;
    qmi_routing *routing = user;
    const qmi_backend *backend = session->stage.backend;
    const qmi_view expert = {
        .buffer = session->stage.slots[step->u.route.chosen].buffer};
    const size_t count = (size_t)(pass->n_tokens * step->u.route.top_k);
    const uint64_t n_bytes = count * sizeof *routing->expert;
    if (routing->imposes) {
        /* A pass more than was recorded must not read past the end. */
        if (routing->n - routing->next < count)
            return qmi_fail(
                err, QMOE_E_INVALID, "no routing was recorded for this pass");
        const int32_t *from = routing->expert + routing->next;
        routing->next += count;
        return backend->buffer_write(
            session->stage.device, expert, from, n_bytes, err);
    }
    QMI_TRY(reserve(routing, count, err));
    QMI_TRY(backend->buffer_read(session->stage.device,
        routing->expert + routing->n, expert, n_bytes, err));
    routing->n += count;
    return QMOE_OK;
}

qmi_probe qmi_routing_probe(qmi_routing *routing)
{
    return (qmi_probe){.after = after_step, .user = routing};
}

void qmi_routing_free(qmi_routing *routing)
{
    qmi_free(routing->expert);
    *routing = (qmi_routing){0};
}
