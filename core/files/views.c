/* SPDX-License-Identifier: Apache-2.0
 * Strided tensors, put in order when they are needed.  In: tensors that the
 * file holds in another order than C order.  Out: an address for each, at which
 * fetching puts their elements in order.  The places are shared anonymous
 * memory: it costs nothing before it is written, and a paging hint from
 * somebody who takes it for file memory does not lose its contents.  Equal
 * views share a place, and all of them together have no more bytes than the
 * file. */
#include "views.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "alloc.h"
#include "map.h"

qmoe_status qmi_views_create(
    qmi_views **out, qmi_view_reader *read, const void *file, qmi_error *err)
{
    *out = qmi_calloc(1, sizeof **out, "the list of strided tensors", err);
    if (*out == NULL)
        return QMOE_E_NOMEM;
    (*out)->read = read;
    (*out)->file = file;
    return QMOE_OK;
}

qmoe_status qmi_views_add(
    qmi_views *views, const qmi_file_view *view, qmi_error *err)
{
    if (views->n == views->capacity) {
        size_t capacity = views->capacity == 0 ? 16 : 2 * views->capacity;
        qmi_file_view *grown = qmi_regrow(views->items, views->n, capacity,
            sizeof *grown, "the list of strided tensors", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        views->items = grown;
        views->capacity = capacity;
    }
    views->items[views->n++] = *view;
    return QMOE_OK;
}

static int compare_counts(const uint64_t *a, const uint64_t *b, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* Any total order that puts equal views side by side. */
static int compare_views(const void *a, const void *b)
{
    const qmi_file_view *x = a, *y = b;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->element_bytes != y->element_bytes)
        return x->element_bytes < y->element_bytes ? -1 : 1;
    int order = compare_counts(x->shape, y->shape, x->rank);
    return order != 0 ? order : compare_counts(x->strides, y->strides, x->rank);
}

static uint64_t page_bytes(void)
{
    long page = sysconf(_SC_PAGESIZE);
    /* 64 KiB where the system does not say. */
    return page > 0 ? (uint64_t)page : 65536;
}

/* Offsets of the places, in `target` for now; returns false on overflow. */
static bool lay_out(qmi_views *views, uint64_t *total, uint64_t *sum)
{
    /* Pages of their own: a place is given back without touching its
     * neighbours. */
    uint64_t page = page_bytes(), next = 0;
    *sum = 0;
    for (size_t i = 0; i < views->n; i++) {
        qmi_file_view *v = &views->items[i];
        if (i != 0 && compare_views(v - 1, v) == 0)
            continue;
        if (!qmi_add_u64(*sum, v->n_bytes, sum) ||
            !qmi_add_u64(next, v->n_bytes + page - 1, &next))
            return false;
        next -= next % page;
    }
    *total = next;
    return true;
}

/* Places views in order of the list, tells the addresses, and keeps one entry
 * per place. */
static void assign(qmi_views *views)
{
    uint64_t page = page_bytes();
    uint8_t *next = views->region;
    size_t n = 0;
    /* Compared with the entry last kept: equal views are neighbours. */
    for (size_t i = 0; i < views->n; i++) {
        qmi_file_view v = views->items[i];
        bool is_new = n == 0 || compare_views(&views->items[n - 1], &v) != 0;
        if (is_new) {
            v.target = next;
            next += (v.n_bytes + page - 1) / page * page;
            views->items[n++] = v;
        }
        *v.address = views->items[n - 1].target;
    }
    views->n = n;
}

static qmoe_status make_lock(qmi_views *views, qmi_error *err)
{
    views->lock = qmi_calloc(1, sizeof *views->lock, "a lock", err);
    if (views->lock == NULL)
        return QMOE_E_NOMEM;
    if (pthread_mutex_init(views->lock, NULL) == 0)
        return QMOE_OK;
    qmi_free(views->lock);
    views->lock = NULL;
    return qmi_fail(err, QMOE_E_NOMEM, "out of memory: a lock");
}

qmoe_status qmi_views_place(
    qmi_views *views, uint64_t max_bytes, qmi_error *err)
{
    uint64_t total = 0, sum = 0;
    if (views->n == 0)
        return QMOE_OK;
    qsort(views->items, views->n, sizeof *views->items, compare_views);
    /* Before anything is reserved: the sum comes from the file. */
    if (!lay_out(views, &total, &sum) || sum > max_bytes ||
        total > SIZE_MAX / 2)
        return qmi_fail(err, QMOE_E_FORMAT,
            "its transposed or strided tensors have more bytes than the file");
    QMI_TRY(make_lock(views, err));
    /* NORESERVE: the system need not have memory for all of it at once. */
    void *region = mmap(NULL, (size_t)total, PROT_READ | PROT_WRITE,
        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED)
        return qmi_fail_errno(err, "cannot reserve memory for strided tensors");
    views->region = region;
    views->region_bytes = total;
    assign(views);
    return QMOE_OK;
}

void qmi_views_destroy(qmi_views *views)
{
    if (views->region != NULL)
        munmap(views->region, (size_t)views->region_bytes);
    if (views->lock != NULL)
        pthread_mutex_destroy(views->lock);
    qmi_free(views->lock);
    qmi_free(views->items);
    qmi_free(views);
}

/* ---- copying ---- */

bool qmi_views_hold(const qmi_views *views, const void *data)
{
    const uint8_t *p = data;
    return views->region != NULL && p >= views->region &&
           p < views->region + views->region_bytes;
}

/* The view whose place holds `data`. */
static qmi_file_view *find(const qmi_views *views, const void *data)
{
    /* The list is in order of addresses, so a binary search finds the last
     * place that begins at or before it. */
    const uint8_t *p = data;
    size_t low = 0, high = views->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (views->items[middle].target <= p)
            low = middle;
        else
            high = middle;
    }
    return &views->items[low];
}

