/* SPDX-License-Identifier: Apache-2.0
 * What the kernels for "ternary-dict" share.  A codeword stands for about 22
 * weights of which at most three are not zero, so its cost is a table look-up
 * and three multiply-adds.  Memory-safe on matrices that were checked. */
#ifndef QCPU_TERNARY_DICT_KERNEL_H
#define QCPU_TERNARY_DICT_KERNEL_H

#include "matmul.h"
#include "ternary_dict.h"

enum {
    QCPU_TD_LANES = 16,
    QCPU_TD_MIN_TOKENS_FOR_LANES = 4,
    QCPU_TD_PADDING = 32 /* readable floats behind x, at any codeword */
};

typedef struct qcpu_td_row {
    const qmi_dict_entry *entries;
    const uint8_t *codes; /* u16, any alignment */
    uint32_t n_codes;
    float values[3]; /* by code: 0, low, high */
} qcpu_td_row;

bool qcpu_td_takes(const qmi_weight *w);
int64_t qcpu_td_tile_rows(const qmi_weight *w);
/* x in panels [n_cols, QCPU_TD_LANES]; for few tokens as it is, with zeros
 * behind each. */
size_t qcpu_td_packed_bytes(const qmi_weight *w, int64_t n_tokens);
void qcpu_td_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens);

/* One token; x is padded. */
typedef float (*qcpu_td_one_fn)(const qcpu_td_row *row, const float *x);
typedef void (*qcpu_td_lanes_fn)(
    float *sums, const qcpu_td_row *row, const float *panel);
/* The run slot of a kernel made of these two. */
void qcpu_td_run(float *y, const qcpu_tile *tile, qcpu_td_one_fn one,
    qcpu_td_lanes_fn lanes);

/* An entry as one word: reading its bytes apart would cost eight loads. */
static inline uint64_t qcpu_td_entry(const qcpu_td_row *row, uint32_t i)
{
    return qmi_load_u64(
        &row->entries[qmi_load_u16(row->codes + 2 * (size_t)i)]);
}

static inline uint8_t qcpu_td_byte(uint64_t entry, size_t at)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (uint8_t)(entry >> (8 * at));
#else
    return (uint8_t)(entry >> (56 - 8 * at));
#endif
}

#endif
