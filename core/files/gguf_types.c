/* SPDX-License-Identifier: Apache-2.0
 * In: blocks of a GGUF type.  Out: f32.  A block holds codes of a few bits and
 * the scales that they are multiplied by, f16 numbers.  Types "_0" have a scale
 * d (value d*q), types "_1" a minimum m as well (d*q + m).  Types "_K" have 256
 * elements in groups of 16 or 32, each with an integer scale of its own that
 * multiplies d, and Q2_K, Q4_K and Q5_K an integer minimum that multiplies a
 * second f16 number, which is subtracted.
 *
 * Codes lie in "planes": the low bits of a byte are an element, the next bits
 * the element one plane of 16, 32 or 64 further on.  The order of the
 * multiplications decides the last bit and is part of the format. */
#include "gguf_types.h"

#include <stddef.h>

/* ---- what blocks are made of ---- */

static float half_at(const uint8_t *p)
{
    return qmi_f16_to_f32(qmi_load_u16(p));
}

/* Bit `bit` of the byte, as 0 or 1. */
static unsigned bit_of(uint8_t byte, unsigned bit)
{
    return (byte >> bit) & 1u;
}

/* ---- blocks of 32 ---- */

/* Codes of 4 bits: elements 0 to 15 are the low halves of 16 bytes, elements
 * 16 to 31 the high ones. */
static unsigned nibble(const uint8_t *codes, int i)
{
    return i < 16 ? codes[i] & 15u : codes[i - 16] >> 4;
}

/* The fifth bit of each of 32 codes, element i in bit i. */
static unsigned fifth(const uint8_t *high, int i)
{
    return bit_of(high[i / 8], (unsigned)i % 8) << 4;
}

static void decode_q4_0(float *dst, const uint8_t *block)
{
    const float d = half_at(block);
    for (int i = 0; i < 32; i++)
        dst[i] = d * (float)((int)nibble(block + 2, i) - 8);
}

static void decode_q4_1(float *dst, const uint8_t *block)
{
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 32; i++)
        dst[i] = d * (float)nibble(block + 4, i) + m;
}

static void decode_q5_0(float *dst, const uint8_t *block)
{
    const float d = half_at(block);
    for (int i = 0; i < 32; i++) {
        unsigned q = nibble(block + 6, i) | fifth(block + 2, i);
        dst[i] = d * (float)((int)q - 16);
    }
}

static void decode_q5_1(float *dst, const uint8_t *block)
{
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 32; i++) {
        unsigned q = nibble(block + 8, i) | fifth(block + 4, i);
        dst[i] = d * (float)q + m;
    }
}

static void decode_q8_0(float *dst, const uint8_t *block)
{
    const float d = half_at(block);
    for (int i = 0; i < 32; i++)
        dst[i] = d * (float)(int8_t)block[2 + i];
}

/* Sixteen values, denser near zero, stand for the codes. */
static void decode_iq4_nl(float *dst, const uint8_t *block)
{
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
        1, 13, 25, 38, 53, 69, 89, 113};
    const float d = half_at(block);
    for (int i = 0; i < 32; i++)
        dst[i] = d * (float)values[nibble(block + 2, i)];
}

/* ---- blocks of 256 ---- */

/* Element i of codes of two bits: each 32 bytes hold four planes of 32. */
static unsigned pair_at(const uint8_t *codes, int i)
{
    return (codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3u;
}

/* Element i of one bit each: 32 bytes hold eight planes of 32. */
static unsigned single_at(const uint8_t *codes, int i)
{
    return bit_of(codes[i % 32], (unsigned)i / 32);
}

/* Element i of codes of four bits: each 32 bytes hold two planes of 32. */
static unsigned nibble_at(const uint8_t *codes, int i)
{
    return (codes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4)) & 15u;
}

/* 16 bytes of scale (low half) and minimum (high half), 64 of codes, d, m. */
static void decode_q2_k(float *dst, const uint8_t *block)
{
    const float d = half_at(block + 80), m = half_at(block + 82);
    for (int i = 0; i < 256; i++) {
        const uint8_t group = block[i / 16];
        const float scale = d * (float)(group & 15u);
        const float minimum = m * (float)(group >> 4);
        dst[i] = scale * (float)pair_at(block + 16, i) - minimum;
    }
}

/* Scale j of 16, of six bits: four are half of one of the first eight bytes,
 * two a quarter of one of the last four. */
static int scale_q3(const uint8_t *scales, int j)
{
    unsigned low = (scales[j % 8] >> (j / 8 * 4)) & 15u;
    unsigned high = (scales[8 + j % 4] >> (j / 4 * 2)) & 3u;
    return (int)(low | high << 4) - 32;
}

/* 32 bytes of high bits, 64 of low pairs, 12 of scales, d.  A high bit that is
 * not set takes 4 away. */
static void decode_q3_k(float *dst, const uint8_t *block)
{
    const float d = half_at(block + 108);
    for (int i = 0; i < 256; i++) {
        const float scale = d * (float)scale_q3(block + 96, i / 16);
        int q = (int)pair_at(block + 32, i);
        q -= single_at(block, i) != 0 ? 0 : 4;
        dst[i] = scale * (float)q;
    }
}

