/* SPDX-License-Identifier: Apache-2.0
 * In: slots, caches, tables and steps, one after the other, from an
 * architecture.  Out: the graph of a model.  Numbers that were given out stay
 * valid: lists only grow, and entry 0 stands for none, so a zeroed step names
 * nothing. */
#include "graph.h"

#include "alloc.h"

/* Room for entry number n + 1 of a list whose entry 0 stands for none.  It has
 * grown to twice its length whenever that was a power of two. */
static void *one_more(void *items, size_t n, size_t size, qmi_error *err)
{
    const size_t length = n + 1;
    if (items != NULL && (length & (length - 1)) != 0)
        return items;
    return qmi_regrow(
        items, items == NULL ? 0 : length, 2 * length, size, "the graph", err);
}

qmoe_status qmi_graph_add_slot(
    qmi_graph *graph, qmi_slot *out, qmi_slot_spec slot, qmi_error *err)
{
    void *grown =
        one_more(graph->slots, graph->n_slots, sizeof *graph->slots, err);
    if (grown == NULL)
        return QMOE_E_NOMEM;
    graph->slots = grown;
    /* The number is given out after the entry is there. */
    graph->slots[++graph->n_slots] = slot;
    *out = (qmi_slot)graph->n_slots;
    return QMOE_OK;
}

qmoe_status qmi_graph_add_slots(
    qmi_graph *graph, const qmi_slot_entry *slots, size_t n, qmi_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (slots[i].spec.width != 0)
            QMI_TRY(
                qmi_graph_add_slot(graph, slots[i].out, slots[i].spec, err));
    return QMOE_OK;
}

qmoe_status qmi_graph_add_cache(
    qmi_graph *graph, qmi_cache *out, qmi_cache_spec cache, qmi_error *err)
{
    void *grown =
        one_more(graph->caches, graph->n_caches, sizeof *graph->caches, err);
    if (grown == NULL)
        return QMOE_E_NOMEM;
    graph->caches = grown;
    graph->caches[++graph->n_caches] = cache;
    *out = (qmi_cache)graph->n_caches;
    return QMOE_OK;
}

qmoe_status qmi_graph_add_table(
    qmi_graph *graph, qmi_table *out, qmi_table_spec table, qmi_error *err)
{
    void *grown =
        one_more(graph->tables, graph->n_tables, sizeof *graph->tables, err);
    if (grown == NULL)
        return QMOE_E_NOMEM;
    graph->tables = grown;
    graph->tables[++graph->n_tables] = table;
    *out = (qmi_table)graph->n_tables;
    return QMOE_OK;
}

qmoe_status qmi_graph_add_rotary(qmi_graph *graph, qmi_rotary *out,
    const qmi_rotary_spec *rotary, qmi_error *err)
{
    void *grown = one_more(
        graph->rotaries, graph->n_rotaries, sizeof *graph->rotaries, err);
    if (grown == NULL)
        return QMOE_E_NOMEM;
    graph->rotaries = grown;
    graph->rotaries[++graph->n_rotaries] = *rotary;
    *out = (qmi_rotary)graph->n_rotaries;
    return QMOE_OK;
}

qmoe_status qmi_graph_add_step(
    qmi_graph *graph, qmi_program program, qmi_step step, qmi_error *err)
{
    qmi_steps *steps = &graph->programs[program];
    if (steps->n == steps->capacity) {
        /* Steps are many; their lists begin larger. */
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

void qmi_graph_free(qmi_graph *graph)
{
    qmi_free(graph->slots);
    qmi_free(graph->caches);
    qmi_free(graph->tables);
    qmi_free(graph->rotaries);
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        qmi_free(graph->programs[p].items);
    *graph = (qmi_graph){0};
}

/* Steps of a block are neighbours in their program; an empty range where it has
 * none. */
void qmi_steps_of_block(
    const qmi_steps *steps, int32_t block, size_t *first, size_t *last)
{
    *first = 0;
    while (*first < steps->n && steps->items[*first].block != block)
        ++*first;
    *last = *first;
    while (*last < steps->n && steps->items[*last].block == block)
        ++*last;
}
