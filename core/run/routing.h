/* SPDX-License-Identifier: Apache-2.0
 * The router's choices of a run, noted and then imposed on others, so that two
 * runs give every expert the same tokens (benchmarks). */
#ifndef QMI_ROUTING_H
#define QMI_ROUTING_H

#include "backend.h"

typedef struct qmi_routing {
    int32_t *expert; /* [n], in the order of the passes */
    size_t n, capacity;
    bool imposes; /* false: notes */
    size_t next;  /* imposing: the next one to write */
} qmi_routing;

/* After a ROUTE operation that wrote i32 [n] at `expert`: appends them, or
 * overwrites them by the next n of the notes; E_INVALID when there are fewer.
 * Both wait for the device. */
qmoe_status qmi_routing_pass(qmi_routing *routing, const qmi_backend *backend,
    qmi_device *device, qmi_view expert, int64_t n, qmi_error *err);
void qmi_routing_free(qmi_routing *routing);

#endif
