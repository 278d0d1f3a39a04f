/* SPDX-License-Identifier: Apache-2.0
 * The block search of the pvq quantisers against all candidates. */
#include "scratch.h"

#include <math.h>

#include "mt19937.h"
#include "pvq_fit.h"

static double cost_of(const int8_t *q, int n, const double *metric,
    const float *gain, int64_t gain_step, double scale)
{
    double cost = 0;
    for (int i = 0; i < n; i++) {
        cost -= 2 * (double)gain[i * gain_step] * q[i];
        for (int j = 0; j < n; j++)
            cost += scale * metric[i * n + j] * q[i] * q[j];
    }
    return cost;
}

/* Integer inputs, so that costs are exact and the least one is the least. */
static void search_finds_the_least(void **state)
{
    (void)state;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 3);
    for (int round = 0; round < 60; round++) {
        const int n = round % 2 == 0 ? 16 : 8;
        float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES];
        float scale[QMI_PVQ_LANES], metric[256], norms[QMI_PVQ_MAX_PAIRS];
        double wide[256], root[256];
        uint16_t found[QMI_PVQ_LANES];
        qmi_pvq_pairs pairs;
        qmi_pvq_pairs_of(&pairs, n);
        assert_int_equal(pairs.count, n * n);
        for (int i = 0; i < n * n; i++)
            root[i] = (double)(qmi_mt19937_u32(&rng) % 7) - 3;
        for (int i = 0; i < n * n; i++) {
            wide[i] = 0;
            for (int k = 0; k < n; k++)
                wide[i] += root[i / n * n + k] * root[i % n * n + k];
            metric[i] = (float)wide[i];
        }
        for (int l = 0; l < QMI_PVQ_LANES; l++) {
            scale[l] = (float)(qmi_mt19937_u32(&rng) % 4);
            for (int i = 0; i < n; i++)
                gain[i][l] = (float)(qmi_mt19937_u32(&rng) % 999) - 499;
        }
        qmi_pvq_norms(norms, &pairs, metric, n);
        qmi_pvq_search(found, &pairs, norms, gain, scale);
        for (int l = 0; l < QMI_PVQ_LANES; l++) {
            int8_t q[16] = {0};
            double least = INFINITY;
            const qmi_pvq_pulses p = qmi_pvq_pulses_of(&pairs, found[l]);
            q[p.a] = (int8_t)(q[p.a] + p.sign_a);
            q[p.b] = (int8_t)(q[p.b] + p.sign_b);
            double cost =
                cost_of(q, n, wide, &gain[0][l], QMI_PVQ_LANES, scale[l]);
            for (int code = 0; code < 2 * n * n; code++) {
                qmi_pvq_expand(q, n,
                    (qmi_pvq_block){(uint8_t)(code / 2 % n),
                        (uint8_t)(code / 2 / n), (uint8_t)(code % 2)});
                least = fmin(least,
                    cost_of(q, n, wide, &gain[0][l], QMI_PVQ_LANES, scale[l]));
            }
            assert_true(cost == least);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search_finds_the_least),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
