/* SPDX-License-Identifier: Apache-2.0
 * The hidden states of all calibration tokens, one copy, in memory or in an
 * unlinked file of a work directory.  The file is read and written, never
 * mapped, so that memory does not grow with the tokens.  Paper section 3.2,
 * activation offloading. */
#ifndef QMI_TOKEN_STATES_H
#define QMI_TOKEN_STATES_H

#include "error.h"

typedef struct qmi_states {
    float *data;          /* [n_tokens, width]; NULL: in the file */
    int fd;               /* when there is no `data` */
    const char *work_dir; /* of the file, the caller's; for errors */
    int64_t n_tokens, width;
} qmi_states;

/* `work_dir` NULL: in memory.  Otherwise it is made if it is missing, and goes
 * again with the file.  E_NO_SPACE: the disk cannot hold it (space is reserved
 * at once). */
qmoe_status qmi_states_create(qmi_states *out, int64_t n_tokens, int64_t width,
    const char *work_dir, qmi_error *err);
void qmi_states_destroy(qmi_states *states);

/* Rows [first, first + n), f32 [n, width].  Different rows may be taken and
 * put by several threads at a time. */
qmoe_status qmi_states_read(const qmi_states *states, float *dst, int64_t first,
    int64_t n, qmi_error *err);
qmoe_status qmi_states_write(const qmi_states *states, const float *src,
    int64_t first, int64_t n, qmi_error *err);

#endif
