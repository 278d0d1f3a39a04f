/* SPDX-License-Identifier: Apache-2.0
 * In: a piece of text, and the tables of a vocabulary.  Out: its ids.
 *
 * The pair of neighbours with the least rank is merged, the leftmost of equals,
 * until no pair can be.  Invariant: the live symbols, in order, are the piece
 * (but for characters that have no token).  A short piece is searched for the
 * least rank after each merge.  A long one has a heap of candidates: those
 * whose symbols have changed since are recognised by the id they would give,
 * which no other pair at that place can. */
#include "bpe.h"

#include <string.h>

#include "alloc.h"

/* Up to here searching is faster than a heap. */
enum { SHORT = 32, MAX_CHAIN = 1024 };

static const uint32_t NO_RANK = UINT32_MAX;

typedef struct qmi_symbol {
    int32_t id;           /* -1: merged into the one before */
    int32_t prev, next;   /* -1: none */
    uint32_t rank, joint; /* with the next: NO_RANK, or rank and id */
    size_t start, end;    /* in the piece */
} symbol;

typedef struct qmi_candidate {
    uint32_t rank;
    int32_t left; /* number of the left symbol */
    int32_t id;   /* of the two together */
} candidate;

/* ---- merges ---- */

static size_t slot_of(const qmi_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t h = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    h *= 0x9e3779b97f4a7c15;
    h ^= h >> 32;
    return (size_t)h & (bpe->n_slots - 1);
}

qmoe_status qmi_bpe_reserve_merges(qmi_bpe *bpe, size_t n, qmi_error *err)
{
    size_t n_slots = 1024;
    while (n_slots < 2 * n)
        n_slots *= 2;
    bpe->merges = qmi_calloc(n_slots, sizeof *bpe->merges, "merges", err);
    if (bpe->merges == NULL)
        return QMOE_E_NOMEM;
    bpe->n_slots = n_slots;
    return QMOE_OK;
}

qmoe_status qmi_bpe_add_merge(
    qmi_bpe *bpe, int32_t left, int32_t right, int32_t id, qmi_error *err)
{
    const uint32_t rank = (uint32_t)bpe->n_merges++;
    size_t at = slot_of(bpe, left, right);
    for (int i = 0; i < MAX_CHAIN; i++, at = (at + 1) & (bpe->n_slots - 1)) {
        qmi_merge *m = &bpe->merges[at];
        if (m->left != 0 && (m->left != left + 1 || m->right != right + 1))
            continue;
        *m = (qmi_merge){left + 1, right + 1, id, rank};
        return QMOE_OK;
    }
    return qmi_fail(
        err, QMOE_E_FORMAT, "more than %d merges collide", (int)MAX_CHAIN);
}

void qmi_bpe_free(qmi_bpe *bpe)
{
    qmi_vocabulary_free(&bpe->vocabulary);
    qmi_free(bpe->merges);
    qmi_free(bpe->ranks);
    *bpe = (qmi_bpe)QMI_BPE_INIT;
}

void qmi_bpe_work_free(qmi_bpe_work *work)
{
    qmi_free(work->symbols);
    qmi_free(work->heap);
    *work = (qmi_bpe_work){0};
}

/* Rank and id of a symbol with its right neighbour. */
static void look_up(
    const qmi_bpe *bpe, const char *piece, symbol *left, const symbol *right)
{
    left->rank = NO_RANK;
    if (bpe->ranks != NULL) {
        const int32_t id = qmi_vocabulary_find(
            &bpe->vocabulary, piece + left->start, right->end - left->start);
        if (id >= 0) {
            left->rank = bpe->ranks[id];
            left->joint = (uint32_t)id;
        }
        return;
    }
    if (bpe->n_slots == 0)
        return;
    size_t at = slot_of(bpe, left->id, right->id);
    for (; bpe->merges[at].left != 0; at = (at + 1) & (bpe->n_slots - 1)) {
        const qmi_merge *m = &bpe->merges[at];
        if (m->left != left->id + 1 || m->right != right->id + 1)
            continue;
        left->rank = m->rank;
        left->joint = (uint32_t)m->id;
        return;
    }
}

/* ---- symbols ---- */

/* Bytes of the character that begins with this byte of valid UTF-8. */
static size_t character_bytes(char first)
{
    const uint8_t byte = (uint8_t)first;
    return 1 + (size_t)(byte >= 0xc0) + (size_t)(byte >= 0xe0) +
           (size_t)(byte >= 0xf0);
}

static bool has_all_bytes(const qmi_bpe *bpe, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bpe->bytes[(uint8_t)text[i]] < 0)
            return false;
    return true;
}

/* The symbols of a piece in symbols[0..), which has room for one per byte. */
static size_t read_symbols(
    const qmi_bpe *bpe, symbol *symbols, const char *piece, size_t n)
{
    size_t count = 0;
    bool after_unk = false; /* the last symbol stands for unknown text */
    for (size_t at = 0, end = 0; at < n; at = end) {
        end = at + (bpe->by_bytes ? 1 : character_bytes(piece[at]));
        const int32_t id = bpe->by_bytes ? bpe->bytes[(uint8_t)piece[at]]
                                         : qmi_vocabulary_find(&bpe->vocabulary,
                                               piece + at, end - at);
        if (id >= 0) {
            symbols[count++] = (symbol){.id = id, .start = at, .end = end};
            after_unk = false;
        } else if (bpe->byte_fallback &&
                   has_all_bytes(bpe, piece + at, end - at)) {
            for (size_t i = at; i < end; i++)
                symbols[count++] = (symbol){.id = bpe->bytes[(uint8_t)piece[i]],
                    .start = i,
                    .end = i + 1};
            after_unk = false;
        } else if (bpe->unk >= 0 && after_unk && bpe->fuse_unk) {
            symbols[count - 1].end = end;
        } else if (bpe->unk >= 0) {
            symbols[count++] =
                (symbol){.id = bpe->unk, .start = at, .end = end};
            after_unk = true;
        }
    }
    return count;
}

