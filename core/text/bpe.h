/* SPDX-License-Identifier: Apache-2.0
 * Byte-pair encoding of one piece of text: symbols, then merges. */
#ifndef QMI_BPE_H
#define QMI_BPE_H

#include "id_list.h"
#include "vocabulary.h"

/* A merge: neighbours `left` and `right` become `id`. */
typedef struct qmi_merge {
    int32_t left, right; /* plus 1; 0: a free slot */
    int32_t id;
    uint32_t rank; /* the least is merged first */
} qmi_merge;

typedef struct qmi_bpe {
    qmi_vocabulary vocabulary;
    qmi_merge *merges; /* [n_slots] hash table, a power of two */
    size_t n_slots, n_merges;
    uint32_t *ranks;    /* [vocabulary.size] a pair merges to the token that its
                        bytes spell, with the rank of that; NULL: `merges`
                        decides */
    int32_t bytes[256]; /* ids of single bytes; -1: none */
    int32_t unk;        /* stands for a symbol without a token; -1: it is left
                           out */
    bool by_bytes;      /* symbols are bytes, else characters */
    bool byte_fallback; /* a character without a token becomes `bytes` */
    bool fuse_unk;
    bool ignore_merges; /* a piece that is a token is that token */
} qmi_bpe;

/* Begin with QMI_BPE_INIT. */
#define QMI_BPE_INIT                                                           \
    {                                                                          \
        .unk = -1                                                              \
    }

/* Room for n merges.  Once, before they are added. */
qmoe_status qmi_bpe_reserve_merges(qmi_bpe *bpe, size_t n, qmi_error *err);
/* Ranks are given in the order of the calls.  The first of two merges of one
 * pair is void, as it is for Hugging Face.  E_FORMAT without a file name. */
qmoe_status qmi_bpe_add_merge(
    qmi_bpe *bpe, int32_t left, int32_t right, int32_t id, qmi_error *err);
void qmi_bpe_free(qmi_bpe *bpe);

/* What one call of encode works with; begin with zeros. */
typedef struct qmi_bpe_work {
    struct qmi_symbol *symbols;
    size_t capacity;
    struct qmi_candidate *heap;
    size_t n_heap, heap_capacity;
} qmi_bpe_work;
void qmi_bpe_work_free(qmi_bpe_work *work);

/* Appends the ids of a piece of valid UTF-8.  E_INVALID: it has 2^31 symbols
 * or more. */
qmoe_status qmi_bpe_encode(const qmi_bpe *bpe, qmi_bpe_work *work,
    qmi_id_list *ids, const char *piece, size_t n, qmi_error *err);

#endif
