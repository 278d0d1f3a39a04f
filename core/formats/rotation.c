/* SPDX-License-Identifier: Apache-2.0
 * The rotation of docs/format.md "Rotation": column signs and the
 * Walsh-Hadamard transform.  In: a row, a block size, a seed.  Out: the row
 * rotated, in place.  Every addition is rounded to f32 in a fixed order, so
 * results agree bit for bit on every machine. */
#include "rotation.h"

#include <assert.h>

#include "rotation_hash.h"

static uint32_t mix(uint32_t x)
{
    QMI_ROTATION_MIX(x);
    return x;
}

/* The top bit is the one that every bit of seed and column reaches
 * (rotation_hash.h). */
static float sign_of(uint32_t mixed_seed, uint32_t column)
{
    return mix(mixed_seed ^ column) >> 31 != 0 ? -1.0f : 1.0f;
}

static uint32_t mix_seed(uint32_t seed)
{
    return mix(seed + QMI_ROTATION_SEED);
}

/* Ends at 1 at the latest, which divides everything. */
int32_t qmi_rotation_for(int64_t n_cols)
{
    int32_t block = QMI_ROTATION_DEFAULT;
    while (n_cols % block != 0)
        block /= 2;
    return block > 1 ? block : 0;
}

float qmi_rotation_sign(uint32_t seed, int64_t column)
{
    return sign_of(mix_seed(seed), (uint32_t)column);
}

static void flip_signs(float *x, int64_t n, uint32_t seed)
{
    uint32_t mixed = mix_seed(seed);
    for (int64_t i = 0; i < n; i++)
        x[i] *= sign_of(mixed, (uint32_t)i);
}

/* Steps 1 and 2 in one go: their partners are closer than a vector is wide. */
static void butterfly_4(float *x)
{
    float a = x[0] + x[1], b = x[0] - x[1];
    float c = x[2] + x[3], d = x[2] - x[3];
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
}

/* 1 / sqrt(m) for m = 2^k: exact for even k, else the nearest f32. */
static float norm_of(int64_t m)
{
    float norm = 1.0f;
    for (; m >= 4; m /= 4)
        norm *= 0.5f;
    return m == 2 ? norm * 0x1.6a09e6p-1f : norm;
}

static void hadamard(float *restrict x, int64_t m)
{
    int64_t step = 1;
    /* The first two steps write x[0..3] by x[0..3] alone, so doing them
     * together changes no sum. */
    if (m >= 4) {
        for (int64_t i = 0; i < m; i += 4)
            butterfly_4(x + i);
        step = 4;
    }
    /* The order of the steps is part of the format: each sum is rounded, and
     * another order would round other sums. */
    for (; step < m; step *= 2)
        for (int64_t i = 0; i < m; i += 2 * step)
            for (int64_t j = i; j < i + step; j++) {
                float a = x[j], b = x[j + step];
                x[j] = a + b;
                x[j + step] = a - b;
            }
    const float norm = norm_of(m);
    for (int64_t i = 0; i < m; i++)
        x[i] *= norm;
}

/* Every transform of a row; `block` halves until it fits the rest. */
static void hadamard_blocks(float *x, int64_t n, int64_t block)
{
    for (int64_t i = 0; i < n; i += block) {
        while (block > n - i)
            block /= 2;
        hadamard(x + i, block);
    }
}

static void check_block(int32_t block)
{
    assert(block >= 1 && block <= QMI_ROTATION_MAX_BLOCK);
    assert((block & (block - 1)) == 0);
    (void)block;
}

/* Signs first, transform second: R = H D.  Undoing goes the other way, since H
 * and D are their own inverses. */
void qmi_rotate(float *x, int64_t n, int32_t block, uint32_t seed)
{
    check_block(block);
    flip_signs(x, n, seed);
    hadamard_blocks(x, n, block);
}

void qmi_unrotate(float *x, int64_t n, int32_t block, uint32_t seed)
{
    check_block(block);
    hadamard_blocks(x, n, block);
    flip_signs(x, n, seed);
}
