/* SPDX-License-Identifier: Apache-2.0
 * Construction of the dictionary of "ternary-dict".  In: the probability of a
 * zero.  Out: the 65536 most probable sequences of weight pairs, in the order
 * docs/format.md fixes ("Dictionary"), with a table to decode and a trie to
 * encode.  The order is part of the format, down to the rounding of the
 * products that rank the sequences, so nothing here may be reassociated. */
#include "ternary_dict.h"

#include <assert.h>
#include <pthread.h>

#include "alloc.h"

enum {
    N_SYMBOLS = 9,
    WORD_PAIRS = QMI_DICT_MAX_PAIRS / 2,
    /* Every popped sequence, the empty one included, is extended once. */
    MAX_CANDIDATES = N_SYMBOLS * (QMI_DICT_SIZE + 1)
};

static const uint32_t no_codeword = UINT32_MAX;

/* A sequence waiting for its place. */
typedef struct candidate {
    double p;
    /* Pair k is the nibble at bit 60 - 4k, holding symbol + 1; the rest is
     * zero.  Numeric order is then lexicographic order, prefixes first. */
    uint64_t sequence;
    uint32_t parent; /* codeword of the sequence without its last pair */
    uint8_t n_pairs, n_nonzeros;
} candidate;

/* Binary heap; best on top. */
typedef struct heap {
    candidate *items;
    size_t n;
} heap;

/* A total order: two sequences are never equal, so the heap's shape does not
 * show in the result. */
static bool before(const candidate *a, const candidate *b)
{
    if (a->p != b->p)
        return a->p > b->p;
    return a->sequence < b->sequence;
}