typedef struct plane {
    uint64_t n_rows, n_cols, row_stride, col_stride; /* elements */
    size_t element_bytes;
} plane;

/* In tiles, since reading or writing has to jump. */
static void copy_plane(uint8_t *dst, const uint8_t *src, const plane *p)
{
    /* 32 x 32 elements of source and target stay in the cache. */
    enum { TILE = 32 };
    size_t e = p->element_bytes;
    for (uint64_t r0 = 0; r0 < p->n_rows; r0 += TILE)
        for (uint64_t c0 = 0; c0 < p->n_cols; c0 += TILE)
            for (uint64_t r = r0; r < p->n_rows && r < r0 + TILE; r++)
                for (uint64_t c = c0; c < p->n_cols && c < c0 + TILE; c++)
                    memcpy(dst + (r * p->n_cols + c) * e,
                        src + (r * p->row_stride + c * p->col_stride) * e, e);
}

/* Steps to the next index of the leading `rank` dimensions; false at the end.
 * *offset follows, in elements. */
static bool advance(
    const qmi_file_view *v, int rank, uint64_t *index, uint64_t *offset)
{
    /* Like an odometer, from the last of these dimensions. */
    for (int i = rank - 1; i >= 0; i--) {
        *offset += v->strides[i];
        if (++index[i] < v->shape[i])
            return true;
        *offset -= v->shape[i] * v->strides[i];
        index[i] = 0;
    }
    return false;
}

/* rank >= 1 and no dimension is empty. */
static void copy_view(const qmi_file_view *v)
{
    /* The last two dimensions are a plane; the others are stepped through. */
    int last = v->rank - 1;
    bool has_rows = v->rank > 1;
    plane p = {
        .n_rows = has_rows ? v->shape[last - 1] : 1,
        .n_cols = v->shape[last],
        .row_stride = has_rows ? v->strides[last - 1] : 0,
        .col_stride = v->strides[last],
        .element_bytes = (size_t)v->element_bytes,
    };
    uint64_t index[QMI_VIEW_RANK] = {0}, offset = 0;
    uint8_t *dst = v->target;
    do {
        copy_plane(dst, v->source + offset * p.element_bytes, &p);
        dst += p.n_rows * p.n_cols * p.element_bytes;
    } while (advance(v, has_rows ? v->rank - 2 : 0, index, &offset));
}

qmoe_status qmi_views_fetch(qmi_views *views, const void *data, qmi_error *err)
{
    qmi_file_view *v = find(views, data);
    qmoe_status status = QMOE_OK;
    /* One thread copies, others wait for it: `filled` and the copy belong
     * together. */
    pthread_mutex_lock(views->lock);
    /* The source first: a disk that fails is an error here and not a signal in
     * the copy. */
    if (!v->filled)
        status = views->read(views->file, v->source, v->source_bytes, err);
    if (status == QMOE_OK && !v->filled) {
        copy_view(v);
        v->filled = true;
    }
    pthread_mutex_unlock(views->lock);
    return status;
}

void qmi_views_release(qmi_views *views, const void *data)
{
    qmi_file_view *v = find(views, data);
    pthread_mutex_lock(views->lock);
    if (v->filled) {
        v->filled = false;
        /* Removes the pages: MADV_DONTNEED would keep those of shared
         * memory. */
        madvise(v->target, (size_t)v->n_bytes, MADV_REMOVE);
        /* What was read for it is not needed either. */
        qmi_map_done_with(v->source, v->source_bytes);
    }
    pthread_mutex_unlock(views->lock);
}
