/* SPDX-License-Identifier: Apache-2.0
 * In: steps as a session runs them.  Out: copies of the values that their
 * backward passes read.  A value is copied right after the step that wrote it,
 * if a step before its next overwriting needs it. */
#include "tape.h"

#include "alloc.h"

enum { MOST_READ = 3 };

/* Slots whose values the backward pass of a step needs: [n]. */
static int needs_of(const qmi_step *s, qmi_slot slots[MOST_READ])
{
    int n = 0;
    switch (s->kind) {
    case QMI_OP_RMSNORM:
    case QMI_OP_KV_STORE: /* for the attention that reads the cache */
    case QMI_OP_ROUTE:
        slots[n++] = s->src;
        break;
    case QMI_OP_GLU:
        slots[n++] = s->src;
        slots[n++] = s->u.glu.gate;
        break;
    case QMI_OP_ATTENTION:
        slots[n++] = s->src;
        if (s->u.attention.k != QMI_NONE)
            slots[n++] = s->u.attention.k;
        if (s->u.attention.v != QMI_NONE)
            slots[n++] = s->u.attention.v;
        break;
    case QMI_OP_EXPERT_FFN:
        slots[n++] = s->src;
        slots[n++] = s->u.expert_ffn.chosen;
        slots[n++] = s->u.expert_ffn.scale;
        break;
    default: /* their gradients follow from those of their results */
        break;
    }
    return n;
}

static bool reads(const qmi_step *s, qmi_slot slot)
{
    qmi_slot slots[MOST_READ];
    const int n = needs_of(s, slots);
    for (int i = 0; i < n; i++)
        if (slots[i] == slot)
            return true;
    return false;
}

static bool writes(const qmi_step *s, qmi_slot slot)
{
    return s->dst == slot ||
           (s->kind == QMI_OP_ROUTE && s->u.route.chosen == slot);
}

/* Whether what step i wrote to a slot is needed. */
static bool is_needed(const qmi_tape *t, size_t i, qmi_slot slot)
{
    const qmi_step *step = &t->steps->items[i];
    /* Slopes of some activations follow from their results; a choice is
     * needed to undo it. */
    if (step->kind == QMI_OP_LINEAR && step->u.linear.act != QMI_ACT_NONE)
        return true;
    if (step->kind == QMI_OP_ROUTE && slot == step->u.route.chosen)
        return true;
    for (size_t j = i + 1; j < t->steps->n; j++) {
        const qmi_step *later = &t->steps->items[j];
        if (later->block != step->block)
            return false;
        if (reads(later, slot))
            return true;
        if (writes(later, slot))
            return false;
    }
    return false;
}

static void *add(
    qmi_tape *t, int64_t step, qmi_slot slot, int64_t n_tokens, qmi_error *err)
{
    if (t->n == t->capacity) {
        const size_t more = t->capacity + 16;
        qmi_tape_entry *grown = qmi_regrow(t->entries, t->capacity, more,
            sizeof *grown, "values of steps", err);
        if (grown == NULL)
            return NULL;
        t->entries = grown;
        t->capacity = more;
    }
    const size_t width = (size_t)t->graph->slots[slot].width;
    void *values = qmi_calloc(
        (size_t)n_tokens, width * sizeof(float), "values of steps", err);
    if (values != NULL)
        t->entries[t->n++] =
            (qmi_tape_entry){.step = step, .slot = slot, .values = values};
    return values;
}

static qmoe_status keep(qmi_tape *t, qmoe_session *session, size_t step,
    qmi_slot slot, int64_t n_tokens, qmi_error *err)
{
    const qmi_stage *stage = &session->stage;
    if (slot == QMI_NONE || !is_needed(t, step, slot))
        return QMOE_OK;
    void *values = add(t, (int64_t)step, slot, n_tokens, err);
    if (values == NULL)
        return QMOE_E_NOMEM;
    return stage->backend->buffer_read(stage->device, values,
        (qmi_view){.buffer = stage->slots[slot].buffer},
        (uint64_t)(n_tokens * t->graph->slots[slot].width) * sizeof(float),
        err);
}

static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    qmi_tape *t = user;
    /* Another program's: it prepares this one. */
    if (step < t->steps->items || step >= t->steps->items + t->steps->n)
        return QMOE_OK;
    const size_t i = (size_t)(step - t->steps->items);
    if (step->kind == QMI_OP_ROUTE)
        QMI_TRY(keep(t, session, i, step->u.route.chosen, pass->n_tokens, err));
    return keep(t, session, i, step->dst, pass->n_tokens, err);
}

void qmi_tape_begin(qmi_tape *out, const qmi_graph *graph, qmi_program program)
{
    *out = (qmi_tape){.graph = graph,
        .steps = &graph->programs[program],
        .probe = {.after = after_step, .user = out}};
}

void qmi_tape_clear(qmi_tape *tape)
{
    for (size_t i = 0; i < tape->n; i++)
        qmi_free(tape->entries[i].values);
    tape->n = 0;
}

void qmi_tape_end(qmi_tape *tape)
{
    qmi_tape_clear(tape);
    qmi_free(tape->entries);
    *tape = (qmi_tape){0};
}

float *qmi_tape_add_input(qmi_tape *tape, qmi_slot slot, size_t first,
    int64_t n_tokens, qmi_error *err)
{
    return add(tape, (int64_t)first - 1, slot, n_tokens, err);
}

const void *qmi_tape_read(const qmi_tape *tape, qmi_slot slot, size_t step)
{
    const qmi_tape_entry *best = NULL;
    for (size_t i = 0; i < tape->n; i++) {
        const qmi_tape_entry *e = &tape->entries[i];
        if (e->slot == slot && e->step < (int64_t)step &&
            (best == NULL || e->step > best->step))
            best = e;
    }
    return best != NULL ? best->values : NULL;
}

const void *qmi_tape_written(const qmi_tape *tape, qmi_slot slot, size_t step)
{
    return qmi_tape_read(tape, slot, step + 1);
}
