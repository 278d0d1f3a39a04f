/* SPDX-License-Identifier: Apache-2.0
 * Bounds how much of the experts stays mapped into memory while they are used
 * through a file map: the matrices used last, up to a number of bytes.
 *
 * Memory is counted in windows of 64 KiB of address space, since that is what
 * the system maps around a page fault when the file's pages are in its cache.
 * Each window counts the resident matrices that touch it; when the last one
 * goes, the window's pages are given back (MADV_DONTNEED).  So a neighbour's
 * pages are never taken, and what is counted is an upper bound of what is
 * mapped.  Using and evicting a matrix costs O(1) and its windows.
 *
 * The system's page cache keeps the file's pages as long as memory is free:
 * they are clean and may be dropped at any time, and a matrix that comes back
 * before that costs page faults but no reading. */
#ifndef QCPU_EXPERT_CACHE_H
#define QCPU_EXPERT_CACHE_H

#include "weight.h"

typedef struct qcpu_expert_cache qcpu_expert_cache;

enum { QCPU_WINDOW_BYTES = 65536, QCPU_LARGE_PAGE_BYTES = 2 << 20 };

/* Keeps at most `budget` bytes (> 0), apart from what one step needs. */
qmoe_status qcpu_expert_cache_open(
    qcpu_expert_cache **out, uint64_t budget, qmi_error *err);
void qcpu_expert_cache_close(qcpu_expert_cache *cache);

/* Takes charge of a stack whose parts lie in a file map; *stack names it.
 * Costs 16 bytes per matrix and 4 per window. */
qmoe_status qcpu_expert_cache_add(
    qcpu_expert_cache *cache, int *stack, const qmi_weight *w, qmi_error *err);
/* Forgets the stack and gives its pages back. */
void qcpu_expert_cache_remove(qcpu_expert_cache *cache, int stack);

/* A step: begin, announce every matrix it needs, evict, use them, end.  Matrices announced for
 * the first time, or evicted since, are asked for (MADV_WILLNEED); others cost
 * no system call.  Evicting gives back the matrices used longest ago until the
 * budget holds, but never one announced since `begin_step`: a step that needs
 * more than the budget gets it, and the next one pays. */
void qcpu_expert_cache_begin_step(qcpu_expert_cache *cache);
void qcpu_expert_cache_announce(
    qcpu_expert_cache *cache, int stack, int64_t mat);
void qcpu_expert_cache_evict(qcpu_expert_cache *cache);
/* After the matrices have been read: gives back what the system mapped around
 * the new ones (a block of 2 MiB where it keeps the file's pages in such). */
void qcpu_expert_cache_end_step(qcpu_expert_cache *cache);

typedef struct qcpu_expert_cache_state {
    uint64_t n_bytes;           /* counted */
    int64_t n_resident;         /* matrices */
    uint64_t n_read, n_evicted; /* since opened */
} qcpu_expert_cache_state;
qcpu_expert_cache_state qcpu_expert_cache_look(const qcpu_expert_cache *cache);
bool qcpu_expert_cache_holds(
    const qcpu_expert_cache *cache, int stack, int64_t mat);

#endif
