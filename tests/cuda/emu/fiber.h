/* SPDX-License-Identifier: Apache-2.0
 * Fibers: stacks that one thread switches between. */
#ifndef QCUDA_FIBER_H
#define QCUDA_FIBER_H

#include <stddef.h>

struct fiber;

/* `count` fibers; each, when first switched to, calls run(index), which must
 * never return.  NULL: no memory. */
fiber *fibers_create(size_t count, void (*run)(size_t index));
void fibers_destroy(fiber *all);
/* From the caller's stack to fiber `index`, until that calls fiber_leave. */
void fiber_enter(fiber *all, size_t index);
void fiber_leave(fiber *all, size_t index);
/* Forgets where the fibers were: they begin anew. */
void fibers_reset(fiber *all);

#endif
