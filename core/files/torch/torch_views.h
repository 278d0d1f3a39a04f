/* SPDX-License-Identifier: Apache-2.0
 * Tensors that a file holds in another order than C order.  Each has a place in
 * reserved address space, so that its data have an address like all others, and
 * is copied there when it is fetched. */
#ifndef QMI_TORCH_VIEWS_H
#define QMI_TORCH_VIEWS_H

#include <pthread.h>

#include "tensor_file.h"

typedef struct qmi_view {
    const uint8_t *source; /* first element, in the map */
    uint64_t source_bytes; /* from there to the end of the last element */
    uint64_t n_bytes;      /* of the elements */
    int rank, element_bytes;
    uint64_t shape[QMI_MAX_RANK], strides[QMI_MAX_RANK]; /* elements */
    size_t tensor;                                       /* whose it is */
    uint8_t *target; /* page-aligned; equal views share it */
    bool filled;     /* under the lock */
} qmi_view;

typedef struct qmi_views {
    qmi_view *items; /* by target once placed */
    size_t n, capacity;
    uint8_t *region;
    uint64_t region_bytes;
    pthread_mutex_t *lock; /* NULL before qmi_views_place */
} qmi_views;

/* Adds a view (with everything but target and filled). */
qmoe_status qmi_views_add(
    qmi_views *views, const qmi_view *view, qmi_error *err);
/* Reserves the places of all views and sets `data` of their tensors.  Equal
 * views get one place.  E_FORMAT when they have more than `max_bytes`. */
qmoe_status qmi_views_place(
    qmi_views *views, qmi_tensor *tensors, uint64_t max_bytes, qmi_error *err);
void qmi_views_free(qmi_views *views);

/* Whether an address lies in a view's place. */
bool qmi_views_hold(const qmi_views *views, const void *data);
/* Copies the view that holds `data` in order, unless it is; its file is read
 * by system calls first. */
qmoe_status qmi_views_fetch(qmi_views *views, const void *data,
    const qmi_tensor_file *file, qmi_error *err);
/* Gives its memory back. */
void qmi_views_release(qmi_views *views, const void *data);

#endif
