/* SPDX-License-Identifier: Apache-2.0
 * Paging hints (read_ahead.h).  In: a matrix that is about to be used.  Out: a
 * hint to the system, or nothing; no result depends on it.  Asking for pages
 * that are there costs a walk over all of them, so the first and the last page
 * of a range are looked at before: an expert is read and dropped as a whole,
 * near enough.  Even that look costs a microsecond, a tenth of a small product;
 * so a matrix used a few seconds ago is taken to be there still. */
#include "read_ahead.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"

/* A failure counts as there: a hint is not worth an error. */
static bool is_resident(uintptr_t page, size_t page_bytes)
{
    unsigned char flags = 0;
    return mincore((void *)page, page_bytes, &flags) != 0 || (flags & 1) != 0;
}

static void will_need(qmi_part r)
{
    const long size = sysconf(_SC_PAGESIZE);
    if (size <= 0 || r.n_bytes == 0)
        return;
    const size_t page_bytes = (size_t)size;
    const uintptr_t begin = (uintptr_t)r.data / page_bytes * page_bytes;
    const uintptr_t end = (uintptr_t)r.data + r.n_bytes;
    const uintptr_t last = (end - 1) / page_bytes * page_bytes;
    /* Callers may look at errno after an operation. */
    const int kept = errno;
    if (!is_resident(begin, page_bytes) || !is_resident(last, page_bytes))
        madvise((void *)begin, end - begin, MADV_WILLNEED);
    errno = kept;
}

/* The large part of a matrix; the small ones follow by page faults. */
static qmi_part payload(const qmi_weight *w, int64_t mat)
{
    int largest = 0;
    for (int i = 1; i < w->format->n_parts; i++)
        if (w->parts[i].n_bytes > w->parts[largest].n_bytes)
            largest = i;
    return qmi_matrix_range(w, largest, mat, 1);
}

enum { STILL_THERE_SECONDS = 3 };

static int64_t now_seconds(void)
{
    return (int64_t)qmi_seconds() + 1; /* 0 = never looked */
}

/* A small table by address: a collision only costs another look. */
static bool looked_lately(qcpu_looks *looks, const void *data)
{
    const uintptr_t key = (uintptr_t)data >> 6;
    const size_t at = (size_t)((key ^ key >> 10) % QCPU_N_LOOKS);
    const int64_t now = now_seconds(), then = looks->entries[at].at;
    if (looks->entries[at].data == data && then != 0 &&
        now - then < STILL_THERE_SECONDS)
        return true;
    looks->entries[at].data = data;
    looks->entries[at].at = now;
    return false;
}

void qcpu_read_ahead(qcpu_looks *looks, const qmi_weight *w, int64_t mat)
{
    const qmi_part r = payload(w, mat);
    if (r.n_bytes != 0 && !looked_lately(looks, r.data))
        will_need(r);
}
