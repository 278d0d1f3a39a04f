/* SPDX-License-Identifier: Apache-2.0
 * Formats "pvq" and "pvq8": every block, the layout against a reader that
 * walks the bytes in the order of docs/format.md, decoding, validation. */
#include "scratch.h"

#include <stdbool.h>
#include <stdlib.h>

#include "mt19937.h"
#include "pvq.h"
#include "rotation.h"

/* ---- the format read plainly ---- */

enum { TILE = 32 };

/* Blocks of one tile, by row and block. */
typedef struct plain_tile {
    int n_blocks;
    uint8_t positions[TILE][256]; /* 8 or 6 bits */
    uint8_t signs[TILE][256];
} plain_tile;

/* Reads units one after the other. */
typedef struct cursor {
    const uint8_t *at;
    plain_tile *tile;
    int n, block; /* width; first block of the part being read */
} cursor;

static void read_pvq_group(cursor *c, int block)
{
    for (int row = 0; row < TILE; row++)
        for (int i = 0; i < 4; i++)
            c->tile->positions[row][block + i] = *c->at++;
}

static void read_pvq_column(cursor *c, int block)
{
    for (int row = 0; row < TILE; row++)
        c->tile->positions[row][block] = *c->at++;
}

static void read_pvq8_group(cursor *c, int block, int n_blocks)
{
    for (int row = 0; row < TILE; row++) {
        unsigned bits = c->at[row] + 256u * c->at[TILE + row] +
                        65536u * c->at[2 * TILE + row];
        for (int i = 0; i < n_blocks; i++)
            c->tile->positions[row][block + i] = bits >> 6 * i & 63;
    }
    c->at += 3 * TILE;
}

static void read_chunk(cursor *c)
{
    for (int group = 0; group < 8; group++) {
        if (c->n == 16)
            read_pvq_group(c, c->block + 4 * group);
        else
            read_pvq8_group(c, c->block + 4 * group, 4);
    }
    for (int row = 0; row < TILE; row++, c->at += 4)
        for (int i = 0; i < 32; i++)
            c->tile->signs[row][c->block + i] = c->at[i / 8] >> i % 8 & 1;
    c->block += 32;
}

static void read_tail(cursor *c, int r)
{
    for (int i = 0; i < r; i += 4) {
        int left = r - i < 4 ? r - i : 4;
        if (c->n == 8)
            read_pvq8_group(c, c->block + i, left);
        else if (left == 4)
            read_pvq_group(c, c->block + i);
        else
            for (int k = 0; k < left; k++)
                read_pvq_column(c, c->block + i + k);
    }
    for (int i = 0; i < r; i += 8)
        for (int row = 0; row < TILE; row++, c->at++)
            for (int k = 0; k < 8 && i + k < r; k++)
                c->tile->signs[row][c->block + i + k] = *c->at >> k & 1;
}

/* Returns the bytes of the tile. */
static size_t read_tile(plain_tile *tile, const uint8_t *at, int n, int blocks)
{
    cursor c = {.at = at, .tile = tile, .n = n};
    tile->n_blocks = blocks;
    for (int i = 0; i + 32 <= blocks; i += 32)
        read_chunk(&c);
    if (blocks % 32 != 0)
        read_tail(&c, blocks % 32);
    return (size_t)(c.at - at);
}

/* q [n] as the document defines it. */
static void plain_block(int *q, int n, int positions, int sign)
{
    int bits = n == 16 ? 4 : 3;
    int a = positions % n, b = positions >> bits;
    int s = sign ? -1 : 1;
    for (int i = 0; i < n; i++)
        q[i] = 0;
    q[a] += s;
    q[b] += a > b ? -s : s;
}

/* ---- blocks ---- */

