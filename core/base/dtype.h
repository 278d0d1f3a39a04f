/* SPDX-License-Identifier: Apache-2.0
 * Element types of tensors as safetensors names them, and the scalar
 * conversions of bf16 and f16.  Loads are byte-wise: data in a mapped file may
 * have any alignment. */
#ifndef QMI_DTYPE_H
#define QMI_DTYPE_H

#include <stdint.h>
#include <string.h>

/* X(name, safetensors text, bytes per element).  Sub-byte and 8-bit float
 * types of safetensors are listed so that files holding them open; nothing
 * computes on them.  F4/F6 have no whole bytes per element: bits are used. */
#define QMI_DTYPE_MAP(X)                                                       \
    X(BOOL, "BOOL", 8)                                                         \
    X(F4, "F4", 4)                                                             \
    X(F6_E2M3, "F6_E2M3", 6)                                                   \
    X(F6_E3M2, "F6_E3M2", 6)                                                   \
    X(U8, "U8", 8)                                                             \
    X(I8, "I8", 8)                                                             \
    X(F8_E5M2, "F8_E5M2", 8)                                                   \
    X(F8_E4M3, "F8_E4M3", 8)                                                   \
    X(F8_E8M0, "F8_E8M0", 8)                                                   \
    X(F8_E4M3FNUZ, "F8_E4M3FNUZ", 8)                                           \
    X(F8_E5M2FNUZ, "F8_E5M2FNUZ", 8)                                           \
    X(I16, "I16", 16)                                                          \
    X(U16, "U16", 16)                                                          \
    X(F16, "F16", 16)                                                          \
    X(BF16, "BF16", 16)                                                        \
    X(I32, "I32", 32)                                                          \
    X(U32, "U32", 32)                                                          \
    X(F32, "F32", 32)                                                          \
    X(C64, "C64", 64)                                                          \
    X(F64, "F64", 64)                                                          \
    X(I64, "I64", 64)                                                          \
    X(U64, "U64", 64)

typedef enum qmi_dtype {
#define X(name, text, bits) QMI_##name,
    QMI_DTYPE_MAP(X)
#undef X
        QMI_DTYPE_COUNT
} qmi_dtype;

/* "BF16", ...; NULL for a value out of range. */
const char *qmi_dtype_name(qmi_dtype dtype);
/* QMI_DTYPE_COUNT when `text` names none. */
qmi_dtype qmi_dtype_from_name(const char *text);
unsigned qmi_dtype_bits(qmi_dtype dtype);

static inline uint16_t qmi_load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t qmi_load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t qmi_load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float qmi_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t qmi_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float qmi_f16_to_f32(uint16_t h);
/* Round to nearest even; beyond the range infinity; NaN stays NaN. */
uint16_t qmi_f32_to_f16(float f);

/* dst[i] = (float)src[i] for n elements of BF16, F16 or F32 at any alignment.
 * Any other dtype is a broken contract (checked by an assert). */
void qmi_widen(float *dst, const void *src, qmi_dtype dtype, size_t n);

/* dst = n elements of F32 (a copy), F16 or BF16 (to nearest, ties to even)
 * from f32, at any alignment.  Same contract. */
void qmi_narrow(void *dst, const float *src, qmi_dtype dtype, size_t n);

/* Index of the first of n elements of BF16, F16 or F32, at any alignment, that
 * is an infinity or not a number; n when all are finite.  Same contract. */
size_t qmi_first_non_finite(const void *src, qmi_dtype dtype, size_t n);

#endif