/* ---- short pieces ---- */

static qmoe_status merge_short(const qmi_bpe *bpe, symbol *s, size_t n,
    qmi_id_list *ids, const char *piece, qmi_error *err)
{
    for (size_t i = 0; i + 1 < n; i++)
        look_up(bpe, piece, &s[i], &s[i + 1]);
    while (n > 1) {
        size_t least = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (s[i].rank < s[least].rank)
                least = i;
        if (s[least].rank == NO_RANK)
            break;
        s[least].id = (int32_t)s[least].joint;
        s[least].end = s[least + 1].end;
        n--;
        memmove(s + least + 1, s + least + 2, (n - least - 1) * sizeof *s);
        if (least + 1 < n)
            look_up(bpe, piece, &s[least], &s[least + 1]);
        if (least > 0)
            look_up(bpe, piece, &s[least - 1], &s[least]);
    }
    for (size_t i = 0; i < n; i++)
        QMI_TRY(qmi_id_list_add(ids, &s[i].id, 1, err));
    return QMOE_OK;
}

/* ---- long pieces ---- */

static bool comes_before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void push(qmi_bpe_work *work, candidate c)
{
    candidate *heap = work->heap;
    size_t at = work->n_heap++;
    while (at > 0 && comes_before(&c, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = c;
}

static candidate pop(qmi_bpe_work *work)
{
    candidate *heap = work->heap;
    const candidate first = heap[0];
    const candidate last = heap[--work->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= work->n_heap)
            break;
        if (child + 1 < work->n_heap &&
            comes_before(&heap[child + 1], &heap[child]))
            child++;
        if (!comes_before(&heap[child], &last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

/* A candidate for symbol number `left` and its neighbour, if they can be
 * merged. */
static void propose(
    const qmi_bpe *bpe, qmi_bpe_work *work, const char *piece, int32_t left)
{
    symbol *s = &work->symbols[left];
    if (s->next < 0)
        return;
    look_up(bpe, piece, s, &work->symbols[s->next]);
    if (s->rank != NO_RANK)
        push(work, (candidate){s->rank, left, (int32_t)s->joint});
}

static void merge(
    const qmi_bpe *bpe, qmi_bpe_work *work, const char *piece, candidate c)
{
    symbol *symbols = work->symbols;
    symbol *left = &symbols[c.left];
    symbol *right = &symbols[left->next];
    left->id = c.id;
    left->end = right->end;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0)
        symbols[left->next].prev = c.left;
    if (left->prev >= 0)
        propose(bpe, work, piece, left->prev);
    propose(bpe, work, piece, c.left);
}

/* A merge removes a symbol and proposes two at most: 3 n candidates suffice. */
static qmoe_status merge_long(const qmi_bpe *bpe, qmi_bpe_work *work, size_t n,
    qmi_id_list *ids, const char *piece, qmi_error *err)
{
    symbol *symbols = work->symbols;
    if (work->heap_capacity < 3 * n) {
        qmi_free(work->heap);
        work->heap_capacity = 0;
        work->heap = qmi_calloc(3 * n, sizeof *work->heap, "merges", err);
        if (work->heap == NULL)
            return QMOE_E_NOMEM;
        work->heap_capacity = 3 * n;
    }
    work->n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        symbols[i].prev = (int32_t)i - 1;
        symbols[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < n; i++)
        propose(bpe, work, piece, (int32_t)i);
    while (work->n_heap != 0) {
        const candidate c = pop(work);
        const symbol *s = &symbols[c.left];
        /* Out of date: merged away, or with another neighbour by now. */
        if (s->id < 0 || s->next < 0 || s->rank == NO_RANK ||
            (int32_t)s->joint != c.id)
            continue;
        merge(bpe, work, piece, c);
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next)
        QMI_TRY(qmi_id_list_add(ids, &symbols[i].id, 1, err));
    return QMOE_OK;
}

qmoe_status qmi_bpe_encode(const qmi_bpe *bpe, qmi_bpe_work *work,
    qmi_id_list *ids, const char *piece, size_t n, qmi_error *err)
{
    if (bpe->ignore_merges) {
        const int32_t id = qmi_vocabulary_find(&bpe->vocabulary, piece, n);
        if (id >= 0)
            return qmi_id_list_add(ids, &id, 1, err);
    }
    if (n > INT32_MAX / 4)
        return qmi_fail(err, QMOE_E_INVALID,
            "a text without a place to split it has %zu bytes, at most %d can "
            "be encoded",
            n, INT32_MAX / 4);
    if (work->capacity < n) {
        qmi_free(work->symbols);
        work->capacity = 0;
        work->symbols =
            qmi_calloc(n + 64, sizeof *work->symbols, "symbols", err);
        if (work->symbols == NULL)
            return QMOE_E_NOMEM;
        work->capacity = n + 64;
    }
    const size_t n_symbols = read_symbols(bpe, work->symbols, piece, n);
    if (n_symbols <= SHORT)
        return merge_short(bpe, work->symbols, n_symbols, ids, piece, err);
    return merge_long(bpe, work, n_symbols, ids, piece, err);
}