static void every_block(void **state)
{
    (void)state;
    for (int n = 8; n <= 16; n += 8) {
        static int8_t seen[512][16];
        int n_seen = 0;
        memset(seen, 0, sizeof seen);
        for (int a = 0; a < n; a++)
            for (int b = 0; b < n; b++)
                for (int sign = 0; sign < 2; sign++) {
                    const qmi_pvq_block block = {
                        (uint8_t)a, (uint8_t)b, (uint8_t)sign};
                    int8_t *q = seen[n_seen];
                    int expected[16], norm = 0;
                    qmi_pvq_expand(q, n, block);
                    plain_block(expected, n, a | b << (n == 16 ? 4 : 3), sign);
                    for (int i = 0; i < n; i++) {
                        assert_int_equal(q[i], expected[i]);
                        norm += abs(q[i]);
                    }
                    assert_int_equal(norm, 2);
                    for (int i = 0; i < n_seen; i++)
                        assert_memory_not_equal(q, seen[i], (size_t)n);
                    n_seen++;
                }
        assert_int_equal(n_seen, 2 * n * n);
    }
}

static void make_is_the_inverse_of_expand(void **state)
{
    (void)state;
    for (int a = 0; a < 16; a++)
        for (int b = 0; b < 16; b++)
            for (int signs = 0; signs < 4; signs++) {
                int sa = signs & 1 ? -1 : 1, sb = signs & 2 ? -1 : 1;
                int8_t q[16], expected[16] = {0};
                if (a == b && sa != sb)
                    continue;
                expected[a] = (int8_t)(expected[a] + sa);
                expected[b] = (int8_t)(expected[b] + sb);
                qmi_pvq_expand(q, 16, qmi_pvq_make(a, sa, b, sb));
                assert_memory_equal(q, expected, sizeof q);
            }
}

/* ---- layout ---- */

/* Sizes as the document gives them. */
static size_t plain_tile_bytes(int n, int blocks)
{
    int chunks = blocks / 32, r = blocks % 32;
    int signs = (r + 7) / 8 * 32;
    if (n == 16)
        return (size_t)(chunks * 1152 + r / 4 * 128 + r % 4 * 32 + signs);
    return (size_t)(chunks * 896 + (r + 3) / 4 * 96 + signs);
}

static void random_bytes(uint8_t *bytes, size_t n, uint32_t seed)
{
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, seed);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)qmi_mt19937_u32(&rng);
}

/* Every block of `codes`, read both ways. */
static void compare_blocks(
    const qmi_pvq_shape *s, const uint8_t *codes, int64_t n_rows)
{
    static plain_tile tile;
    for (int64_t row = 0; row < n_rows; row++) {
        const uint8_t *at = codes + (size_t)(row / TILE) * s->tile_bytes;
        if (row % TILE == 0)
            assert_int_equal(
                read_tile(&tile, at, s->n, (int)s->n_blocks), s->tile_bytes);
        for (int64_t b = 0; b < s->n_blocks; b++) {
            qmi_pvq_block block = qmi_pvq_get(s, codes, row, b);
            int positions = block.a | block.b << (s->n == 16 ? 4 : 3);
            assert_int_equal(positions, tile.positions[row % TILE][b]);
            assert_int_equal(block.sign, tile.signs[row % TILE][b]);
        }
    }
}

/* All tails, with and without chunks before them, and the sizes. */
static void layout_of_every_tail(void **state)
{
    (void)state;
    for (int n = 8; n <= 16; n += 8)
        for (int blocks = 1; blocks <= 67; blocks++) {
            const int64_t n_cols = (int64_t)blocks * n - blocks % n;
            const int64_t n_rows = blocks % 3 == 0 ? 33 : 1 + blocks % 32;
            const qmi_pvq_shape s = qmi_pvq_shape_of(n, n_rows, n_cols);
            assert_int_equal(s.n_blocks, blocks);
            assert_int_equal(s.n_chunks, blocks / 32);
            assert_int_equal(s.tail, blocks % 32);
            assert_int_equal(s.n_tiles, (n_rows + 31) / 32);
            assert_int_equal(s.tile_bytes, plain_tile_bytes(n, blocks));
            assert_int_equal(s.tile_bytes % 32, 0);
            size_t n_bytes = (size_t)s.n_tiles * s.tile_bytes;
            uint8_t *codes = malloc(n_bytes);
            assert_non_null(codes);
            random_bytes(codes, n_bytes, (uint32_t)(blocks + n));
            compare_blocks(&s, codes, n_rows);
            free(codes);
        }
}

