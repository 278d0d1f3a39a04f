/* SPDX-License-Identifier: Apache-2.0
 * Rows of x as digits (tlut_kernel.h), compiled for each instruction set: ISA is
 * the target attribute, NAME(x) adds the suffix.  The loops are plain and left
 * to the compiler to vectorise.  No include guard on purpose. */

ISA static uint32_t NAME(scale)(float *restrict z, const float *restrict x,
    const uint8_t *restrict col_scales, int64_t n)
{
    uint32_t most = 0;
    for (int64_t c = 0; c < n; c++) {
        uint16_t scale;
        uint32_t bits;
        memcpy(&scale, col_scales + 2 * c, sizeof scale);
        z[c] = x[c] * qmi_bf16_to_f32(scale);
        /* As integers, magnitudes compare alike, and NaN is the largest. */
        memcpy(&bits, &z[c], sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

ISA static float NAME(fit)(
    float *restrict z, int64_t n, float lift, float factor)
{
    enum { LANES = 16 };
    float sums[LANES] = {0}, sum = 0;
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t i = 0; i < LANES; i++) {
            z[c + i] = z[c + i] * lift * factor;
            sums[i] += z[c + i] * z[c + i];
        }
    for (int i = 0; i < LANES; i++)
        sum += sums[i];
    return sum;
}

ISA static int32_t NAME(next)(
    int8_t *restrict digit, float *restrict z, int64_t n)
{
    /* Added, it leaves no bits behind the point, and the integer in the low
     * bits. */
    const float magic = 0x1.8p23f;
    int32_t sum = 0;
    for (int64_t c = 0; c < n; c++) {
        const float moved = z[c] + magic;
        uint32_t bits;
        memcpy(&bits, &moved, sizeof bits);
        digit[c] = (int8_t)(uint8_t)bits;
        sum += (int32_t)bits - 0x4b400000;
        z[c] = (z[c] - (moved - magic)) * 254.0f;
    }
    return sum;
}

ISA static void NAME(interleave)(int32_t *restrict out,
    const int32_t *const *digits, int n_digits, int64_t n)
{
    const int32_t *restrict a = digits[0], *restrict b = digits[1];
    const int32_t *restrict c = digits[2];
    switch (n_digits) {
    case 1:
        memcpy(out, a, (size_t)n * sizeof *out);
        break;
    case 2:
        for (int64_t g = 0; g < n; g++) {
            out[2 * g] = a[g];
            out[2 * g + 1] = b[g];
        }
        break;
    default:
        for (int64_t g = 0; g < n; g++) {
            out[3 * g] = a[g];
            out[3 * g + 1] = b[g];
            out[3 * g + 2] = c[g];
        }
    }
}

static const qcpu_tlut_digits NAME(digits) = {
    NAME(scale), NAME(fit), NAME(next), NAME(interleave)};
