/* SPDX-License-Identifier: Apache-2.0
 * The formats "pvq" and "pvq8" of docs/format.md: geometry of the tiled layout
 * (pvq.h), access to single blocks, validation, plain decoding.  In: codes and
 * scales of a stack from an untrusted file.  Out: f32 rows.  A code is always a
 * block, so sizes and scales are all that can be wrong; offsets are computed
 * only for sizes that open_stack has accepted. */
#include "pvq.h"

#include <assert.h>
#include <inttypes.h>

#include "alloc.h"
#include "rotation.h"
#include "rotation_parameters.h"

enum { GROUP = 4, SIGNS = 8 }; /* blocks per group, per sign byte */

/* ---- geometry ---- */

/* Bytes of the positions and the signs of the first `n_blocks` <= 32 blocks of
 * a tile; 32 blocks are a chunk. */
static size_t position_bytes(int n, int64_t n_blocks)
{
    /* One byte per block; a pvq8 group packs 4 blocks of 6 bits into 3 bytes,
     * and a group that is not full takes them, too. */
    if (n == 16)
        return (size_t)n_blocks * QMI_PVQ_TILE;
    return (size_t)(n_blocks + GROUP - 1) / GROUP * 3 * QMI_PVQ_TILE;
}

static size_t sign_bytes(int64_t n_blocks)
{
    return (size_t)(n_blocks + SIGNS - 1) / SIGNS * QMI_PVQ_TILE;
}

/* Unsigned: wraps for absurd sizes, which open() refuses. */
qmi_pvq_shape qmi_pvq_shape_of(int n, int64_t n_rows, int64_t n_cols)
{
    assert(n == 16 || n == 8);
    qmi_pvq_shape s = {.n = n};
    s.n_blocks = n_cols / n + (n_cols % n != 0);
    s.n_chunks = s.n_blocks / QMI_PVQ_CHUNK;
    s.tail = (int)(s.n_blocks % QMI_PVQ_CHUNK);
    s.n_tiles = n_rows / QMI_PVQ_TILE + (n_rows % QMI_PVQ_TILE != 0);
    /* A tail needs less than its share of a chunk: its signs are whole bytes
     * per row, not whole words, and pvq packs no missing block. */
    s.chunk_bytes =
        position_bytes(n, QMI_PVQ_CHUNK) + sign_bytes(QMI_PVQ_CHUNK);
    s.tile_bytes = (size_t)s.n_chunks * s.chunk_bytes +
                   position_bytes(n, s.tail) + sign_bytes(s.tail);
    return s;
}

/* Where a block lies in the codes of a matrix. */
typedef struct place {
    size_t code;    /* pvq: its position byte; pvq8: low byte of its group */
    int code_shift; /* pvq8: first of its 6 bits in the group's 24 */
    size_t sign;    /* byte with its sign ... */
    int sign_shift; /* ... and the bit there */
} place;

/* `width` blocks share the chunk or tail that begins at `base`; the block is
 * number k of them. */
static place place_in(int n, size_t base, int width, int lane, int k)
{
    /* Kernels load the signs of a chunk as one word per row.  A tail has a byte
     * per row and 8 blocks instead. */
    const bool words = width == QMI_PVQ_CHUNK;
    const int group = k / GROUP, grouped = width / GROUP * GROUP;
    /* The signs follow all positions of the chunk or tail. */
    const size_t signs = base + position_bytes(n, width);
    place p = {.code_shift = k % GROUP * 6, .sign_shift = k % SIGNS};
    /* pvq8: three planes with a byte per row.  pvq: the four bytes of a row's
     * group are one word; blocks that fill no group have a byte per row. */
    if (n == 8)
        p.code = base + (size_t)(group * 3 * QMI_PVQ_TILE + lane);
    else if (k < grouped)
        p.code = base + (size_t)((group * QMI_PVQ_TILE + lane) * GROUP) +
                 (size_t)(k % GROUP);
    else
        p.code = base + (size_t)(k * QMI_PVQ_TILE + lane);
    p.sign = signs + (size_t)(words ? lane * GROUP + k / SIGNS
                                    : k / SIGNS * QMI_PVQ_TILE + lane);
    return p;
}

/* All tiles and all chunks have the same size, but for the last one of a row,
 * so that a block is found by arithmetic alone. */
static place place_of(const qmi_pvq_shape *shape, int64_t row, int64_t block)
{
    assert(block >= 0 && block < shape->n_blocks);
    assert(row >= 0 && row / QMI_PVQ_TILE < shape->n_tiles);
    const int64_t chunk = block / QMI_PVQ_CHUNK;
    size_t base = (size_t)(row / QMI_PVQ_TILE) * shape->tile_bytes +
                  (size_t)chunk * shape->chunk_bytes;
    int width = chunk < shape->n_chunks ? QMI_PVQ_CHUNK : shape->tail;
    return place_in(shape->n, base, width, (int)(row % QMI_PVQ_TILE),
        (int)(block % QMI_PVQ_CHUNK));
}

