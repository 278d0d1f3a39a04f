/* SPDX-License-Identifier: Apache-2.0
 * The search for a string of the tlut quantisers: against all strings, against
 * the string it starts from, and on Gaussian data. */
#include "quantiser_problem.h"
#include "tlut_fit.h"

#define X(name, text) &qmi_tlut_rate_##name,
static const qmi_tlut_rate *const rates[] = {QMI_TLUT_MAP(X)};
#undef X
enum { N_RATES = sizeof rates / sizeof *rates };

/* A tile's weights and how much each counts. */
typedef struct tile {
    float w[QMI_TLUT_TILE], weight[QMI_TLUT_TILE];
} tile;

static tile make_tile(qmi_mt19937 *rng, bool even)
{
    tile t;
    for (int r = 0; r < QMI_TLUT_TILE; r++) {
        t.w[r] = (float)gauss(rng);
        t.weight[r] = even ? 1 : (float)exp(gauss(rng));
    }
    return t;
}

static void search(const qmi_tlut_rate *rate, const tile *t, uint8_t *windows)
{
    float a[QMI_TLUT_TILE], b[QMI_TLUT_TILE];
    qmi_tlut_trellis trellis;
    qmi_tlut_trellis_init(&trellis, rate);
    for (int r = 0; r < QMI_TLUT_TILE; r++) {
        a[r] = t->weight[r] * rate->unit * rate->unit;
        b[r] = t->weight[r] * rate->unit * t->w[r];
    }
    trellis.search(&trellis, a, b, windows);
}

/* Squared distance of one step, of rows with weights. */
static double distance(
    const qmi_tlut_rate *rate, const tile *t, int step, int window)
{
    double sum = 0;
    for (int i = 0; i < rate->v; i++) {
        const int r = step * rate->v + i;
        const double q = (double)rate->unit * rate->table[window * rate->v + i];
        sum += (double)t->weight[r] * pow((double)t->w[r] - q, 2);
    }
    return sum;
}

static double distance_of(
    const qmi_tlut_rate *rate, const tile *t, const uint8_t *windows)
{
    double sum = 0;
    for (int step = 0; step < qmi_tlut_steps(rate); step++)
        sum += distance(rate, t, step, windows[step]);
    return sum;
}

/* Every window is the one before, moved on, around the ring. */
static void assert_ring(const qmi_tlut_rate *rate, const uint8_t *windows)
{
    const int n = qmi_tlut_steps(rate), shared = QMI_TLUT_WINDOWS >> rate->k;
    for (int i = 0; i < n; i++)
        assert_int_equal(
            windows[i] >> rate->k, windows[(i + 1) % n] & (shared - 1));
}

/* 0.25 bit: all 65536 strings of a tile.  The best one is found most of the
 * time, and always kept. */
static void near_the_best_string(void **state)
{
    (void)state;
    const qmi_tlut_rate *rate = &qmi_tlut_rate_025;
    const int n = qmi_tlut_steps(rate);
    double found = 0, least = 0;
    int n_best = 0;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 4);
    for (int round = 0; round < 60; round++) {
        const tile t = make_tile(&rng, round % 2 == 0);
        double cost[16][QMI_TLUT_WINDOWS], best = INFINITY;
        uint8_t windows[QMI_TLUT_TILE] = {0};
        search(rate, &t, windows);
        assert_ring(rate, windows);
        for (int step = 0; step < n; step++)
            for (int w = 0; w < QMI_TLUT_WINDOWS; w++)
                cost[step][w] = distance(rate, &t, step, w);
        uint32_t best_bits = 0;
        for (uint32_t bits = 0; bits < 65536; bits++) {
            double sum = 0;
            for (int step = 0; step < n && sum < best; step++)
                sum += cost[step][(bits | bits << 16) >> step & 63];
            best_bits = sum < best ? bits : best_bits;
            best = fmin(best, sum);
        }
        const double got = distance_of(rate, &t, windows);
        assert_true(got > best * (1 - 1e-5));
        n_best += got < best * (1 + 1e-5);
        found += got;
        least += best;
        for (int step = 0; step < n; step++)
            windows[step] =
                (uint8_t)((best_bits | best_bits << 16) >> step & 63);
        search(rate, &t, windows);
        assert_true(distance_of(rate, &t, windows) < best * (1 + 1e-5));
    }
    print_message("%.4f of the least distance, the best of all in %d of 60\n",
        found / least, n_best);
    assert_true(found < 1.02 * least);
    assert_true(n_best > 20);
}

/* Distortions as measured once with double precision and an endless string
 * (0.748, 0.555, 0.413, 0.300, 0.163, 0.0858, 0.0248, 0.0076), and what a ring
 * of 64 rows costs. */
static void distortion(void **state)
{
    (void)state;
    static const double expected[N_RATES] = {
        0.767, 0.560, 0.415, 0.3025, 0.164, 0.0866, 0.0248, 0.0076};
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 6);
    for (int i = 0; i < N_RATES; i++) {
        double error = 0, energy = 0;
        for (int k = 0; k < 2000; k++) {
            const tile t = make_tile(&rng, true);
            uint8_t windows[QMI_TLUT_TILE] = {0};
            search(rates[i], &t, windows);
            assert_ring(rates[i], windows);
            error += distance_of(rates[i], &t, windows);
            for (int r = 0; r < QMI_TLUT_TILE; r++)
                energy += (double)t.w[r] * (double)t.w[r];
        }
        print_message(
            "%d/%d bit: %.4f\n", rates[i]->k, rates[i]->v, error / energy);
        assert_true(fabs(error / energy / expected[i] - 1) < 0.02);
    }
}

/* Nothing that is no number finds its way into a string. */
static void odd_costs(void **state)
{
    (void)state;
    for (int i = 0; i < N_RATES; i++)
        for (int k = 0; k < 4; k++) {
            static const float odd[] = {0, NAN, INFINITY, 1e38f};
            float a[QMI_TLUT_TILE], b[QMI_TLUT_TILE];
            uint8_t windows[QMI_TLUT_TILE] = {0}, none[QMI_TLUT_TILE] = {0};
            qmi_tlut_trellis trellis;
            qmi_tlut_trellis_init(&trellis, rates[i]);
            for (int r = 0; r < QMI_TLUT_TILE; r++) {
                a[r] = odd[k];
                b[r] = -odd[k];
            }
            trellis.search(&trellis, a, b, windows);
            assert_memory_equal(windows, none, sizeof none);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_the_best_string),
        cmocka_unit_test(distortion),
        cmocka_unit_test(odd_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
