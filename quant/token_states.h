/* SPDX-License-Identifier: Apache-2.0
 * The hidden states of all calibration tokens, one copy, in memory or in an
 * unlinked file of a work directory (then the kernel can write pages back and
 * resident memory stays bounded).  Paper section 3.2, activation offloading. */
#ifndef QMI_TOKEN_STATES_H
#define QMI_TOKEN_STATES_H

#include "error.h"

typedef struct qmi_states {
    float *data; /* [n_tokens, width] */
    int64_t n_tokens, width;
    uint64_t n_bytes;
    bool spilled; /* backed by a file */
} qmi_states;

/* `work_dir` NULL: in memory.  E_NO_SPACE: the disk cannot hold it (space is
 * reserved at once). */
qmoe_status qmi_states_create(qmi_states *out, int64_t n_tokens, int64_t width,
    const char *work_dir, qmi_error *err);
void qmi_states_destroy(qmi_states *states);
/* Lets the pages of rows [first, first + n) leave memory (spilled only). */
void qmi_states_release(const qmi_states *states, int64_t first, int64_t n);

static inline float *qmi_states_row(const qmi_states *states, int64_t token)
{
    return states->data + token * states->width;
}

#endif