static void push(heap *h, const candidate *x)
{
    /* The hole moves up to where x belongs; x is written once. */
    size_t i = h->n++;
    while (i != 0 && before(x, &h->items[(i - 1) / 2])) {
        h->items[i] = h->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h->items[i] = *x;
}

/* The last item sinks from the top: the hole goes down along the better child
 * until the item fits. */
static candidate pop(heap *h)
{
    candidate top = h->items[0];
    const candidate *last = &h->items[--h->n];
    size_t i = 0;
    for (size_t child = 1; child < h->n; child = 2 * i + 1) {
        if (child + 1 < h->n && before(&h->items[child + 1], &h->items[child]))
            child++;
        if (!before(&h->items[child], last))
            break;
        h->items[i] = h->items[child];
        i = child;
    }
    h->items[i] = *last;
    return top;
}

static unsigned symbol_at(uint64_t sequence, unsigned pair)
{
    return (unsigned)(sequence >> (60 - 4 * pair) & 15) - 1;
}

static unsigned count_nonzeros(unsigned symbol)
{
    return (symbol % 3 != 0) + (symbol / 3 != 0);
}

/* Queues the extensions of `x`, which is codeword `index`.  Sequences beyond
 * QMI_DICT_MAX_NONZEROS are no candidates: decoders count on it.  (For the
 * generic dictionary the rule changes nothing.) */
static void push_extensions(
    heap *h, const candidate *x, uint32_t index, const double p[N_SYMBOLS])
{
    if (x->n_pairs == QMI_DICT_MAX_PAIRS)
        return;
    for (unsigned symbol = 0; symbol < N_SYMBOLS; symbol++) {
        unsigned n_nonzeros = x->n_nonzeros + count_nonzeros(symbol);
        if (n_nonzeros > QMI_DICT_MAX_NONZEROS)
            continue;
        push(h, &(candidate){
                    .p = x->p * p[symbol],
                    .sequence = x->sequence | (uint64_t)(symbol + 1)
                                                  << (60 - 4 * x->n_pairs),
                    .parent = index,
                    .n_pairs = (uint8_t)(x->n_pairs + 1),
                    .n_nonzeros = (uint8_t)n_nonzeros,
                });
    }
}

/* Weights come from left to right, so positions rise: check_codes and kernels
 * count on it. */
static void add_weight(qmi_dict_entry *entry, unsigned position, unsigned code)
{
    if (code == QMI_CODE_ZERO)
        return;
    entry->position[entry->n_nonzeros] = (uint8_t)position;
    entry->code[entry->n_nonzeros] = (uint8_t)code;
    entry->n_nonzeros++;
}

static void add_codeword(qmi_dict *dict, const candidate *x, uint32_t index)
{
    uint32_t *words = dict->table[index];
    qmi_dict_entry *entry = &dict->entries[index];
    /* The reference's layout: both words carry the number of pairs, each seven
     * pairs of 4 bits above it. */
    words[0] = words[1] = x->n_pairs;
    entry->n_weights = (uint8_t)(2 * x->n_pairs);
    for (unsigned k = 0; k < x->n_pairs; k++) {
        unsigned symbol = symbol_at(x->sequence, k);
        unsigned first = symbol % 3, second = symbol / 3;
        words[k / WORD_PAIRS] |= (first | second << 2)
                                 << (4 + 4 * (k % WORD_PAIRS));
        add_weight(entry, 2 * k, first);
        add_weight(entry, 2 * k + 1, second);
    }
    /* Its extensions, if they are in the dictionary, enter themselves later:
     * they are less probable. */
    for (unsigned symbol = 0; symbol < N_SYMBOLS; symbol++)
        dict->child[index][symbol] = no_codeword;
    unsigned last = symbol_at(x->sequence, x->n_pairs - 1u);
    if (x->parent == no_codeword)
        dict->root[last] = index;
    else
        dict->child[x->parent][last] = index;
}

static void fill(qmi_dict *dict, heap *h, double p0)
{
    /* Low and high are equally likely; a pair's weights are independent (paper
     * section 4). */
    const double weight_p[3] = {p0, (1 - p0) / 2, (1 - p0) / 2};
    double p[N_SYMBOLS];
    for (unsigned symbol = 0; symbol < N_SYMBOLS; symbol++) {
        p[symbol] = weight_p[symbol / 3] * weight_p[symbol % 3];
        dict->root[symbol] = no_codeword;
    }
    const candidate empty = {.p = 1, .parent = no_codeword};
    push_extensions(h, &empty, no_codeword, p);
    /* The most probable sequence is popped first and its extensions are queued:
     * none of them can be more probable, so the order of popping is the order
     * of probability. */
    for (uint32_t index = 0; index < QMI_DICT_SIZE; index++) {
        /* There are 110,054 candidates, so the heap never runs dry. */
        assert(h->n != 0);
        candidate x = pop(h);
        add_codeword(dict, &x, index);
        push_extensions(h, &x, index, p);
    }
}

qmoe_status qmi_dict_build(qmi_dict **out, double p0, qmi_error *err)
{
    *out = NULL;
    if (!(p0 > 0 && p0 < 1))
        return qmi_fail(err, QMOE_E_INVALID,
            "dictionary: zero probability %g is not between 0 and 1", p0);
    qmi_dict *dict = qmi_calloc(1, sizeof *dict, "the dictionary", err);
    if (dict == NULL)
        return QMOE_E_NOMEM;
    heap h = {.items = qmi_calloc(MAX_CANDIDATES, sizeof *h.items,
                  "building the dictionary", err)};
    if (h.items == NULL) {
        qmi_free(dict);
        return QMOE_E_NOMEM;
    }
    fill(dict, &h, p0);
    dict->p0 = p0;
    qmi_free(h.items);
    *out = dict;
    return QMOE_OK;
}

const qmi_dict *qmi_dict_generic(void)
{
    /* Not pthread_once: a first call that found no memory must not settle the
     * matter for the life of the process. */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static _Atomic(qmi_dict *) generic;
    qmi_dict *dict = atomic_load_explicit(&generic, memory_order_acquire);
    if (dict != NULL)
        return dict;
    pthread_mutex_lock(&lock);
    dict = atomic_load_explicit(&generic, memory_order_relaxed);
    if (dict == NULL &&
        qmi_dict_build(&dict, QMI_DICT_GENERIC_P0, NULL) == QMOE_OK)
        atomic_store_explicit(&generic, dict, memory_order_release);
    pthread_mutex_unlock(&lock);
    return dict;
}
