/* SPDX-License-Identifier: Apache-2.0
 * The paper's sub-1-bit format (QMoE section 4; docs/format.md "ternary-dict"):
 * a ternary row as 16-bit codewords of a fixed dictionary of 2^16 weight-pair
 * sequences, two bf16 levels per row. */
#ifndef QMI_TERNARY_DICT_H
#define QMI_TERNARY_DICT_H

#include "weight.h"

enum {
    QMI_DICT_SIZE = 65536,
    QMI_DICT_MAX_PAIRS = 14,
    QMI_DICT_MAX_NONZEROS = 3
};

/* Weight codes. */
enum { QMI_CODE_ZERO = 0, QMI_CODE_LOW = 1, QMI_CODE_HIGH = 2 };

/* One codeword unpacked for fast decoding: its non-zero weights only. */
typedef struct qmi_dict_entry {
    uint8_t n_weights;                       /* 2 .. 28, even */
    uint8_t n_nonzeros;                      /* 0 .. 3 */
    uint8_t position[QMI_DICT_MAX_NONZEROS]; /* 0 .. 27; 0 when unused */
    uint8_t code[QMI_DICT_MAX_NONZEROS];     /* LOW or HIGH; ZERO when unused */
} qmi_dict_entry;

typedef struct qmi_dict {
    /* The reference's decode table, [65536, 2] u32 (docs/format.md). */
    uint32_t table[QMI_DICT_SIZE][2];
    qmi_dict_entry entries[QMI_DICT_SIZE];
    /* Trie: child[c][pair] = codeword of c's sequence + pair, or 0xffffffff.
     * root[pair] = codeword of the single pair.  pair = first + 3 * second. */
    uint32_t child[QMI_DICT_SIZE][9];
    uint32_t root[9];
    double p0;   /* zero probability it was built for */
    int n_users; /* weights of one model that share it */
    int number;  /* in that model, from 1 on */
} qmi_dict;

/* The paper's zero probability, that of the generic dictionary. */
#define QMI_DICT_GENERIC_P0 0.885
/* Dictionaries other than the generic one in a model. */
enum { QMI_MAX_DICTIONARIES = 8 };
/* The paper's generic dictionary (QMI_DICT_GENERIC_P0), built on first use
 * and kept for the life of the process.  Thread-safe.  NULL: out of memory. */
const qmi_dict *qmi_dict_generic(void);
/* Builds a dictionary for zero probability p0 in (0, 1): exact construction
 * of docs/format.md (tie order included).  Release with qmi_free. */
qmoe_status qmi_dict_build(qmi_dict **out, double p0, qmi_error *err);

/* Encodes n_cols weight codes (0, 1, 2) of one row by greedy longest match;
 * an odd width is padded with one zero code.  Writes at most
 * (n_cols + 1) / 2 codewords to `dst`; returns their number. */
size_t qmi_dict_encode_row(
    const qmi_dict *dict, uint16_t *dst, const uint8_t *codes, int64_t n_cols);

/* Storage of a stack (format "ternary-dict"), parts in this order. */
enum {
    QMI_TD_EXPERT_OFFSETS, /* u64 [n_mats + 1]: first codeword of a matrix */
    QMI_TD_ROW_OFFSETS,    /* u32 [n_mats, n_rows + 1]: relative to it */
    QMI_TD_LEVELS,         /* bf16 [n_mats, n_rows, 2]: low, high */
    QMI_TD_CODES           /* u16 [codewords of all matrices] */
};

/* The rows of one checked matrix, ready for a kernel. */
typedef struct qmi_td_matrix {
    const uint8_t *codes;       /* u16 codewords, any alignment */
    const uint8_t *row_offsets; /* u32 [n_rows + 1], any alignment */
    const uint8_t *levels;      /* bf16 [n_rows, 2], any alignment */
} qmi_td_matrix;
qmi_td_matrix qmi_td_matrix_of(const qmi_weight *w, int64_t mat);

extern const qmi_format qmi_format_ternary_dict;

#endif
