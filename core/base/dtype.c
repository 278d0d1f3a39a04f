/* SPDX-License-Identifier: Apache-2.0
 * Element types: names, sizes, widening to f32, and the search for values that
 * are not finite.  Everything here is exact. */
#include "dtype.h"

#include <assert.h>
#include <stdbool.h>

/* In the order of the enum: both come from QMI_DTYPE_MAP. */
static const struct {
    const char *name;
    unsigned bits;
} dtypes[QMI_DTYPE_COUNT] = {
#define X(name, text, bits) {text, bits},
    QMI_DTYPE_MAP(X)
#undef X
};

const char *qmi_dtype_name(qmi_dtype dtype)
{
    return (unsigned)dtype < QMI_DTYPE_COUNT ? dtypes[dtype].name : NULL;
}

qmi_dtype qmi_dtype_from_name(const char *text)
{
    for (unsigned i = 0; i < QMI_DTYPE_COUNT; i++)
        if (strcmp(dtypes[i].name, text) == 0)
            return (qmi_dtype)i;
    return QMI_DTYPE_COUNT;
}

unsigned qmi_dtype_bits(qmi_dtype dtype)
{
    return (unsigned)dtype < QMI_DTYPE_COUNT ? dtypes[dtype].bits : 0;
}

float qmi_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t fraction = h & 0x3ffu;
    /* All ones: infinity, or NaN with its payload. */
    uint32_t u;
    if (exponent == 0x1f) {
        u = sign | 0x7f800000u | (fraction << 13);
    } else if (exponent != 0) {
        /* 112 = 127 - 15, the difference of the two biases. */
        u = sign | ((exponent + 112) << 23) | (fraction << 13);
    } else {
        /* Subnormal: fraction * 2^-24, exact in f32. */
        float value = (float)fraction * 5.9604644775390625e-8f;
        memcpy(&u, &value, sizeof u);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t qmi_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    const uint32_t size = u & 0x7fffffffu;
    if (size > 0x7f800000u)
        return sign | 0x7e00u;
    /* 65520 is halfway between the largest and what would be the next. */
    if (size >= 0x477ff000u)
        return sign | 0x7c00u;
    if (size < 0x38800000u) {
        /* Subnormal: adding 0.5 leaves the multiples of 2^-24, rounded by the
         * addition, in the low bits. */
        float value;
        memcpy(&value, &size, sizeof value);
        value += 0.5f;
        memcpy(&u, &value, sizeof u);
        return (uint16_t)(sign | (u - 0x3f000000u));
    }
    const uint32_t odd = size >> 13 & 1u;
    return (uint16_t)(sign | ((size - 0x38000000u + 0xfffu + odd) >> 13));
}

/* Bytes are loaded one element at a time: files promise no alignment. */
static void widen_bf16(float *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = qmi_bf16_to_f32(qmi_load_u16(src + 2 * i));
}

static void widen_f16(float *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = qmi_f16_to_f32(qmi_load_u16(src + 2 * i));
}

void qmi_widen(float *dst, const void *src, qmi_dtype dtype, size_t n)
{
    switch (dtype) {
    case QMI_F32:
        memcpy(dst, src, n * sizeof *dst);
        return;
    case QMI_BF16:
        widen_bf16(dst, src, n);
        return;
    case QMI_F16:
        widen_f16(dst, src, n);
        return;
    default:
        assert(!"qmi_widen: not a float dtype");
    }
}

void qmi_narrow(void *dst, const float *src, qmi_dtype dtype, size_t n)
{
    assert(dtype == QMI_F32 || dtype == QMI_F16 || dtype == QMI_BF16);
    if (dtype == QMI_F32) {
        memcpy(dst, src, n * sizeof *src);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const uint16_t half =
            dtype == QMI_F16 ? qmi_f32_to_f16(src[i]) : qmi_f32_to_bf16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &half, sizeof half);
    }
}

/* ---- not finite ---- */

/* All ones in the exponent.  Blocks without branches inside vectorise, and only
 * a block with a hit is searched. */
enum { BLOCK = 1024 };

static bool is_special_16(const uint8_t *src, uint16_t exponent)
{
    return (qmi_load_u16(src) & exponent) == exponent;
}

static bool is_special_32(const uint8_t *src)
{
    return (qmi_load_u32(src) & 0x7f800000u) == 0x7f800000u;
}

static bool any_special_16(const uint8_t *src, uint16_t exponent, size_t n)
{
    unsigned any = 0;
    for (size_t i = 0; i < n; i++)
        any |= is_special_16(src + 2 * i, exponent);
    return any != 0;
}

static bool any_special_32(const uint8_t *src, size_t n)
{
    unsigned any = 0;
    for (size_t i = 0; i < n; i++)
        any |= is_special_32(src + 4 * i);
    return any != 0;
}

size_t qmi_first_non_finite(const void *src, qmi_dtype dtype, size_t n)
{
    assert(dtype == QMI_BF16 || dtype == QMI_F16 || dtype == QMI_F32);
    const uint8_t *bytes = src;
    const uint16_t exponent = dtype == QMI_F16 ? 0x7c00 : 0x7f80;
    const bool wide = dtype == QMI_F32;
    /* Block by block; the first hit in the first block with one is the
     * answer. */
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t m = n - i < BLOCK ? n - i : BLOCK;
        const uint8_t *block = bytes + (wide ? 4 : 2) * i;
        if (wide ? !any_special_32(block, m)
                 : !any_special_16(block, exponent, m))
            continue;
        size_t j = 0;
        while (wide ? !is_special_32(block + 4 * j)
                    : !is_special_16(block + 2 * j, exponent))
            j++;
        return i + j;
    }
    return n;
}
