/* SPDX-License-Identifier: Apache-2.0
 * The exhaustive search among the blocks of PVQ(n, 2).  In: gains and scales of
 * 16 rows, norms that are the same for all.  Out: the best candidate of each
 * row, the first one of equals, so that the result does not depend on how loops
 * are made into vectors.
 *
 * The sign of a candidate follows from its gain, so that of the 2 n^2 blocks
 * only n^2 pairs are compared: pulses of equal signs at a and b bring |g_a +
 * g_b|, opposite ones |g_a - g_b|. */
#include "pvq_fit.h"

#include <math.h>

#include "unchecked.h"

void qmi_pvq_pairs_of(qmi_pvq_pairs *pairs, int n)
{
    int k = 0;
    pairs->n = n;
    /* Equal signs first: n (n + 1) / 2 of them, then n (n - 1) / 2 with
     * opposite ones. */
    for (int opposite = 0; opposite < 2; opposite++) {
        for (int a = 0; a < n; a++)
            for (int b = a + opposite; b < n; b++) {
                pairs->a[k] = (uint8_t)a;
                pairs->b[k++] = (uint8_t)b;
            }
        if (opposite == 0)
            pairs->n_equal = k;
    }
    pairs->count = k;
}

/* Once per block, for all rows. */
void qmi_pvq_norms(float norms[QMI_PVQ_MAX_PAIRS], const qmi_pvq_pairs *pairs,
    const float *m, int64_t stride)
{
    for (int k = 0; k < pairs->count; k++) {
        int a = pairs->a[k], b = pairs->b[k];
        float cross = 2 * m[a * stride + b];
        float own = m[a * stride + a] + m[b * stride + b];
        norms[k] = k < pairs->n_equal ? own + cross : own - cross;
    }
}

/* Best pair so far of each lane. */
typedef struct best {
    float cost[QMI_PVQ_LANES];
    int32_t pair[QMI_PVQ_LANES];
} best;

/* Plain loops over the lanes: compilers make vectors of them. */
QMI_UNCHECKED static inline void try_pair(best *restrict found, int32_t pair,
    float norm, const float *restrict scale, const float *restrict gain)
{
    for (int l = 0; l < QMI_PVQ_LANES; l++) {
        float cost = scale[l] * norm - 2 * fabsf(gain[l]);
        /* All ones or zero: a choice without a branch. */
        int32_t less = -(cost < found->cost[l]);
        found->cost[l] = less ? cost : found->cost[l];
        found->pair[l] = (found->pair[l] & ~less) | (pair & less);
    }
}

QMI_UNCHECKED void qmi_pvq_search(uint16_t candidate[QMI_PVQ_LANES],
    const qmi_pvq_pairs *pairs, const float norms[QMI_PVQ_MAX_PAIRS],
    float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES],
    const float scale[QMI_PVQ_LANES])
{
    best found;
    float sum[QMI_PVQ_LANES];
    for (int l = 0; l < QMI_PVQ_LANES; l++) {
        found.cost[l] = INFINITY;
        found.pair[l] = 0;
    }
    for (int k = 0; k < pairs->n_equal; k++) {
        const float *ga = gain[pairs->a[k]], *gb = gain[pairs->b[k]];
        for (int l = 0; l < QMI_PVQ_LANES; l++)
            sum[l] = ga[l] + gb[l];
        try_pair(&found, k, norms[k], scale, sum);
    }
    for (int k = pairs->n_equal; k < pairs->count; k++) {
        const float *ga = gain[pairs->a[k]], *gb = gain[pairs->b[k]];
        for (int l = 0; l < QMI_PVQ_LANES; l++)
            sum[l] = ga[l] - gb[l];
        try_pair(&found, k, norms[k], scale, sum);
    }
    /* The sign is only needed of the best one. */
    for (int l = 0; l < QMI_PVQ_LANES; l++) {
        int32_t k = found.pair[l];
        float ga = gain[pairs->a[k]][l], gb = gain[pairs->b[k]][l];
        bool negative = (k < pairs->n_equal ? ga + gb : ga - gb) < 0;
        candidate[l] = (uint16_t)(2 * k + negative);
    }
}
