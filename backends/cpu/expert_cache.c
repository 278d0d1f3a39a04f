/* SPDX-License-Identifier: Apache-2.0
 * The list of resident matrices and the windows they touch (expert_cache.h).
 * In: the matrices each step needs, in order.  Out: hints to the system on
 * which pages to read and which to drop; no result depends on them.  Nodes of
 * all stacks lie in one array and are linked by number into a ring: node 0
 * stands between the newest, its `older`, and the oldest, its `newer`.  A
 * matrix is in the ring if and only if it counts in its windows. */
#include "expert_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "alloc.h"

typedef struct node {
    int32_t newer, older; /* a matrix that is not resident is its own */
    uint32_t stack : 31;
    uint32_t is_new : 1; /* not resident before this step */
    uint32_t step;       /* of its last announcement */
} node;

/* A part of a stack, or a matrix of a stack whose matrices lie apart: its
 * windows, and the resident matrices on each. */
typedef struct region {
    uintptr_t first;      /* window of the first byte */
    uintptr_t begin, end; /* the pages that hold it */
    uint32_t *users;
} region;

typedef struct stack {
    const qmi_weight *w; /* NULL: removed; its nodes wait for another */
    int64_t n_mats;
    int32_t first;   /* node of matrix 0 */
    region *regions; /* a part's, or a matrix's when w->mats is set */
    size_t n_regions;
} stack;

struct qcpu_expert_cache {
    uint64_t budget;
    uint32_t step;
    qcpu_expert_cache_state state;
    uintptr_t page_bytes, window_bytes;
    node *nodes;
    int32_t n_nodes;
    stack *stacks;
    int n_stacks;
    region **sorted; /* of all stacks, by address */
    size_t n_sorted;
};

/* ---- opening ---- */

qmoe_status qcpu_expert_cache_open(
    qcpu_expert_cache **out, uint64_t budget, qmi_error *err)
{
    const long page = sysconf(_SC_PAGESIZE);
    const uintptr_t window = QCPU_WINDOW_BYTES;
    qcpu_expert_cache *cache =
        qmi_calloc(1, sizeof *cache, "an expert cache", err);
    *out = NULL;
    if (cache == NULL)
        return QMOE_E_NOMEM;
    cache->budget = budget;
    /* A system with larger pages gives them back as a whole. */
    cache->page_bytes = page > 0 ? (uintptr_t)page : window;
    cache->window_bytes =
        cache->page_bytes > window ? cache->page_bytes : window;
    cache->nodes = qmi_calloc(1, sizeof(node), "an expert cache", err);
    if (cache->nodes == NULL) {
        qmi_free(cache);
        return QMOE_E_NOMEM;
    }
    /* Node 0, zeroed, is a ring of itself. */
    cache->n_nodes = 1;
    *out = cache;
    return QMOE_OK;
}

static void free_regions(stack *s)
{
    for (size_t i = 0; i < s->n_regions; i++)
        qmi_free(s->regions[i].users);
    qmi_free(s->regions);
    s->regions = NULL;
    s->n_regions = 0;
}

void qcpu_expert_cache_close(qcpu_expert_cache *cache)
{
    if (cache == NULL)
        return;
    for (int i = 0; i < cache->n_stacks; i++)
        free_regions(&cache->stacks[i]);
    qmi_free(cache->sorted);
    qmi_free(cache->stacks);
    qmi_free(cache->nodes);
    qmi_free(cache);
}

/* A hint that fails changes nothing but speed and memory. */
static void advise(uintptr_t begin, uintptr_t end, int advice)
{
    const int kept = errno;
    madvise((void *)begin, end - begin, advice);
    errno = kept;
}

/* ---- stacks ---- */

