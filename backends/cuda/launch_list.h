/* SPDX-License-Identifier: Apache-2.0
 * Launches in order, with their arguments: what launches.c records. */
#ifndef QCUDA_LAUNCH_LIST_H
#define QCUDA_LAUNCH_LIST_H

#include "driver.h"

enum {
    QCUDA_MAX_NODES = 4096, /* longer launch runs are not recorded */
    QCUDA_RECORDED_ARGS =
        320 /* bytes; kernels that take more are not recorded */
};

typedef struct qcuda_slot {
    _Alignas(16) unsigned char args[QCUDA_RECORDED_ARGS];
} qcuda_slot;

typedef struct qcuda_list {
    qdrv_node *nodes; /* args: in slots */
    qcuda_slot *slots;
    size_t n, capacity;
} qcuda_list;

/* Copies node and arguments to the end.  False: it cannot be recorded (too many,
 * too large, no memory). */
bool qcuda_list_add(qcuda_list *list, const qdrv_node *node);
void qcuda_list_free(qcuda_list *list);

/* Equal in what a graph cannot change.  Sizes of copies and fills are of it:
 * drivers may refuse others. */
bool qcuda_same_kind(const qdrv_node *a, const qdrv_node *b);
/* Of the same kind: equal in the rest, bit by bit. */
bool qcuda_same_values(const qdrv_node *a, const qdrv_node *b);

#endif
