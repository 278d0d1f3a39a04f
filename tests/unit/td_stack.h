/* SPDX-License-Identifier: Apache-2.0
 * "ternary-dict" stacks in memory for tests.  Every tensor is its own block of
 * exactly its size, so that the address sanitizer sees the first byte read
 * past it. */
#ifndef QMOE_TEST_TD_STACK_H
#define QMOE_TEST_TD_STACK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plain_decoder.h"
#include "ternary_dict.h"

typedef struct td_stack {
    qmi_weight w;
    uint64_t *expert_offsets;
    uint32_t *row_offsets;
    uint16_t *levels, *codes;
    size_t n_codes;
} td_stack;

/* xorshift64: the same numbers everywhere. */
static inline uint64_t random_u64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline double random_unit(uint64_t *state)
{
    return (double)(random_u64(state) >> 11) / 9007199254740992.0;
}

/* Independent weight codes, zero with probability p0. */
static inline void random_codes(
    uint8_t *codes, size_t n, double p0, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        double u = random_unit(state);
        codes[i] = u < p0 ? 0 : u < p0 + (1 - p0) / 2 ? 1 : 2;
    }
}

static inline void *exact_block(size_t count, size_t size)
{
    void *block = malloc(count * size);
    assert_non_null(block);
    return block;
}

static inline void td_stack_point(td_stack *s)
{
    size_t n_mats = (size_t)s->w.n_mats, n_rows = (size_t)s->w.n_rows;
    s->w.parts[QMI_TD_EXPERT_OFFSETS] =
        (qmi_part){s->expert_offsets, 8 * (n_mats + 1)};
    s->w.parts[QMI_TD_ROW_OFFSETS] =
        (qmi_part){s->row_offsets, 4 * n_mats * (n_rows + 1)};
    s->w.parts[QMI_TD_LEVELS] = (qmi_part){s->levels, 4 * n_mats * n_rows};
    s->w.parts[QMI_TD_CODES] = (qmi_part){s->codes, 2 * s->n_codes};
}

/* A stack without codewords yet; row r of matrix m has the levels
 * -(1 + r) * 2^m and (2 + r) * 2^m. */
static inline td_stack td_stack_new(
    int64_t n_mats, int64_t n_rows, int64_t n_cols, size_t max_codes)
{
    size_t n = (size_t)(n_mats * n_rows);
    td_stack s = {
        .w =
            {
                .format = &qmi_format_ternary_dict,
                .name = "stack",
                .n_mats = n_mats,
                .n_rows = n_rows,
                .n_cols = n_cols,
            },
        .expert_offsets = exact_block((size_t)n_mats + 1, 8),
        .row_offsets = exact_block((size_t)(n_mats * (n_rows + 1)), 4),
        .levels = exact_block(n, 4),
        .codes = exact_block(max_codes, 2),
    };
    for (size_t i = 0; i < n; i++) {
        float scale = (float)(1 << i / (size_t)n_rows);
        float row = (float)(i % (size_t)n_rows % 64);
        s.levels[2 * i] = qmi_f32_to_bf16(-(1 + row) * scale);
        s.levels[2 * i + 1] = qmi_f32_to_bf16((2 + row) * scale);
    }
    return s;
}

/* Cuts the codeword block to its final size and fills in `w`. */
static inline void td_stack_seal(td_stack *s, size_t n_codes)
{
    uint16_t *codes = exact_block(n_codes, 2);
    memcpy(codes, s->codes, 2 * n_codes);
    free(s->codes);
    s->codes = codes;
    s->n_codes = n_codes;
    td_stack_point(s);
}

/* Encodes weight codes [n_mats, n_rows, n_cols]. */
static inline td_stack td_stack_encode(
    const uint8_t *weights, int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    size_t most = (size_t)(n_mats * n_rows * ((n_cols + 1) / 2)), n = 0;
    td_stack s = td_stack_new(n_mats, n_rows, n_cols, most);
    uint32_t *row_offset = s.row_offsets;
    for (int64_t m = 0; m < n_mats; m++) {
        s.expert_offsets[m] = n;
        for (int64_t r = 0; r < n_rows; r++, weights += n_cols) {
            *row_offset++ = (uint32_t)(n - s.expert_offsets[m]);
            n += qmi_dict_encode_row(
                qmi_dict_generic(), s.codes + n, weights, n_cols);
        }
        *row_offset++ = (uint32_t)(n - s.expert_offsets[m]);
    }
    s.expert_offsets[n_mats] = n;
    td_stack_seal(&s, n);
    return s;
}

/* One row made of the given codewords. */
static inline td_stack td_stack_row(
    const uint16_t *codes, size_t n_codes, int64_t n_cols)
{
    td_stack s = td_stack_new(1, 1, n_cols, n_codes);
    memcpy(s.codes, codes, 2 * n_codes);
    s.expert_offsets[0] = s.row_offsets[0] = 0;
    s.expert_offsets[1] = n_codes;
    s.row_offsets[1] = (uint32_t)n_codes;
    td_stack_seal(&s, n_codes);
    return s;
}

static inline void td_stack_free(td_stack *s)
{
    free(s->expert_offsets);
    free(s->row_offsets);
    free(s->levels);
    free(s->codes);
}

static inline plain_stack td_stack_plain(const td_stack *s)
{
    return (plain_stack){
        .expert_offsets = (const uint8_t *)s->expert_offsets,
        .row_offsets = (const uint8_t *)s->row_offsets,
        .levels = (const uint8_t *)s->levels,
        .codes = (const uint8_t *)s->codes,
        .n_rows = s->w.n_rows,
        .n_cols = s->w.n_cols,
    };
}

#endif