/* A removed stack of as many matrices, or a new one with nodes of its own. */
static stack *free_stack(
    qcpu_expert_cache *cache, int64_t n_mats, qmi_error *err)
{
    for (int i = 0; i < cache->n_stacks; i++)
        if (cache->stacks[i].w == NULL && cache->stacks[i].n_mats == n_mats)
            return &cache->stacks[i];
    if (n_mats > INT32_MAX - cache->n_nodes) {
        qmi_fail(err, QMOE_E_UNSUPPORTED, "cpu: too many experts to bound");
        return NULL;
    }
    const int n = cache->n_stacks;
    const int32_t first = cache->n_nodes;
    stack *stacks = qmi_regrow(cache->stacks, (size_t)n, (size_t)n + 1,
        sizeof *stacks, "an expert cache", err);
    if (stacks == NULL)
        return NULL;
    cache->stacks = stacks;
    node *nodes = qmi_regrow(cache->nodes, (size_t)first,
        (size_t)(first + n_mats), sizeof *nodes, "an expert cache", err);
    if (nodes == NULL)
        return NULL;
    cache->nodes = nodes;
    cache->n_nodes += (int32_t)n_mats;
    cache->n_stacks++;
    /* step - 1: not announced in this step, so free to go. */
    for (int32_t i = first; i < cache->n_nodes; i++)
        nodes[i] = (node){i, i, (uint32_t)n & INT32_MAX, 0, cache->step - 1};
    stacks[n] = (stack){.n_mats = n_mats, .first = first};
    return &stacks[n];
}

/* The last page of a part belongs to the map too: a map ends with a page. */
static qmoe_status open_region(
    const qcpu_expert_cache *cache, region *r, qmi_part range, qmi_error *err)
{
    const uintptr_t begin = (uintptr_t)range.data;
    const uintptr_t end = begin + (uintptr_t)range.n_bytes;
    const uintptr_t page = cache->page_bytes, window = cache->window_bytes;
    r->first = begin / window;
    r->begin = begin / page * page;
    r->end = (end + page - 1) / page * page;
    r->users = qmi_calloc((size_t)(end / window - r->first + 1),
        sizeof *r->users, "an expert cache", err);
    /* A large page would come and go as a whole. */
    advise(r->begin, r->end, MADV_NOHUGEPAGE);
    return r->users == NULL ? QMOE_E_NOMEM : QMOE_OK;
}

/* n_regions counts what is complete, so that a failure frees that much. */
static qmoe_status open_regions(const qcpu_expert_cache *cache, stack *s,
    const qmi_weight *w, qmi_error *err)
{
    const bool apart = w->mats != NULL;
    const size_t n = apart ? (size_t)w->n_mats : (size_t)w->format->n_parts;
    s->regions = qmi_calloc(n, sizeof *s->regions, "an expert cache", err);
    if (s->regions == NULL)
        return QMOE_E_NOMEM;
    for (s->n_regions = 0; s->n_regions < n; s->n_regions++) {
        const qmi_part range =
            apart ? qmi_matrix_range(w, 0, (int64_t)s->n_regions, 1)
                  : w->parts[s->n_regions];
        QMI_TRY(open_region(cache, &s->regions[s->n_regions], range, err));
    }
    return QMOE_OK;
}

static int by_address(const void *a, const void *b)
{
    const region *const *x = a, *const *y = b;
    return ((*x)->begin > (*y)->begin) - ((*x)->begin < (*y)->begin);
}

/* On failure the old order stays, of which no region has gone. */
static qmoe_status sort_regions(qcpu_expert_cache *cache, qmi_error *err)
{
    size_t n = 0;
    for (int i = 0; i < cache->n_stacks; i++)
        n += cache->stacks[i].n_regions;
    region **sorted = qmi_calloc(n, sizeof(region *), "an expert cache", err);
    if (sorted == NULL)
        return QMOE_E_NOMEM;
    qmi_free(cache->sorted);
    cache->sorted = sorted;
    cache->n_sorted = n;
    for (int i = 0; i < cache->n_stacks; i++)
        for (size_t k = 0; k < cache->stacks[i].n_regions; k++)
            *sorted++ = &cache->stacks[i].regions[k];
    qsort(cache->sorted, n, sizeof *cache->sorted, by_address);
    return QMOE_OK;
}

qmoe_status qcpu_expert_cache_add(
    qcpu_expert_cache *cache, int *number, const qmi_weight *w, qmi_error *err)
{
    /* The array of stacks may move; `sorted` points to regions, which have
     * memory of their own. */
    stack *s = free_stack(cache, w->n_mats, err);
    *number = -1;
    if (s == NULL)
        return err != NULL && err->status != QMOE_OK ? err->status
                                                     : QMOE_E_NOMEM;
    qmoe_status status = open_regions(cache, s, w, err);
    /* A stack counts only when all is there: `w` is set last. */
    if (status == QMOE_OK)
        status = sort_regions(cache, err);
    if (status != QMOE_OK) {
        free_regions(s);
        return status;
    }
    s->w = w;
    *number = (int)(s - cache->stacks);
    return QMOE_OK;
}

