/* SPDX-License-Identifier: Apache-2.0
 * Noted and imposed routing (routing.h).  In: passes of a session.  Out: the
 * experts that each route step chose, in the order of the steps; or, when it
 * imposes, the noted ones in place of the router's.  The weights of the choices
 * stay the router's own. */
#include "routing.h"

#include "alloc.h"

/* Doubling: the number of passes is not known. */
static size_t grown_capacity(size_t capacity, size_t n_used, size_t n)
{
    if (capacity == 0)
        capacity = 1024;
    while (capacity - n_used < n)
        capacity *= 2;
    return capacity;
}

/* Room for the choices of one more call. */
static qmoe_status reserve(qmi_routing *r, size_t n, qmi_error *err)
{
    const size_t capacity = grown_capacity(r->capacity, r->n, n);
    const size_t calls = grown_capacity(r->call_capacity, r->n_calls, 1);
    if (capacity != r->capacity) {
        int32_t *expert = qmi_regrow(
            r->expert, r->n, capacity, sizeof *expert, "the routing", err);
        if (expert == NULL)
            return QMOE_E_NOMEM;
        r->expert = expert;
        r->capacity = capacity;
    }
    if (calls != r->call_capacity) {
        size_t *end = qmi_regrow(
            r->end, r->n_calls, calls, sizeof *end, "the routing", err);
        if (end == NULL)
            return QMOE_E_NOMEM;
        r->end = end;
        r->call_capacity = calls;
    }
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
    routing->end[routing->n_calls++] = routing->n;
    return QMOE_OK;
}

qmi_probe qmi_routing_probe(qmi_routing *routing)
{
    return (qmi_probe){.after = after_step, .user = routing};
}

void qmi_routing_free(qmi_routing *routing)
{
    qmi_free(routing->expert);
    qmi_free(routing->end);
    *routing = (qmi_routing){0};
}
