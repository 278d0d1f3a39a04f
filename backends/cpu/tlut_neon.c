/* SPDX-License-Identifier: Apache-2.0
 * The formats "tlut-*" on NEON.  In: codes of a tile of 64 rows, planes of
 * digits.  Out: integer sums.  A table is one look-up in 64 bytes.  Groups are
 * decoded into bytes and multiplied from there. */
#include "tlut_kernel.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define ISA
#define NAME(x) x##_neon
#include "tlut_digits_template.h"

enum { PREFETCH_BYTES = 2048, N_SUMS = 16 };

/* Windows of unit u, four columns of each step side by side. */
static inline uint8x16_t windows_of(
    const qcpu_tlut_units *t, const uint8_t *group, int u, int k, int n_words)
{
    static const uint8_t by_step[16] = {
        0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    const int word = t->word[u], next = word + 1 == n_words ? 0 : word + 1;
    const uint8x16_t words =
        vcombine_u8(vld1_u8(group + 8 * word), vld1_u8(group + 8 * next));
    const uint16x8_t pairs =
        vreinterpretq_u16_u8(vqtbl1q_u8(words, vld1q_u8(t->pairs[u])));
    const int16x8_t bit = vld1q_s16(t->bit[u]);
    /* The first window to the lower byte, the second to the upper. */
    const uint16x8_t first = vshlq_u16(pairs, vnegq_s16(bit));
    const uint16x8_t second =
        vshlq_u16(pairs, vsubq_s16(vdupq_n_s16((int16_t)(8 - k)), bit));
    const uint16x8_t both = vbslq_u16(vdupq_n_u16(0xff00), second, first);
    const uint8x16_t windows =
        vandq_u8(vreinterpretq_u8_u16(both), vdupq_n_u8(0x3f));
    return vqtbl1q_u8(windows, vld1q_u8(by_step));
}

static void decode(uint8_t *decoded, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups)
{
    const int n_words = qmi_tlut_words(rate), v = rate->v;
    qcpu_tlut_units t;
    uint8x16x4_t values[4];
    qcpu_tlut_units_make(&t, rate);
    for (int j = 0; j < v; j++)
        values[j] = vld1q_u8_x4(t.values[j]);
    for (int64_t g = 0; g < n_groups; g++, codes += 8 * n_words) {
        qcpu_prefetch(codes, PREFETCH_BYTES);
        for (int u = 0; u < t.n_units; u++) {
            const uint8x16_t windows =
                windows_of(&t, codes, u, rate->k, n_words);
            for (int j = 0; j < v; j++, decoded += 16)
                vst1q_u8(decoded, vqtbl4q_u8(values[j], windows));
        }
    }
}

/* Weights are below 128: signed, and a pair of products fits 16 bits. */
static void multiply(int32_t *sums, const uint8_t *decoded, int64_t n_groups,
    const int32_t *digits, int64_t stride)
{
    int32x4_t sum[N_SUMS];
    for (int i = 0; i < N_SUMS; i++)
        sum[i] = vld1q_s32(sums + 4 * i);
    for (int64_t g = 0; g < n_groups; g++, digits += stride) {
        const int8x16_t d = vreinterpretq_s8_s32(vdupq_n_s32(*digits));
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++) {
            const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(decoded + 16 * i));
            const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(d));
            const int16x8_t high = vmull_high_s8(w, d);
            sum[i] = vpadalq_s16(sum[i], vpaddq_s16(low, high));
        }
        decoded += QCPU_TLUT_GROUP_WEIGHTS;
    }
    for (int i = 0; i < N_SUMS; i++)
        vst1q_s32(sums + 4 * i, sum[i]);
}

static void any_tile(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded)
{
    qcpu_tlut_blocks(
        sums, rate, codes, n_groups, planes, decoded, decode, multiply);
}

QCPU_TLUT_KERNELS(neon, QMI_CPU_NEON, 8, any_tile);

#else
typedef int qcpu_no_tlut_neon; /* a file must not be empty */
#endif