/* What is set is read back, sets no other bit, and leaves padding zero. */
static void set_and_get(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {
        {1, 1}, {32, 512}, {33, 256}, {5, 1041}, {64, 130}, {31, 767}};
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 7);
    for (int n = 8; n <= 16; n += 8)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            const int64_t n_rows = shapes[k][0];
            const qmi_pvq_shape s = qmi_pvq_shape_of(n, n_rows, shapes[k][1]);
            size_t n_bytes = (size_t)s.n_tiles * s.tile_bytes, n_set = 0;
            uint8_t *codes = calloc(n_bytes, 1);
            assert_non_null(codes);
            for (int64_t row = 0; row < n_rows; row++)
                for (int64_t b = 0; b < s.n_blocks; b++) {
                    uint32_t bits = qmi_mt19937_u32(&rng);
                    qmi_pvq_block block = {(uint8_t)(bits % (unsigned)n),
                        (uint8_t)(bits / 16 % (unsigned)n), bits >> 31};
                    qmi_pvq_set(&s, codes, row, b, block);
                    qmi_pvq_block back = qmi_pvq_get(&s, codes, row, b);
                    assert_memory_equal(&back, &block, sizeof block);
                    n_set += (size_t)__builtin_popcount(block.a) +
                             (size_t)__builtin_popcount(block.b) + block.sign;
                }
            for (size_t i = 0; i < n_bytes; i++)
                n_set -= (size_t)__builtin_popcount(codes[i]);
            assert_int_equal(n_set, 0);
            compare_blocks(&s, codes, n_rows);
            free(codes);
        }
}

/* ---- the examples of docs/format.md ---- */

/* A pair of pulses: +-(1 + position). */
static void set_pulses(const qmi_pvq_shape *s, uint8_t *codes, int64_t row,
    const int (*pulses)[2], int n)
{
    for (int b = 0; b < n; b++) {
        const int first = pulses[b][0], second = pulses[b][1];
        qmi_pvq_set(s, codes, row, b,
            qmi_pvq_make(abs(first) - 1, first < 0 ? -1 : 1, abs(second) - 1,
                second < 0 ? -1 : 1));
    }
}

static void examples(void **state)
{
    (void)state;
    static const int wide[2][5][2] = {
        {{4, 8}, {4, -8}, {-6, -6}, {-1, 16}, {-3, 10}},
        {{-15, -16}, {1, 1}, {2, -3}, {-9, 13}, {7, 8}}};
    static const int narrow[1][4][2] = {{{4, 8}, {4, -8}, {-6, -6}, {-1, 7}}};
    uint8_t codes[192] = {0}, expected[192] = {0};
    qmi_pvq_shape s = qmi_pvq_shape_of(16, 2, 72);
    assert_int_equal((size_t)s.n_tiles * s.tile_bytes, 192);
    set_pulses(&s, codes, 0, wide[0], 5);
    set_pulses(&s, codes, 1, wide[1], 5);
    memcpy(expected, "\x73\x37\x55\x0f\xfe\x00\x12\x8c", 8);
    memcpy(expected + 128, "\x29\x76", 2);
    memcpy(expected + 160, "\x06\x05", 2);
    assert_memory_equal(codes, expected, 192);

    memset(codes, 0, sizeof codes);
    memset(expected, 0, sizeof expected);
    s = qmi_pvq_shape_of(8, 1, 32);
    assert_int_equal((size_t)s.n_tiles * s.tile_bytes, 128);
    set_pulses(&s, codes, 0, narrow[0], 4);
    expected[0] = 0xfb;
    expected[32] = 0xd7;
    expected[64] = 0x1a;
    expected[96] = 0x06;
    assert_memory_equal(codes, expected, 128);
}

/* ---- stacks ---- */

typedef struct stack {
    qmi_weight w;
    uint8_t *codes, *scales;
} stack;