/* Scale and minimum j of 8, six bits each, in 12 bytes.  Those of groups 0 to 3
 * are the low six bits of bytes 0 to 3 and 4 to 7; their two high bits belong
 * to groups 4 to 7, whose low four bits are the halves of bytes 8 to 11. */
static void scale_q4(
    const uint8_t *scales, int j, unsigned *scale, unsigned *minimum)
{
    if (j < 4) {
        *scale = scales[j] & 63u;
        *minimum = scales[4 + j] & 63u;
        return;
    }
    *scale = (scales[4 + j] & 15u) | (scales[j - 4] >> 6) << 4;
    *minimum = (scales[4 + j] >> 4) | (scales[j] >> 6) << 4;
}

/* d, m, 12 bytes of scales; then codes of four bits and, for Q5_K before them,
 * the fifth bits; NULL: there are none. */
static void decode_q45_k(
    float *dst, const uint8_t *block, const uint8_t *high, const uint8_t *codes)
{
    const float d = half_at(block), m = half_at(block + 2);
    for (int j = 0; j < 8; j++) {
        unsigned scale_code = 0, minimum_code = 0;
        scale_q4(block + 4, j, &scale_code, &minimum_code);
        const float scale = d * (float)scale_code;
        const float minimum = m * (float)minimum_code;
        for (int i = 32 * j; i < 32 * (j + 1); i++) {
            unsigned q = nibble_at(codes, i);
            if (high != NULL)
                q |= single_at(high, i) << 4;
            dst[i] = scale * (float)q - minimum;
        }
    }
}

static void decode_q4_k(float *dst, const uint8_t *block)
{
    decode_q45_k(dst, block, NULL, block + 16);
}

static void decode_q5_k(float *dst, const uint8_t *block)
{
    decode_q45_k(dst, block, block + 16, block + 48);
}

/* 128 bytes of low halves in planes of 64, 64 of high pairs, 16 scales of 8
 * bits, d. */
static void decode_q6_k(float *dst, const uint8_t *block)
{
    const float d = half_at(block + 208);
    for (int i = 0; i < 256; i++) {
        const float scale = d * (float)(int8_t)block[192 + i / 16];
        unsigned low =
            (block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4)) & 15u;
        unsigned q = low | pair_at(block + 128, i) << 4;
        dst[i] = scale * (float)((int)q - 32);
    }
}

/* ---- the table ---- */

#define PLAIN(id, name, size) [id] = {id, #name, 1, size, QMI_##name, NULL}
#define BLOCKS(id, name, n, size, decode)                                      \
    [id] = {id, name, n, size, QMI_DTYPE_COUNT, decode}
/* Known, so that an error can name it. */
#define OTHER(id, name) [id] = {id, name, 0, 0, QMI_DTYPE_COUNT, NULL}

static const qmi_gguf_type types[] = {
    PLAIN(0, F32, 4),
    PLAIN(1, F16, 2),
    BLOCKS(2, "Q4_0", 32, 18, decode_q4_0),
    BLOCKS(3, "Q4_1", 32, 20, decode_q4_1),
    OTHER(4, "Q4_2"),
    OTHER(5, "Q4_3"),
    BLOCKS(6, "Q5_0", 32, 22, decode_q5_0),
    BLOCKS(7, "Q5_1", 32, 24, decode_q5_1),
    BLOCKS(8, "Q8_0", 32, 34, decode_q8_0),
    OTHER(9, "Q8_1"),
    BLOCKS(10, "Q2_K", 256, 84, decode_q2_k),
    BLOCKS(11, "Q3_K", 256, 110, decode_q3_k),
    BLOCKS(12, "Q4_K", 256, 144, decode_q4_k),
    BLOCKS(13, "Q5_K", 256, 176, decode_q5_k),
    BLOCKS(14, "Q6_K", 256, 210, decode_q6_k),
    OTHER(15, "Q8_K"),
    OTHER(16, "IQ2_XXS"),
    OTHER(17, "IQ2_XS"),
    OTHER(18, "IQ3_XXS"),
    OTHER(19, "IQ1_S"),
    BLOCKS(20, "IQ4_NL", 32, 18, decode_iq4_nl),
    OTHER(21, "IQ3_S"),
    OTHER(22, "IQ2_S"),
    OTHER(23, "IQ4_XS"),
    OTHER(24, "I8"),
    OTHER(25, "I16"),
    OTHER(26, "I32"),
    OTHER(27, "I64"),
    OTHER(28, "F64"),
    OTHER(29, "IQ1_M"),
    PLAIN(30, BF16, 2),
    OTHER(34, "TQ1_0"),
    OTHER(35, "TQ2_0"),
    OTHER(39, "MXFP4"),
    OTHER(40, "NVFP4"),
    OTHER(41, "Q1_0"),
};

const qmi_gguf_type *qmi_gguf_type_find(uint32_t id)
{
    if (id >= sizeof types / sizeof *types || types[id].name == NULL)
        return NULL;
    return &types[id];
}

void qmi_gguf_decode(
    const qmi_gguf_type *type, float *dst, const void *src, uint64_t n)
{
    if (type->decode == NULL) {
        qmi_widen(dst, src, type->dtype, (size_t)n);
        return;
    }
    const uint8_t *block = src;
    for (uint64_t i = 0; i < n; i += type->n_elements) {
        type->decode(dst + i, block);
        block += type->n_bytes;
    }
}