/* ---- the list ---- */

static bool is_listed(const qcpu_expert_cache *cache, int32_t at)
{
    return cache->nodes[at].newer != at;
}

static void take_out(qcpu_expert_cache *cache, int32_t at)
{
    node *nodes = cache->nodes, *n = &nodes[at];
    nodes[n->newer].older = n->older;
    nodes[n->older].newer = n->newer;
    n->newer = n->older = at;
}

static void put_first(qcpu_expert_cache *cache, int32_t at)
{
    /* Behind node 0 on the newest side. */
    node *nodes = cache->nodes;
    nodes[at].newer = 0;
    nodes[at].older = nodes[0].older;
    nodes[nodes[0].older].newer = at;
    nodes[0].older = at;
}

/* ---- memory ---- */

/* Gives back [begin, end) rounded out, as far as the region reaches. */
static void give_back(const region *r, uintptr_t begin, uintptr_t end)
{
    begin = begin > r->begin ? begin : r->begin;
    end = end < r->end ? end : r->end;
    if (begin < end)
        advise(begin, end, MADV_DONTNEED);
}

/* Counts the windows of a range in, or out and gives back those that nobody
 * else touches.  Returns the bytes counted. */
static uint64_t count_windows(const qcpu_expert_cache *cache, const region *r,
    uintptr_t begin, uintptr_t end, bool in)
{
    const uintptr_t window = cache->window_bytes;
    const uintptr_t last = (end - 1) / window;
    /* Windows to drop are given back in runs: one system call for neighbours
     * that all go. */
    uintptr_t dropped = begin / window; /* first of a run to give back */
    uint64_t n_bytes = 0;
    /* `end` is not empty: callers leave out empty ranges. */
    for (uintptr_t i = begin / window; i <= last; i++) {
        uint32_t *users = &r->users[i - r->first];
        const bool counts = in ? (*users)++ == 0 : --*users == 0;
        n_bytes += counts ? window : 0;
        if (in || counts)
            continue;
        give_back(r, dropped * window, i * window);
        dropped = i + 1;
    }
    if (!in)
        give_back(r, dropped * window, (last + 1) * window);
    return n_bytes;
}

/* The region of part `part` of matrix `mat`. */
static region *region_of(const stack *s, int part, int64_t mat)
{
    return &s->regions[s->w->mats != NULL ? (size_t)mat : (size_t)part];
}

/* All parts of a matrix, in or out.  In also asks for the pages, so that
 * reading begins for all matrices of a step before the first is used. */
static void count(
    qcpu_expert_cache *cache, const stack *s, int64_t mat, bool in)
{
    const uintptr_t page = cache->page_bytes;
    for (int i = 0; i < s->w->format->n_parts; i++) {
        const qmi_part range = qmi_matrix_range(s->w, i, mat, 1);
        const uintptr_t begin = (uintptr_t)range.data;
        const uintptr_t end = begin + (uintptr_t)range.n_bytes;
        if (range.n_bytes == 0)
            continue;
        const uint64_t n =
            count_windows(cache, region_of(s, i, mat), begin, end, in);
        cache->state.n_bytes += in ? n : -n;
        if (in)
            advise(begin / page * page, end, MADV_WILLNEED);
    }
}

static void drop(qcpu_expert_cache *cache, int32_t at)
{
    const stack *s = &cache->stacks[cache->nodes[at].stack];
    take_out(cache, at);
    count(cache, s, at - s->first, false);
    cache->state.n_resident--;
}

/* Gives back the part of a region in [begin, end) that no resident matrix
 * touches. */
static void trim_region(const qcpu_expert_cache *cache, const region *r,
    uintptr_t begin, uintptr_t end)
{
    const uintptr_t window = cache->window_bytes;
    begin = begin > r->begin ? begin : r->begin;
    end = end < r->end ? end : r->end;
    uintptr_t unused = begin;
    /* Runs between used windows, so that no used page is touched. */
    for (uintptr_t i = begin / window; i <= (end - 1) / window; i++) {
        if (r->users[i - r->first] == 0)
            continue;
        if (unused < i * window)
            give_back(r, unused, i * window);
        unused = (i + 1) * window;
    }
    if (unused < end)
        give_back(r, unused, end);
}

