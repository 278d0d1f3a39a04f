/* SPDX-License-Identifier: Apache-2.0
 * Writes one stack of compressed matrices as one shard (docs/format.md). */
#ifndef QMI_STACK_WRITER_H
#define QMI_STACK_WRITER_H

#include "weight.h"

/* One compressed ternary matrix, in memory. */
typedef struct qmi_ternary_matrix {
    int64_t n_rows, n_cols;
    uint8_t *codes;   /* [n_rows, n_cols] weight codes 0, 1, 2 */
    uint16_t *levels; /* bf16 [n_rows, 2] */
} qmi_ternary_matrix;

typedef struct qmi_stack_writer qmi_stack_writer;

/* Starts the shard `path` for a stack named `name` in "ternary-dict". */
qmoe_status qmi_stack_writer_create(qmi_stack_writer **out, const char *path,
    const char *name, int64_t n_mats, int64_t n_rows, int64_t n_cols,
    qmi_error *err);
void qmi_stack_writer_destroy(qmi_stack_writer *w);

/* Encodes and appends the next matrix.  n_threads only affects speed. */
qmoe_status qmi_stack_writer_add(qmi_stack_writer *w,
    const qmi_ternary_matrix *matrix, int n_threads, qmi_error *err);

/* After n_mats matrices: completes the file (qmi_st_writer_finish). */
qmoe_status qmi_stack_writer_finish(qmi_stack_writer *w, uint64_t *header_hash,
    uint64_t *file_bytes, qmi_error *err);

#endif