/* ---- blocks ---- */

/* The 24 position bits of four pvq8 blocks. */
static uint32_t load_group(const uint8_t *low)
{
    return low[0] | (uint32_t)low[QMI_PVQ_TILE] << 8 |
           (uint32_t)low[2 * QMI_PVQ_TILE] << 16;
}

qmi_pvq_block qmi_pvq_get(const qmi_pvq_shape *shape, const uint8_t *codes,
    int64_t row, int64_t block)
{
    const place p = place_of(shape, row, block);
    const uint8_t sign = codes[p.sign] >> p.sign_shift & 1;
    if (shape->n == 16)
        return (qmi_pvq_block){codes[p.code] & 15, codes[p.code] >> 4, sign};
    uint32_t bits = load_group(codes + p.code) >> p.code_shift;
    return (qmi_pvq_block){bits & 7, bits >> 3 & 7, sign};
}

void qmi_pvq_set(const qmi_pvq_shape *shape, uint8_t *codes, int64_t row,
    int64_t block, qmi_pvq_block value)
{
    const place p = place_of(shape, row, block);
    assert(value.a < shape->n && value.b < shape->n && value.sign < 2);
    /* Codes begin as zeros and a block is written once, so bits are only
     * added. */
    codes[p.sign] |= (uint8_t)(value.sign << p.sign_shift);
    if (shape->n == 16) {
        codes[p.code] |= (uint8_t)(value.a | value.b << 4);
        return;
    }
    uint32_t bits = (uint32_t)(value.a | value.b << 3) << p.code_shift;
    for (int plane = 0; plane < 3; plane++)
        codes[p.code + (size_t)(plane * QMI_PVQ_TILE)] |=
            (uint8_t)(bits >> 8 * plane);
}

/* The order of a and b carries the second sign, so that 9 (7) bits say what 10
 * (8) would. */
qmi_pvq_block qmi_pvq_make(int a, int sign_a, int b, int sign_b)
{
    const bool equal = sign_a == sign_b;
    assert(a != b || equal);
    /* Equal signs want a <= b, opposite ones a > b. */
    if ((a <= b) == equal)
        return (qmi_pvq_block){(uint8_t)a, (uint8_t)b, sign_a < 0};
    return (qmi_pvq_block){(uint8_t)b, (uint8_t)a, sign_b < 0};
}

/* Both pulses at one place add up to +2 or -2: b adds to what a wrote. */
void qmi_pvq_expand(int8_t *q, int n, qmi_pvq_block block)
{
    const int8_t sign_a = block.sign != 0 ? -1 : 1;
    memset(q, 0, (size_t)n);
    q[block.a] = sign_a;
    q[block.b] = (int8_t)(q[block.b] + (block.a <= block.b ? sign_a : -sign_a));
}

/* ---- stacks ---- */

static int width_of(const qmi_weight *w)
{
    return qmi_pvq_width(w->format);
}

const uint8_t *qmi_pvq_codes(const qmi_weight *w, int64_t mat)
{
    /* Offsets of matrices fit size_t: open_stack has compared the product with
     * the bytes that are there. */
    const qmi_pvq_shape s = qmi_pvq_shape_of(width_of(w), w->n_rows, w->n_cols);
    const uint8_t *codes = w->parts[QMI_PVQ_CODES].data;
    return codes + (size_t)mat * (size_t)s.n_tiles * s.tile_bytes;
}

const uint8_t *qmi_pvq_scales(const qmi_weight *w, int64_t mat)
{
    const uint8_t *scales = w->parts[QMI_PVQ_SCALES].data;
    return scales + 2 * mat * w->n_rows;
}

static int shape_codes(
    int64_t shape[3], int n, int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    const qmi_pvq_shape s = qmi_pvq_shape_of(n, n_rows, n_cols);
    shape[0] = n_mats;
    shape[1] = s.n_tiles;
    shape[2] = (int64_t)s.tile_bytes;
    return 3;
}

static int shape_codes_16(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    return shape_codes(shape, 16, n_mats, n_rows, n_cols);
}

static int shape_codes_8(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    return shape_codes(shape, 8, n_mats, n_rows, n_cols);
}

static int shape_scales(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_cols;
    shape[0] = n_mats;
    shape[1] = n_rows;
    return 2;
}

