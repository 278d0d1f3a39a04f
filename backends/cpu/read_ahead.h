/* SPDX-License-Identifier: Apache-2.0
 * Paging hints for weights used from a memory map. */
#ifndef QCPU_READ_AHEAD_H
#define QCPU_READ_AHEAD_H

#include "weight.h"

/* When which matrix was last looked at; zeroed at first. */
enum { QCPU_N_LOOKS = 1024 };
typedef struct qcpu_looks {
    struct {
        const void *data;
        int64_t at; /* seconds */
    } entries[QCPU_N_LOOKS];
} qcpu_looks;

/* Asks the system to read the matrix in, unless it seems to be in memory or
 * was looked at a moment ago. */
void qcpu_read_ahead(qcpu_looks *looks, const qmi_weight *w, int64_t mat);

#endif
