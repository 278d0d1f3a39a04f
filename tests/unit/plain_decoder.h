/* SPDX-License-Identifier: Apache-2.0
 * A second decoder of "ternary-dict", written from docs/format.md alone and as
 * plainly as it allows: every weight of every codeword is visited, every
 * number is put together from its bytes.  It shares nothing with the library
 * but the decode table, whose checksum is tested. */
#ifndef QMOE_TEST_PLAIN_DECODER_H
#define QMOE_TEST_PLAIN_DECODER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The tensors of a stack [n_mats, n_rows, n_cols] as bytes. */
typedef struct plain_stack {
    const uint8_t *expert_offsets, *row_offsets, *levels, *codes;
    int64_t n_rows, n_cols;
} plain_stack;

static inline uint64_t plain_number(const uint8_t *bytes, int n_bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < n_bytes; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static inline float plain_bf16(const uint8_t *bytes)
{
    uint32_t bits = (uint32_t)plain_number(bytes, 2) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Weight `i` (0 .. 27) of a codeword whose decode table words are `words`. */
static inline unsigned plain_code(const uint32_t words[2], unsigned i)
{
    unsigned pair = i / 2;
    unsigned bits = words[pair / 7] >> (4 + 4 * (pair % 7)) & 15;
    return i % 2 == 0 ? bits & 3 : bits >> 2;
}

/* Writes the n_cols weights of a row to dst.  Returns how many weights its
 * codewords spell, padding included. */
static inline int64_t plain_decode_row(float *dst, const uint32_t (*table)[2],
    const plain_stack *s, int64_t mat, int64_t row)
{
    const uint8_t *offsets = s->row_offsets + 4 * (mat * (s->n_rows + 1) + row);
    const uint8_t *levels = s->levels + 4 * (mat * s->n_rows + row);
    uint64_t matrix = plain_number(s->expert_offsets + 8 * mat, 8);
    uint64_t begin = matrix + plain_number(offsets, 4);
    uint64_t end = matrix + plain_number(offsets + 4, 4);
    int64_t col = 0;
    for (uint64_t k = begin; k < end; k++) {
        const uint32_t *words = table[plain_number(s->codes + 2 * k, 2)];
        for (unsigned i = 0; i < 2 * (words[0] & 15); i++, col++) {
            unsigned code = plain_code(words, i);
            if (col < s->n_cols)
                dst[col] = code == 0 ? 0.0f : plain_bf16(levels + 2 * code - 2);
        }
    }
    return col;
}

#endif
