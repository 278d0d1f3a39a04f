/* SPDX-License-Identifier: Apache-2.0
 * Tensors that a file holds in another order than C order.  Each has a place in
 * reserved address space, so that its data have an address like all others, and
 * is copied there when it is fetched. */
#ifndef QMI_VIEWS_H
#define QMI_VIEWS_H

#include <pthread.h>

#include "error.h"

enum { QMI_VIEW_RANK = 8 };

typedef struct qmi_file_view {
    const uint8_t *source; /* first element, in the map */
    uint64_t source_bytes; /* from there to the end of the last element */
    uint64_t n_bytes;      /* of the elements */
    int rank, element_bytes;
    uint64_t shape[QMI_VIEW_RANK], strides[QMI_VIEW_RANK]; /* elements */
    const uint8_t **address; /* qmi_views_place puts that of its place there */
    uint8_t *target;         /* page-aligned; equal views share it */
    bool filled;             /* under the lock */
} qmi_file_view;

/* Reads a range by system calls: a disk that fails is an error, no signal. */
typedef qmoe_status qmi_view_reader(
    const void *file, const void *data, uint64_t n_bytes, qmi_error *err);

typedef struct qmi_views {
    qmi_file_view *items; /* by target once placed */
    size_t n, capacity;
    uint8_t *region;
    uint64_t region_bytes;
    pthread_mutex_t *lock; /* NULL before qmi_views_place */
    qmi_view_reader *read;
    const void *file;
    struct qmi_views *next; /* for the owner */
} qmi_views;

/* An empty list of views of `file`. */
qmoe_status qmi_views_create(
    qmi_views **out, qmi_view_reader *read, const void *file, qmi_error *err);
void qmi_views_destroy(qmi_views *views);
/* Adds a view (with everything but target and filled). */
qmoe_status qmi_views_add(
    qmi_views *views, const qmi_file_view *view, qmi_error *err);
/* Reserves the places of all views and sets *address of each; before that none
 * is fetched.  Equal views get one place.  E_FORMAT when they have more than
 * `max_bytes`. */
qmoe_status qmi_views_place(
    qmi_views *views, uint64_t max_bytes, qmi_error *err);

/* Whether an address lies in a view's place. */
bool qmi_views_hold(const qmi_views *views, const void *data);
/* Copies the view that holds `data` in order, unless it is; its file is read
 * first. */
qmoe_status qmi_views_fetch(qmi_views *views, const void *data, qmi_error *err);
/* Gives its memory back. */
void qmi_views_release(qmi_views *views, const void *data);

#endif
