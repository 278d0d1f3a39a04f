/* SPDX-License-Identifier: Apache-2.0
 * Comes in: steps, from an architecture.  Goes out: lists of them, and the
 * widths of what they read and write. */
#include "model.h"

#include "alloc.h"

qmoe_status qmi_steps_add(qmi_steps *steps, qmi_step step, qmi_error *err)
{
    if (steps->n == steps->capacity) {
        size_t capacity = steps->capacity == 0 ? 64 : 2 * steps->capacity;
        qmi_step *items = qmi_regrow(
            steps->items, steps->n, capacity, sizeof *items, "the graph", err);
        if (items == NULL)
            return QMOE_E_NOMEM;
        steps->items = items;
        steps->capacity = capacity;
    }
    steps->items[steps->n++] = step;
    return QMOE_OK;
}

int64_t qmi_slot_width(const qmi_config *c, qmi_slot slot)
{
    switch (slot) {
    case QMI_SLOT_Q:
    case QMI_SLOT_K:
    case QMI_SLOT_V:
    case QMI_SLOT_ATTENDED:
        return c->n_heads * c->d_kv;
    case QMI_SLOT_HIDDEN:
        return c->d_ff;
    case QMI_SLOT_ROUTER_LOGITS:
        return c->n_experts;
    case QMI_SLOT_LOGITS:
        return c->vocab_size;
    default:
        return c->d_model;
    }
}