/* The last place where sizes are doubted: everything behind it computes without
 * checks. */
static qmoe_status open_stack(const qmi_weight *w, qmi_error *err)
{
    /* Keeps the sizes of one tile far from overflow. */
    static const int64_t max_cols = INT64_C(1) << 32;
    if (w->n_mats < 1 || w->n_rows < 1 || w->n_cols < 1 || w->n_cols > max_cols)
        return qmi_fail(err, QMOE_E_FORMAT,
            "'%s': no stack can have the shape [%" PRId64 ", %" PRId64
            ", %" PRId64 "]",
            w->name, w->n_mats, w->n_rows, w->n_cols);
    QMI_TRY(qmi_rotation_check(w, err));
    const qmi_pvq_shape s = qmi_pvq_shape_of(width_of(w), w->n_rows, w->n_cols);
    uint64_t n_mats = (uint64_t)w->n_mats, n = 0;
    bool fits = qmi_mul_u64(n_mats, (uint64_t)s.n_tiles, &n) &&
                qmi_mul_u64(n, s.tile_bytes, &n);
    QMI_TRY(qmi_weight_check_size(w, QMI_PVQ_CODES, fits, n, err));
    fits =
        qmi_mul_u64(n_mats, (uint64_t)w->n_rows, &n) && qmi_mul_u64(n, 2, &n);
    return qmi_weight_check_size(w, QMI_PVQ_SCALES, fits, n, err);
}

/* Any code is a block; a scale that is not finite would spread into every
 * output. */
static qmoe_status check_scales(
    const qmi_weight *w, int64_t mat, qmi_error *err)
{
    const uint8_t *scales = qmi_pvq_scales(w, mat);
    for (int64_t row = 0; row < w->n_rows; row++) {
        uint16_t scale = qmi_load_u16(scales + 2 * row);
        if ((scale & 0x7f80) == 0x7f80)
            return qmi_fail(err, QMOE_E_FORMAT,
                "scales: row %" PRId64 ": 0x%04x is not finite", row, scale);
    }
    return QMOE_OK;
}

/* ---- decode ---- */

static void decode_row(const qmi_pvq_shape *shape, const uint8_t *codes,
    int64_t row, float scale, int64_t n_cols, float *dst)
{
    int8_t q[16];
    for (int64_t block = 0; block < shape->n_blocks; block++) {
        const int64_t begin = block * shape->n;
        qmi_pvq_expand(q, shape->n, qmi_pvq_get(shape, codes, row, block));
        /* The last block reaches over the end of the row; its padding is
         * dropped. */
        for (int64_t c = begin; c < begin + shape->n && c < n_cols; c++)
            dst[c] = scale * q[c - begin];
    }
}

static void decode_rows(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const qmi_pvq_shape s = qmi_pvq_shape_of(width_of(w), w->n_rows, w->n_cols);
    const uint8_t *codes = qmi_pvq_codes(w, mat);
    const uint8_t *scales = qmi_pvq_scales(w, mat);
    /* Rows are stored rotated; the plain decoder gives those of the model. */
    for (int64_t r = row; r < row + n; r++) {
        float scale = qmi_bf16_to_f32(qmi_load_u16(scales + 2 * r));
        decode_row(&s, codes, r, scale, w->n_cols, dst);
        if (w->rotation != 0)
            qmi_unrotate(dst, w->n_cols, w->rotation, w->rotation_seed);
        dst += w->n_cols;
    }
}

/* Two formats that differ in the width of a block only. */
#define PVQ(name_id, text, bits, shape_of_codes)                               \
    {                                                                          \
        .id = name_id, .name = text,                                           \
        .summary = bits " per weight and a scale per row", .rotates = true,    \
        .n_parts = 2,                                                          \
        .parts =                                                               \
            {                                                                  \
                [QMI_PVQ_CODES] = {"codes", QMI_U8, shape_of_codes},           \
                [QMI_PVQ_SCALES] = {"scales", QMI_BF16, shape_scales},         \
            },                                                                 \
        .configure = qmi_rotation_configure, .record = qmi_rotation_record,    \
        .open = open_stack, .check = check_scales, .decode = decode_rows,      \
    }

const qmi_format qmi_format_pvq =
    PVQ(QMI_FORMAT_PVQ, "pvq", "0.56 bits", shape_codes_16);
const qmi_format qmi_format_pvq8 =
    PVQ(QMI_FORMAT_PVQ8, "pvq8", "0.88 bits", shape_codes_8);

int qmi_pvq_width(const qmi_format *format)
{
    return format->id == QMI_FORMAT_PVQ    ? 16
           : format->id == QMI_FORMAT_PVQ8 ? 8
                                           : 0;
}
