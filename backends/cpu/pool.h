/* SPDX-License-Identifier: Apache-2.0
 * Threads of one device.  Items of a job are claimed in shares that get
 * smaller, at last one at a time, so a thread that the system keeps waiting
 * costs nothing but its own share.  Idle
 * threads spin shortly, then sleep: a busy machine is not made busier.  Where
 * there are more threads than processors they sleep at once. */
#ifndef QCPU_POOL_H
#define QCPU_POOL_H

#include <stdint.h>

#include "error.h"

/* Processors this process may use (its affinity mask, which container limits
 * set), at least 1. */
int qcpu_usable_processors(void);

typedef struct qcpu_pool qcpu_pool;

/* Runs item `item` of a job; 0 <= thread < n_threads, and no two calls with
 * the same thread at once. */
typedef void (*qcpu_work)(void *context, int64_t item, int thread);

/* The caller of qcpu_parallel is one of the n_threads.  When the system gives
 * fewer threads, the pool works with those. */
qmoe_status qcpu_pool_open(qcpu_pool **out, int n_threads, qmi_error *err);
void qcpu_pool_close(qcpu_pool *pool);

/* All items, in any order; returns when they are done.  One caller at a time.
 * E_CANCELLED (core/base/cancel.h): some were left out. */
qmoe_status qcpu_parallel(qcpu_pool *pool, int64_t n_items, qcpu_work work,
    void *context, qmi_error *err);

#endif