/* Random codes and scales around 1. */
static stack make_stack(const qmi_format *format, int64_t n_mats,
    int64_t n_rows, int64_t n_cols, int32_t rotation)
{
    stack s = {.w = {.format = format,
                   .name = "s",
                   .n_mats = n_mats,
                   .n_rows = n_rows,
                   .n_cols = n_cols,
                   .rotation = rotation,
                   .rotation_seed = 5}};
    const qmi_pvq_shape shape =
        qmi_pvq_shape_of(qmi_pvq_width(format), n_rows, n_cols);
    size_t n_codes = (size_t)n_mats * (size_t)shape.n_tiles * shape.tile_bytes;
    size_t n_scales = 2 * (size_t)(n_mats * n_rows);
    s.codes = malloc(n_codes);
    s.scales = malloc(n_scales);
    assert_non_null(s.codes);
    assert_non_null(s.scales);
    random_bytes(s.codes, n_codes, 1);
    random_bytes(s.scales, n_scales, 2);
    for (size_t i = 1; i < n_scales; i += 2)
        s.scales[i] = 0x3f;
    s.w.parts[QMI_PVQ_CODES] = (qmi_part){s.codes, n_codes};
    s.w.parts[QMI_PVQ_SCALES] = (qmi_part){s.scales, n_scales};
    return s;
}

static void free_stack(stack *s)
{
    free(s->codes);
    free(s->scales);
}

/* Row `row` of matrix `mat` in the stored basis, from the bytes alone. */
static void plain_row(const stack *s, int64_t mat, int64_t row, float *dst)
{
    static plain_tile tile;
    const int n = s->w.format == &qmi_format_pvq ? 16 : 8;
    const int blocks = (int)((s->w.n_cols + n - 1) / n);
    const int64_t n_tiles = (s->w.n_rows + 31) / 32;
    size_t bytes = plain_tile_bytes(n, blocks);
    read_tile(&tile, s->codes + (size_t)(mat * n_tiles + row / 32) * bytes, n,
        blocks);
    const uint8_t *at = s->scales + 2 * (mat * s->w.n_rows + row);
    uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    for (int64_t c = 0; c < s->w.n_cols; c++) {
        int q[16];
        plain_block(
            q, n, tile.positions[row % 32][c / n], tile.signs[row % 32][c / n]);
        dst[c] = scale * (float)q[c % n];
    }
}

static void decoded_rows(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {2, 33, 17}, {3, 5, 530}, {1, 64, 512}, {2, 31, 1100}};
    static const int32_t rotations[] = {0, 1, 64, 1024};
    static const qmi_format *const formats[] = {
        &qmi_format_pvq, &qmi_format_pvq8};
    for (int f = 0; f < 2; f++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (int r = 0; r < 4; r++) {
                const int64_t n_cols = shapes[k][2];
                stack s = make_stack(formats[f], shapes[k][0], shapes[k][1],
                    n_cols, rotations[r]);
                qmi_error err = {0};
                float *expected = malloc((size_t)n_cols * sizeof(float));
                float *rows = malloc(2 * (size_t)n_cols * sizeof(float));
                assert_int_equal(s.w.format->open(&s.w, &err), QMOE_OK);
                for (int64_t mat = 0; mat < s.w.n_mats; mat++)
                    for (int64_t row = 0; row < s.w.n_rows; row++) {
                        int n = row + 1 < s.w.n_rows ? 2 : 1;
                        plain_row(&s, mat, row, expected);
                        if (rotations[r] != 0)
                            qmi_unrotate(expected, n_cols, rotations[r], 5);
                        assert_int_equal(
                            qmi_weight_check(&s.w, mat, &err), QMOE_OK);
                        qmi_weight_decode(&s.w, mat, row, n, rows);
                        for (int64_t c = 0; c < n_cols; c++)
                            assert_true(rows[c] == expected[c]);
                    }
                free(rows);
                free(expected);
                free_stack(&s);
            }
}

static void formats_are_in_the_table(void **state)
{
    (void)state;
    assert_ptr_equal(qmi_format_find("pvq"), &qmi_format_pvq);
    assert_ptr_equal(qmi_format_find("pvq8"), &qmi_format_pvq8);
    assert_int_equal(qmi_pvq_width(&qmi_format_pvq), 16);
    assert_int_equal(qmi_pvq_width(&qmi_format_pvq8), 8);
    assert_int_equal(qmi_pvq_width(qmi_format_find("bf16")), 0);
    assert_int_equal(qmi_pvq_width(qmi_format_find("ternary-dict")), 0);
}

