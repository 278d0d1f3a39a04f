/* SPDX-License-Identifier: Apache-2.0
 * The lists of a pass, which say what its rows are: on the host and on the
 * device in one piece each, so that a pass uploads once.  Kept between passes;
 * they allocate only when a pass is larger than any before. */
#ifndef QMI_LISTS_H
#define QMI_LISTS_H

#include "buffers.h"

typedef enum qmi_list {
    QMI_LIST_IDS,         /* i32 [n_tokens] */
    QMI_LIST_SEQUENCE,    /* i32 [n_tokens], of each row */
    QMI_LIST_ROWS,        /* i32 [n_tokens], of the caches stored to */
    QMI_LIST_SPANS,       /* qmi_attention_span [n_spans]: over own keys */
    QMI_LIST_CROSS_SPANS, /* the same, over the encoder's */
    QMI_LIST_TURNS,       /* f32 [n_tokens, width] of each rotary embedding */
    QMI_LIST_COUNT
} qmi_list;

/* Begins as zeros. */
typedef struct qmi_lists {
    uint8_t *host;
    uint64_t capacity;               /* bytes on the host */
    uint64_t offset[QMI_LIST_COUNT]; /* of the pass at hand, on both sides */
    uint64_t n_bytes;
    qmi_growing device;
} qmi_lists;

/* Lays the lists of a pass out, all zero; n_turns: widths of all rotary
 * embeddings together. */
qmoe_status qmi_lists_begin(qmi_lists *lists, int64_t n_tokens, int64_t n_spans,
    int64_t n_turns, qmi_error *err);
/* To be filled before the upload; valid until the next begin. */
void *qmi_lists_host(const qmi_lists *lists, qmi_list list);
qmoe_status qmi_lists_upload(qmi_lists *lists, const qmi_backend *backend,
    qmi_device *device, qmi_error *err);
qmi_view qmi_lists_view(const qmi_lists *lists, qmi_list list);
void qmi_lists_release(
    qmi_lists *lists, const qmi_backend *backend, qmi_device *device);

#endif
