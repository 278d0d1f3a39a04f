/* SPDX-License-Identifier: Apache-2.0
 * The router's choices of a run, noted and then imposed on others, so that two
 * runs give every expert the same tokens (benchmarks). */
#ifndef QMI_ROUTING_H
#define QMI_ROUTING_H

#include "probe.h"

typedef struct qmi_routing {
    int32_t *expert; /* [n], in the order of the passes */
    size_t n, capacity;
    size_t *end; /* [n_calls], of each router's choices in `expert` */
    size_t n_calls, call_capacity;
    bool imposes; /* false: notes */
    size_t next;  /* imposing: the next one to write */
} qmi_routing;

/* A probe that appends the choices of each router, or overwrites them by the
 * next of the notes; E_INVALID when there are fewer.  Both wait for the
 * device. */
qmi_probe qmi_routing_probe(qmi_routing *routing);
void qmi_routing_free(qmi_routing *routing);

#endif
