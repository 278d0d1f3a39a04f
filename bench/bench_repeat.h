/* SPDX-License-Identifier: Apache-2.0
 * One block of bytes many times in a row. */
#ifndef QMB_BENCH_REPEAT_H
#define QMB_BENCH_REPEAT_H

#include <stddef.h>

#include "error.h"

typedef struct qmi_bench_repeat {
    void *data; /* read-only; NULL: nothing */
    size_t n_bytes;
} qmi_bench_repeat;

/* `count` times the `n_bytes` >= 1 at `data`, back to back in address space.
 * In memory they are only as often as make up about 16 MiB and whole pages,
 * which is mapped again and again: for what is read once, to be sent to a
 * device.  A processor's caches would not be fooled, while tools that count
 * mapped pages (top) count every copy that was read.  E_NOMEM; E_UNSUPPORTED:
 * the system has no such mappings.  Release with qmi_bench_repeat_free. */
qmoe_status qmi_bench_repeat_make(qmi_bench_repeat *out, const void *data,
    size_t n_bytes, size_t count, qmi_error *err);
void qmi_bench_repeat_free(qmi_bench_repeat *repeat);

#endif
