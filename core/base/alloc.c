/* SPDX-License-Identifier: Apache-2.0
 * In: counts, sizes, texts.  Out: zeroed blocks on cache lines, or NULL with an
 * error that says what was wanted.  Every allocation of our own comes from
 * here, so that sizes are multiplied with a check, and tests can let any
 * allocation fail. */
#include "alloc.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A cache line, and the widest vector register. */
enum { ALIGNMENT = 64 };

/* fail_after: 0 = nothing fails, else the number of allocations until one
 * does. */
static _Atomic(uint64_t) fail_after, n_allocations;

void qmi_alloc_fail_after(uint64_t n)
{
    atomic_store(&fail_after, n);
}

uint64_t qmi_alloc_count(void)
{
    return atomic_load(&n_allocations);
}

/* One allocation fails for each qmi_alloc_fail_after, also with several
 * threads: the exchange lets one of them see 1. */
static bool must_fail(void)
{
    uint64_t n = atomic_load_explicit(&fail_after, memory_order_relaxed);
    while (n != 0) {
        if (atomic_compare_exchange_weak(&fail_after, &n, n - 1))
            return n == 1;
    }
    return false;
}

bool qmi_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool qmi_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

void *qmi_calloc(size_t count, size_t size, const char *what, qmi_error *err)
{
    uint64_t n_bytes = 0;
    void *block = NULL;
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    if (qmi_mul_u64(count, size, &n_bytes) && n_bytes <= SIZE_MAX - ALIGNMENT &&
        !must_fail()) {
        /* At least one byte more than asked for: a block of nothing has an
         * address, too. */
        size_t rounded = (n_bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        block = aligned_alloc(ALIGNMENT, rounded);
        if (block != NULL)
            /* Rounding is zeroed as well: what reads a whole vector at the end
             * reads zeros. */
            memset(block, 0, rounded);
    }
    if (block == NULL)
        qmi_fail(err, QMOE_E_NOMEM, "out of memory: %s (%zu x %zu bytes)", what,
            count, size);
    return block;
}

/* Not realloc: that keeps no alignment. */
void *qmi_regrow(void *old, size_t old_count, size_t count, size_t size,
    const char *what, qmi_error *err)
{
    void *block = qmi_calloc(count, size, what, err);
    if (block == NULL)
        return NULL;
    /* The rest of a block that grew is zero. */
    size_t kept = old_count < count ? old_count : count;
    if (old != NULL && kept != 0)
        memcpy(block, old, kept * size);
    qmi_free(old);
    return block;
}

char *qmi_strdup(const char *text, qmi_error *err)
{
    size_t n = strlen(text) + 1;
    char *copy = qmi_calloc(n, 1, "a string", err);
    if (copy != NULL)
        memcpy(copy, text, n);
    return copy;
}

char *qmi_path_join(const char *directory, const char *name, qmi_error *err)
{
    size_t n = strlen(directory) + strlen(name) + 2;
    char *path = qmi_calloc(n, 1, "a path", err);
    if (path == NULL)
        return NULL;
    size_t length = strlen(directory);
    /* One slash between the two, also behind "/". */
    const char *slash = length != 0 && directory[length - 1] == '/' ? "" : "/";
    snprintf(path, n, "%s%s%s", directory, slash, name);
    return path;
}

const char *qmi_last_component(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* The C library keeps what threads free, and often cannot use an aligned block
 * again for one of the same size: matrices would pile up.  The pages go back
 * to the system here, the addresses to the C library. */
static void give_back_pages(void *block)
{
    enum { LARGE = 1 << 20 };
    /* NULL has no bytes. */
    const size_t n_bytes = malloc_usable_size(block);
    if (n_bytes < LARGE)
        return;
    /* Errors are reported after memory is freed: errno must survive. */
    const int kept_errno = errno;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Whole pages inside the block: its first and last may belong to
     * neighbours. */
    const uintptr_t begin = ((uintptr_t)block + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)block + n_bytes) / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
    errno = kept_errno;
}

void qmi_free(void *block)
{
    give_back_pages(block);
    free(block);
}
