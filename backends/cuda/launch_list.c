/* SPDX-License-Identifier: Apache-2.0
 * In: launches with arguments that may change behind the caller's back.  Out: a
 * list that owns copies of them.  Every node's args point into the list's own
 * slots, so comparing two lists touches nothing of the caller's. */
#include "launch_list.h"

#include <string.h>

#include "alloc.h"

/* Both arrays grow, or the list stays as it was: capacity is set last. */
static bool list_grow(qcuda_list *l)
{
    const size_t capacity = l->capacity != 0 ? 2 * l->capacity : 64;
    qdrv_node *nodes = qmi_regrow(
        l->nodes, l->capacity, capacity, sizeof *nodes, "launches", NULL);
    if (nodes == NULL)
        return false;
    l->nodes = nodes;
    qcuda_slot *slots = qmi_regrow(
        l->slots, l->capacity, capacity, sizeof *slots, "launches", NULL);
    if (slots == NULL)
        return false;
    l->slots = slots;
    l->capacity = capacity;
    /* The slots have moved. */
    for (size_t i = 0; i < capacity; i++)
        nodes[i].args = slots[i].args;
    return true;
}

bool qcuda_list_add(qcuda_list *l, const qdrv_node *node)
{
    const size_t n_bytes = node->kernel != NULL ? node->kernel->args_bytes : 0;
    /* Too long or too large is no error: the caller issues directly. */
    if (n_bytes > QCUDA_RECORDED_ARGS || l->n == QCUDA_MAX_NODES ||
        (l->n == l->capacity && !list_grow(l)))
        return false;
    void *args = l->slots[l->n].args;
    if (n_bytes != 0)
        memcpy(args, node->args, n_bytes);
    l->nodes[l->n] = *node;
    l->nodes[l->n++].args = args;
    return true;
}

void qcuda_list_free(qcuda_list *l)
{
    qmi_free(l->nodes);
    qmi_free(l->slots);
    *l = (qcuda_list){0};
}

/* A copy and a fill differ in whether there is a source. */
bool qcuda_same_kind(const qdrv_node *a, const qdrv_node *b)
{
    return a->kernel == b->kernel && a->n_bytes == b->n_bytes &&
           (a->src == NULL) == (b->src == NULL);
}

bool qcuda_same_values(const qdrv_node *a, const qdrv_node *b)
{
    /* Arguments have no padding (args.h), so bytes decide. */
    const qcuda_grid *g = &a->grid, *h = &b->grid;
    /* Copies and fills have no arguments: their addresses are compared. */
    if (a->kernel == NULL)
        return a->dst == b->dst && a->src == b->src;
    return g->x == h->x && g->y == h->y && g->z == h->z &&
           g->threads == h->threads && g->shared_bytes == h->shared_bytes &&
           memcmp(a->args, b->args, a->kernel->args_bytes) == 0;
}