/* Where the system keeps a file's pages in large blocks, the first fault maps
 * a whole block, neighbours included; once part of it is mapped, faults map
 * single windows. */
static void trim_around(
    const qcpu_expert_cache *cache, uintptr_t begin, uintptr_t end)
{
    const uintptr_t large = QCPU_LARGE_PAGE_BYTES;
    size_t low = 0, high = cache->n_sorted;
    begin = begin / large * large;
    end = (end + large - 1) / large * large;
    /* Bisection: regions are sorted by address. */
    while (low < high) { /* the first region that ends behind `begin` */
        const size_t middle = low + (high - low) / 2;
        if (cache->sorted[middle]->end > begin)
            high = middle;
        else
            low = middle + 1;
    }
    for (; low < cache->n_sorted && cache->sorted[low]->begin < end; low++)
        trim_region(cache, cache->sorted[low], begin, end);
}

static void trim_matrix(
    const qcpu_expert_cache *cache, const stack *s, int64_t mat)
{
    for (int i = 0; i < s->w->format->n_parts; i++) {
        const qmi_part range = qmi_matrix_range(s->w, i, mat, 1);
        const uintptr_t begin = (uintptr_t)range.data;
        if (range.n_bytes != 0)
            trim_around(cache, begin, begin + (uintptr_t)range.n_bytes);
    }
}

/* ---- steps ---- */

/* Numbers of steps are compared for equality only. */
void qcpu_expert_cache_begin_step(qcpu_expert_cache *cache)
{
    cache->step++;
}

void qcpu_expert_cache_announce(
    qcpu_expert_cache *cache, int number, int64_t mat)
{
    const stack *s = &cache->stacks[number];
    const int32_t at = s->first + (int32_t)mat;
    /* Set for listed ones, too: evict must spare what this step needs. */
    cache->nodes[at].step = cache->step;
    if (is_listed(cache, at)) {
        take_out(cache, at);
    } else {
        count(cache, s, mat, true);
        cache->nodes[at].is_new = 1;
        cache->state.n_resident++;
        cache->state.n_read++;
    }
    put_first(cache, at);
}

void qcpu_expert_cache_evict(qcpu_expert_cache *cache)
{
    /* From the oldest on, until the budget holds or only this step's are
     * left. */
    for (;;) {
        const int32_t oldest = cache->nodes[0].newer;
        if (oldest == 0 || cache->nodes[oldest].step == cache->step ||
            cache->state.n_bytes <= cache->budget)
            return;
        drop(cache, oldest);
        cache->state.n_evicted++;
    }
}

/* This step's matrices are the newest in the ring.  The hint comes after the
 * reading, since the system maps neighbours when pages are read. */
void qcpu_expert_cache_end_step(qcpu_expert_cache *cache)
{
    for (int32_t at = cache->nodes[0].older;
         at != 0 && cache->nodes[at].step == cache->step;
         at = cache->nodes[at].older) {
        const stack *s = &cache->stacks[cache->nodes[at].stack];
        if (cache->nodes[at].is_new)
            trim_matrix(cache, s, at - s->first);
        cache->nodes[at].is_new = 0;
    }
}

void qcpu_expert_cache_remove(qcpu_expert_cache *cache, int number)
{
    stack *s = &cache->stacks[number];
    /* Its nodes stay in the array for a later stack of as many matrices
     * (free_stack). */
    for (int64_t mat = 0; mat < s->n_mats; mat++) {
        const int32_t at = s->first + (int32_t)mat;
        if (is_listed(cache, at))
            drop(cache, at);
    }
    /* What remains keeps its order, so nothing is sorted again. */
    size_t n = 0;
    for (size_t i = 0; i < cache->n_sorted; i++)
        if (cache->sorted[i] < s->regions ||
            cache->sorted[i] >= s->regions + s->n_regions)
            cache->sorted[n++] = cache->sorted[i];
    cache->n_sorted = n;
    free_regions(s);
    s->w = NULL;
}

qcpu_expert_cache_state qcpu_expert_cache_look(const qcpu_expert_cache *cache)
{
    return cache->state;
}

bool qcpu_expert_cache_holds(
    const qcpu_expert_cache *cache, int number, int64_t mat)
{
    return is_listed(cache, cache->stacks[number].first + (int32_t)mat);
}
