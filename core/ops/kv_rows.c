/* SPDX-License-Identifier: Apache-2.0
 * In: values.  Out: rows of a cache, and back (kv_rows.h).  A value depends on
 * its own block alone, so that rows can be read from any column on. */
#include "kv_rows.h"

#include <math.h>
#include <string.h>

static const char *const names[QMI_KV_COUNT] = {"f32", "f16", "q8"};

const char *qmi_kv_type_name(qmi_kv_type type)
{
    return names[type];
}

qmoe_status qmi_kv_type_find(qmi_kv_type *out, const char *name, qmi_error *err)
{
    for (int i = 0; i < QMI_KV_COUNT; i++)
        if (strcmp(name != NULL ? name : names[0], names[i]) == 0) {
            *out = (qmi_kv_type)i;
            return QMOE_OK;
        }
    return qmi_fail(err, QMOE_E_INVALID,
        "'%.40s' is no type of keys and values; there are f32, f16, q8", name);
}

static void pack_f16(uint8_t *row, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint16_t h = qmi_f32_to_f16(src[i]);
        memcpy(row + 2 * i, &h, sizeof h);
    }
    /* Rows end on a multiple of 4: what is there is the same every time. */
    if (n % 2 != 0)
        memset(row + 2 * n, 0, 2);
}

/* NaN has no code and counts as 0.  Beyond 127 are only blocks whose scale is
 * too small for all its digits.  Choices instead of calls, so that compilers
 * vectorise the loop over a block. */
static int8_t q8_code(float x)
{
    /* Added and taken away: rounds to the nearest even integer. */
    const float rounding = 0x1.8p23f;
    x = x == x ? x : 0.0f;
    x = x > -127.0f ? x : -127.0f;
    x = x < 127.0f ? x : 127.0f;
    return (int8_t)(int32_t)(x + rounding - rounding);
}

/* Largest magnitude in a block; passes over NaN. */
static float q8_largest(const float *x)
{
    enum { LANES = 8 };
    float most[LANES] = {0}, largest = 0;
    for (int i = 0; i < QMI_KV_BLOCK; i += LANES)
        for (int j = 0; j < LANES; j++) {
            const float one = fabsf(x[i + j]);
            most[j] = one > most[j] ? one : most[j];
        }
    for (int j = 0; j < LANES; j++)
        largest = most[j] > largest ? most[j] : largest;
    return largest;
}

/* n is constant where the block is whole. */
static inline void pack_q8_block(uint8_t *block, const float *src, int64_t n)
{
    float x[QMI_KV_BLOCK] = {0};
    memcpy(x, src, (size_t)n * sizeof *x);
    const float scale = q8_largest(x) / 127.0f;
    memcpy(block, &scale, sizeof scale);
    int8_t *codes = (int8_t *)(block + sizeof scale);
    if (scale > 0)
        for (int i = 0; i < QMI_KV_BLOCK; i++)
            codes[i] = q8_code(x[i] / scale);
    else
        memset(codes, 0, QMI_KV_BLOCK);
}

void qmi_kv_pack(void *row, qmi_kv_type type, const float *src, int64_t n)
{
    if (type == QMI_KV_F32)
        memcpy(row, src, (size_t)n * sizeof *src);
    else if (type == QMI_KV_F16)
        pack_f16(row, src, n);
    else
        for (int64_t i = 0; i < n; i += QMI_KV_BLOCK)
            pack_q8_block(
                (uint8_t *)row + i / QMI_KV_BLOCK * QMI_KV_BLOCK_BYTES, src + i,
                n - i < QMI_KV_BLOCK ? n - i : QMI_KV_BLOCK);
}

static float unpack_q8(const uint8_t *row, int64_t col)
{
    const uint8_t *block = row + col / QMI_KV_BLOCK * QMI_KV_BLOCK_BYTES;
    float scale;
    memcpy(&scale, block, sizeof scale);
    const int8_t *codes = (const int8_t *)(block + sizeof scale);
    return scale * (float)codes[col % QMI_KV_BLOCK];
}

void qmi_kv_unpack(
    float *dst, const void *row, qmi_kv_type type, int64_t first, int64_t n)
{
    const uint8_t *bytes = row;
    if (type == QMI_KV_F32)
        memcpy(dst, bytes + 4 * first, (size_t)n * sizeof *dst);
    else if (type == QMI_KV_F16)
        qmi_widen(dst, bytes + 2 * first, QMI_F16, (size_t)n);
    else
        for (int64_t i = 0; i < n; i++)
            dst[i] = unpack_q8(bytes, first + i);
}
