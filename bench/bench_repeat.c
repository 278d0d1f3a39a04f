/* SPDX-License-Identifier: Apache-2.0
 * The same pages of an unnamed file at many addresses (bench_repeat.h).  In:
 * one block.  Out: `count` copies of it, back to back in address space, of
 * which few are in memory.  So a device's upload can read gigabytes that the
 * host does not have.  Addresses are reserved as a whole first, then filled by
 * maps of the file. */
#include "bench_repeat.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "alloc.h"

enum { GROUP_BYTES = 16 << 20 };

static size_t common_divisor(size_t a, size_t b)
{
    while (b != 0) {
        const size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Copies that are in memory: whole pages, unless that are all of them. */
static size_t group_of(size_t n_bytes, size_t count, size_t page)
{
    /* The fewest copies that end with a page. */
    const size_t unit = page / common_divisor(n_bytes, page);
    size_t n = unit;
    while (n < count && n <= GROUP_BYTES / n_bytes)
        n += unit;
    return n < count ? n : count;
}

/* A file of `n` copies; -1: there is none. */
static int make_file(const void *data, size_t n_bytes, size_t n, size_t page)
{
    /* Rounded up: a map ends with a page. */
    const size_t size = (n * n_bytes + page - 1) / page * page;
    const int file = memfd_create("qmoe-bench", MFD_CLOEXEC);
    if (file < 0)
        return -1;
    uint8_t *view = MAP_FAILED;
    if (ftruncate(file, (off_t)size) == 0)
        view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (view == MAP_FAILED) {
        close(file);
        return -1;
    }
    for (size_t i = 0; i < n; i++)
        memcpy(view + i * n_bytes, data, n_bytes);
    /* The file keeps the bytes. */
    munmap(view, size);
    return file;
}

/* The file's `step` bytes at each multiple of them. */
static bool map_all(const qmi_bench_repeat *r, int file, size_t step)
{
    for (size_t at = 0; at < r->n_bytes; at += step) {
        const size_t left = r->n_bytes - at;
        void *wanted = (uint8_t *)r->data + at;
        if (mmap(wanted, left < step ? left : step, PROT_READ,
                MAP_SHARED | MAP_FIXED, file, 0) != wanted)
            return false;
    }
    return true;
}

qmoe_status qmi_bench_repeat_make(qmi_bench_repeat *out, const void *data,
    size_t n_bytes, size_t count, qmi_error *err)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    /* Copies per map: many maps of few bytes would be beyond the system's
     * limit. */
    const size_t group = group_of(n_bytes, count, page);
    uint64_t total = 0;
    *out = (qmi_bench_repeat){0};
    if (!qmi_mul_u64(n_bytes, count, &total) || total > SIZE_MAX / 2)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: matrices to time");
    const size_t rounded = ((size_t)total + page - 1) / page * page;
    const int file = make_file(data, n_bytes, group, page);
    if (file < 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "one block of memory cannot be mapped repeatedly");
    /* No memory, addresses alone; MAP_FIXED below then replaces only what is
     * ours. */
    void *space = mmap(NULL, rounded, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool fits = space != MAP_FAILED;
    if (fits) {
        *out = (qmi_bench_repeat){space, rounded};
        fits = map_all(out, file, group < count ? group * n_bytes : rounded);
    }
    /* The maps hold the file. */
    close(file);
    if (fits)
        return QMOE_OK;
    qmi_bench_repeat_free(out);
    return qmi_fail(err, QMOE_E_NOMEM, "out of memory: matrices to time");
}

void qmi_bench_repeat_free(qmi_bench_repeat *repeat)
{
    if (repeat->data != NULL)
        munmap(repeat->data, repeat->n_bytes);
    *repeat = (qmi_bench_repeat){0};
}