static void stored_shapes(void **state)
{
    (void)state;
    int64_t shape[3];
    const qmi_part_spec *parts = qmi_format_pvq.parts;
    assert_int_equal(parts[QMI_PVQ_CODES].shape(shape, 4, 2080, 6144), 3);
    assert_int_equal(shape[0], 4);
    assert_int_equal(shape[1], 65);
    assert_int_equal(shape[2], 12 * 1152);
    assert_int_equal(parts[QMI_PVQ_SCALES].shape(shape, 4, 2080, 6144), 2);
    assert_int_equal(shape[0], 4);
    assert_int_equal(shape[1], 2080);
    qmi_format_pvq8.parts[QMI_PVQ_CODES].shape(shape, 1, 33, 2080);
    assert_int_equal(shape[1], 2);
    assert_int_equal(shape[2], 8 * 896 + 96 + 32);
}

static double bits_per_weight(
    const qmi_format *format, int64_t n_rows, int64_t n_cols)
{
    stack s = make_stack(format, 2, n_rows, n_cols, 0);
    double bits = 8.0 * (double)qmi_weight_bytes(&s.w);
    free_stack(&s);
    return bits / (double)(2 * n_rows * n_cols);
}

static void sizes(void **state)
{
    (void)state;
    const qmi_format *pvq = &qmi_format_pvq, *pvq8 = &qmi_format_pvq8;
    double small =
        bits_per_weight(pvq, 512, 256) + bits_per_weight(pvq, 256, 512);
    double large =
        bits_per_weight(pvq, 6144, 2080) + bits_per_weight(pvq, 2080, 6144);
    assert_true(small / 2 <= 0.62);
    assert_true(large / 2 <= 0.575);
    assert_true(bits_per_weight(pvq, 768, 3072) < 0.568);
    assert_true(bits_per_weight(pvq8, 768, 3072) < 0.881);
}

/* ---- refusals ---- */

static void refused(void **state)
{
    (void)state;
    static const qmi_format *const formats[] = {
        &qmi_format_pvq, &qmi_format_pvq8};
    for (int f = 0; f < 2; f++) {
        stack s = make_stack(formats[f], 2, 40, 100, 0);
        qmi_error err = {0};
        qmi_weight w = s.w;
        w.parts[QMI_PVQ_CODES].n_bytes--;
        assert_error(
            w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s.codes'");
        w = s.w;
        w.parts[QMI_PVQ_SCALES].n_bytes += 2;
        assert_error(
            w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s.scales'");
        w = s.w;
        w.n_cols = INT64_C(1) << 62;
        w.n_mats = w.n_rows = INT64_MAX;
        assert_error(w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s'");
        w.n_cols = INT64_C(1) << 32;
        assert_error(
            w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s.codes'");
        w = s.w;
        w.n_rows = 0;
        assert_error(w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s'");
        static const int32_t rotations[] = {-1, 3, 2048};
        for (int i = 0; i < 3; i++) {
            w = s.w;
            w.rotation = rotations[i];
            assert_error(w.format->open(&w, &err), QMOE_E_FORMAT, err.text,
                "power of two");
        }
        static const uint8_t odd[][2] = {
            {0x80, 0x7f}, {0x80, 0xff}, {0xc1, 0x7f}};
        for (int i = 0; i < 3; i++) {
            memcpy(s.scales + 2 * (40 + 39), odd[i], 2);
            assert_int_equal(qmi_weight_check(&s.w, 0, &err), QMOE_OK);
            assert_error(qmi_weight_check(&s.w, 1, &err), QMOE_E_FORMAT,
                err.text, "scales: row 39");
        }
        free_stack(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block),
        cmocka_unit_test(make_is_the_inverse_of_expand),
        cmocka_unit_test(layout_of_every_tail),
        cmocka_unit_test(set_and_get),
        cmocka_unit_test(examples),
        cmocka_unit_test(decoded_rows),
        cmocka_unit_test(formats_are_in_the_table),
        cmocka_unit_test(stored_shapes),
        cmocka_unit_test(sizes),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
