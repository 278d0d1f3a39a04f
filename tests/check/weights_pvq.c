/* SPDX-License-Identifier: Apache-2.0
 * Weights in the formats "pvq" and "pvq8" of docs/format.md.  Any
 * bytes are valid codes, so codes are random bytes (in padding too) and the
 * values are read from them here, without the library's decoder. */
#include "weights.h"

#include <stdlib.h>

#include "pvq.h"

enum { TILE = 32, CHUNK = 32 };

typedef struct layout {
    int n;            /* weights per block: 16 or 8 */
    int64_t n_blocks; /* per row */
    size_t tile_bytes;
} layout;

/* Bytes of the positions, and of the signs, of `r` blocks of a tile. */
static size_t position_bytes(int n, int64_t r)
{
    return n == 16 ? (size_t)r * TILE : (size_t)((r + 3) / 4) * 3 * TILE;
}

static size_t sign_bytes(int64_t r)
{
    return (size_t)((r + 7) / 8) * TILE;
}

static layout layout_of(int n, int64_t n_cols)
{
    layout l = {.n = n, .n_blocks = (n_cols + n - 1) / n};
    int64_t chunks = l.n_blocks / CHUNK, tail = l.n_blocks % CHUNK;
    l.tile_bytes =
        (size_t)chunks * (position_bytes(n, CHUNK) + sign_bytes(CHUNK)) +
        position_bytes(n, tail) + sign_bytes(tail);
    return l;
}

/* Block k of the r blocks that start at `at`, of the row `lane`. */
static void read_block(
    int *a, int *b, int *sign, int n, const uint8_t *at, int r, int k, int lane)
{
    const uint8_t *signs = at + position_bytes(n, r);
    *sign = r == CHUNK ? signs[4 * lane + k / 8] >> k % 8 & 1
                       : signs[k / 8 * TILE + lane] >> k % 8 & 1;
    if (n == 16) {
        int group = k / 4, in_words = k < r / 4 * 4;
        int byte = in_words ? at[(group * TILE + lane) * 4 + k % 4]
                            : at[k * TILE + lane];
        *a = byte & 15;
        *b = byte >> 4;
        return;
    }
    const uint8_t *planes = at + k / 4 * 3 * TILE + lane;
    int bits = planes[0] | planes[TILE] << 8 | planes[2 * TILE] << 16;
    *a = bits >> 6 * (k % 4) & 7;
    *b = bits >> (6 * (k % 4) + 3) & 7;
}

static void read_row(float *dst, const layout *l, const uint8_t *codes,
    int64_t row, float scale, int64_t n_cols)
{
    const uint8_t *tile = codes + (size_t)(row / TILE) * l->tile_bytes;
    size_t chunk_bytes = position_bytes(l->n, CHUNK) + sign_bytes(CHUNK);
    for (int64_t block = 0; block < l->n_blocks; block++) {
        int64_t chunk = block / CHUNK, left = l->n_blocks - chunk * CHUNK;
        int a, b, sign, q[16] = {0};
        read_block(&a, &b, &sign, l->n, tile + (size_t)chunk * chunk_bytes,
            left < CHUNK ? (int)left : CHUNK, (int)(block % CHUNK),
            (int)(row % TILE));
        int first = sign != 0 ? -1 : 1;
        q[a] += first;
        q[b] += a <= b ? first : -first;
        for (int i = 0; i < l->n && block * l->n + i < n_cols; i++)
            dst[block * l->n + i] = scale * (float)q[i];
    }
}

/* Rows of equal bytes: all pulses on one place, of one sign. */
static void draw_codes(uint8_t *codes, size_t n_bytes, value_kind kind, rng *r)
{
    static const uint8_t patterns[] = {0x00, 0xff, 0xf0, 0x77};
    uint8_t pattern = patterns[rng_below(r, 4)];
    for (size_t i = 0; i < n_bytes; i++)
        codes[i] = kind == VALUES_STRUCTURED ? pattern : (uint8_t)rng_next(r);
}

/* A finite bf16; negative ones are valid too. */
static uint16_t draw_scale(value_kind kind, rng *r)
{
    bool plain = kind == VALUES_SPECIAL || kind == VALUES_STRUCTURED;
    float scale = draw_value(r, plain ? VALUES_RANDOM : kind);
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static void store(gen_weight *w, const weight_request *q, rng *r, int n)
{
    layout l = layout_of(n, q->n_cols);
    size_t n_tiles = (size_t)(q->n_rows + TILE - 1) / TILE;
    size_t n_rows = (size_t)(q->n_mats * q->n_rows);
    size_t n_bytes = (size_t)q->n_mats * n_tiles * l.tile_bytes;
    uint8_t *codes = check_calloc(n_bytes, 1);
    uint16_t *scales = check_calloc(n_rows, sizeof *scales);
    draw_codes(codes, n_bytes, q->values, r);
    for (size_t row = 0; row < n_rows; row++) {
        size_t mat = row / (size_t)q->n_rows;
        scales[row] = draw_scale(q->values, r);
        uint32_t bits = (uint32_t)scales[row] << 16;
        float scale;
        memcpy(&scale, &bits, sizeof scale);
        float *values = w->values + row * (size_t)q->n_cols;
        read_row(values, &l, codes + mat * n_tiles * l.tile_bytes,
            (int64_t)(row % (size_t)q->n_rows), scale, q->n_cols);
        if (w->stored == NULL)
            continue;
        memcpy(w->stored + row * (size_t)q->n_cols, values,
            (size_t)q->n_cols * sizeof *values);
        rotate_back(values, &w->host);
    }
    bool odd = q->layout != LAYOUT_ALIGNED;
    w->host.parts[QMI_PVQ_CODES] =
        (qmi_part){weight_place(w, codes, n_bytes, odd), n_bytes};
    w->host.parts[QMI_PVQ_SCALES] =
        (qmi_part){weight_place(w, scales, 2 * n_rows, odd), 2 * n_rows};
    free(codes);
    free(scales);
}

void store_pvq(gen_weight *w, const weight_request *request, rng *r)
{
    store(w, request, r, 16);
}

void store_pvq8(gen_weight *w, const weight_request *request, rng *r)
{
    store(w, request, r, 8);
}

/* A scale that is no number would spread into every output. */
void corrupt_pvq(gen_weight *w)
{
    const void *scales = w->host.parts[QMI_PVQ_SCALES].data;
    const uint16_t infinity = 0x7f80;
    memcpy((uint8_t *)(uintptr_t)scales, &infinity, sizeof infinity);
}
