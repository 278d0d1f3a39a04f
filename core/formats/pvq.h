/* SPDX-License-Identifier: Apache-2.0
 * Pyramid vector quantisation, formats "pvq" = PVQ(16,2), 9 bits per 16
 * weights, and "pvq8" = PVQ(8,2), 7 bits per 8 weights; one bf16 scale per row
 * (docs/format.md "Formats pvq and pvq8").  A block of n weights is scale * q,
 * q integer with |q|_1 = 2: two unit pulses at positions a and b.  Stored: a,
 * b and the sign s of the pulse at a (1 = negative).  The order of the pair
 * carries the other sign: the pulse at b has sign s if a <= b, else the
 * opposite.  Every bit pattern is a valid block, so codes need no check.
 *
 * Layout = compute layout of all backends.  Rows are cut into tiles of 32 (the
 * last padded with zeros), columns into blocks of n = 16 or 8 (the last padded
 * with columns that meet zero activations; decoders drop them).  A block has
 * 8 position bits a | b << 4 in pvq, 6 position bits a | b << 3 in pvq8, and a
 * sign bit.  A tile is a sequence of chunks of 32 blocks, then one tail of
 * r < 32 blocks; in both, blocks are taken in groups of 4.
 * Chunk of pvq (1152 bytes):
 *   8 groups: 32 u32 words, one per row; byte i = positions of block i
 *   32 u32 words, one per row; bit i = sign of block i of the chunk
 * Tail of pvq:
 *   floor(r / 4) groups as above
 *   r % 4 columns of 32 bytes, one per row: positions of one block
 *   ceil(r / 8) columns of 32 bytes, one per row: bit i of column j = sign of
 *   block 8 * j + i
 * Chunk of pvq8 (896 bytes):
 *   8 groups: the 24 position bits of a row's 4 blocks, block i from bit 6 * i
 *   on, as three planes of 32 bytes, one per row: low, middle, high byte
 *   32 u32 sign words as above
 * Tail of pvq8:
 *   ceil(r / 4) groups as above, bits of missing blocks zero
 *   ceil(r / 8) sign columns as above
 * Every unit is a multiple of 32 bytes; integers are little-endian. */
#ifndef QMI_PVQ_H
#define QMI_PVQ_H

#include "weight.h"

enum { QMI_PVQ_TILE = 32, QMI_PVQ_CHUNK = 32 };

/* Parts of both formats. */
enum {
    QMI_PVQ_CODES, /* u8 [n_mats, n_tiles, tile bytes] */
    QMI_PVQ_SCALES /* bf16 [n_mats, n_rows] */
};

/* Geometry of a matrix; n = 16 or 8. */
typedef struct qmi_pvq_shape {
    int n;            /* block width */
    int64_t n_blocks; /* per row, ceil(n_cols / n) */
    int64_t n_chunks; /* full chunks */
    int tail;         /* blocks beyond them */
    int64_t n_tiles;
    size_t chunk_bytes, tile_bytes; /* tile = chunks + tail */
} qmi_pvq_shape;
qmi_pvq_shape qmi_pvq_shape_of(int n, int64_t n_rows, int64_t n_cols);

/* One block as stored. */
typedef struct qmi_pvq_block {
    uint8_t a, b; /* positions, < n */
    uint8_t sign; /* of the pulse at a: 1 = negative */
} qmi_pvq_block;

/* Block `block` of a row, from the codes of its matrix. */
qmi_pvq_block qmi_pvq_get(const qmi_pvq_shape *shape, const uint8_t *codes,
    int64_t row, int64_t block);
/* Writes it; codes must be zeroed before the first set of each block. */
void qmi_pvq_set(const qmi_pvq_shape *shape, uint8_t *codes, int64_t row,
    int64_t block, qmi_pvq_block value);
/* The stored form of pulses sign_a at a and sign_b at b (+1 or -1); when
 * a == b the signs must be equal (value +-2). */
qmi_pvq_block qmi_pvq_make(int a, int sign_a, int b, int sign_b);
/* q [n] integers of a block. */
void qmi_pvq_expand(int8_t *q, int n, qmi_pvq_block block);

/* Codes and scales of one matrix of a stack. */
const uint8_t *qmi_pvq_codes(const qmi_weight *w, int64_t mat);
const uint8_t *qmi_pvq_scales(const qmi_weight *w, int64_t mat);

extern const qmi_format qmi_format_pvq, qmi_format_pvq8;
/* Block width of a pvq format; 0 for other formats. */
int qmi_pvq_width(const qmi_format *format);

#endif
