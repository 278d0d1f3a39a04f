/* SPDX-License-Identifier: Apache-2.0
 * Choice of tokens: exact filters, the distribution, determinism, and logits
 * that are not numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "sampler.h"
#include "top_logits.h"

static qmi_sampler *make(
    float temperature, int top_k, float top_p, int64_t n, uint64_t seed)
{
    qmi_sampler_options options = {
        .temperature = temperature, .top_k = top_k, .top_p = top_p};
    qmi_sampler *sampler = NULL;
    qmi_error err = {0};
    if (qmi_sampler_create(&sampler, &options, n, seed, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return sampler;
}

/* Draws `n_draws` times and counts the choices in `counts` [n]. */
static void draw(
    qmi_sampler *sampler, const float *logits, int n_draws, int *counts, int n)
{
    memset(counts, 0, (size_t)n * sizeof *counts);
    for (int i = 0; i < n_draws; i++) {
        int32_t id = qmi_sampler_pick(sampler, logits);
        assert_true(id >= 0 && id < n);
        counts[id]++;
    }
}

static void greedy(void **state)
{
    (void)state;
    static const float logits[] = {-3.0f, 2.0f, 7.5f, 7.5f, -1.0f, 7.5f};
    static const float equal[] = {0.0f, -0.0f, 0.0f};
    qmi_sampler *sampler = make(0.0f, 3, 0.5f, 6, 1);
    for (int i = 0; i < 5; i++)
        assert_int_equal(qmi_sampler_pick(sampler, logits), 2);
    qmi_sampler_destroy(sampler);
    sampler = make(-1.0f, 0, 0.0f, 3, 1);
    assert_int_equal(qmi_sampler_pick(sampler, equal), 0);
    qmi_sampler_destroy(sampler);
    qmi_sampler_destroy(NULL);
}

/* Chi-square against the softmax at temperature T; 27.9 is the 0.1 % point of
 * 9 degrees of freedom.  The seeds are fixed, so this passes or fails for
 * ever. */
static void frequencies(void **state)
{
    (void)state;
    enum { N = 10, N_DRAWS = 20000 };
    static const float logits[N] = {
        0.3f, -1.0f, 2.0f, 1.5f, 0.0f, -0.7f, 1.0f, 0.9f, -2.0f, 0.1f};
    static const float temperatures[] = {1.0f, 0.5f, 2.5f};
    for (int t = 0; t < 3; t++) {
        int counts[N];
        double weights[N], total = 0.0, chi_square = 0.0;
        qmi_sampler *sampler = make(temperatures[t], 0, 0.0f, N, 11);
        draw(sampler, logits, N_DRAWS, counts, N);
        qmi_sampler_destroy(sampler);
        for (int i = 0; i < N; i++) {
            weights[i] = exp((double)logits[i] / (double)temperatures[t]);
            total += weights[i];
        }
        for (int i = 0; i < N; i++) {
            double expected = N_DRAWS * weights[i] / total;
            double gap = counts[i] - expected;
            chi_square += gap * gap / expected;
        }
        assert_true(chi_square < 27.9);
    }
}

/* Ids 1, 4, 6 and 2 lead; 3 ties with 2 and has the higher id. */
static void top_k_is_exact(void **state)
{
    (void)state;
    enum { N = 8 };
    static const float logits[N] = {
        0.0f, 3.0f, 1.0f, 1.0f, 2.5f, -9.0f, 2.0f, 0.5f};
    static const int order[N] = {1, 4, 6, 2, 3, 7, 0, 5};
    for (int k = 1; k <= N; k++) {
        int counts[N];
        qmi_sampler *sampler = make(50.0f, k, 0.0f, N, 3);
        draw(sampler, logits, 4000, counts, N);
        qmi_sampler_destroy(sampler);
        for (int i = 0; i < N; i++) {
            if (i < k)
                assert_true(counts[order[i]] > 0);
            else
                assert_int_equal(counts[order[i]], 0);
        }
    }
}

/* Four tokens of probability 1/2, 1/4, 1/8, 1/8: sums reach the limits
 * exactly. */
static void top_p_is_exact(void **state)
{
    (void)state;
    enum { N = 4 };
    static const float logits[N] = {0.0f, 0.69314718f, 1.3862944f, 0.0f};
    static const int order[N] = {2, 1, 0, 3};
    static const struct {
        float p;
        int n_kept;
    } cases[] = {{1e-6f, 1}, {0.4999f, 1}, {0.51f, 2}, {0.7499f, 2}, {0.76f, 3},
        {0.8749f, 3}, {0.876f, 4}, {0.9999f, 4}, {1.0f, 4}, {2.0f, 4},
        {0.0f, 4}, {-1.0f, 4}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int counts[N];
        qmi_sampler *sampler = make(1.0f, 0, cases[c].p, N, 8);
        draw(sampler, logits, 1000, counts, N);
        qmi_sampler_destroy(sampler);
        for (int i = 0; i < N; i++)
            assert_int_equal(counts[order[i]] > 0, i < cases[c].n_kept);
    }
}

/* Equal logits make every sum exact: 16 tokens of 1/16. */
static void top_p_reached_exactly(void **state)
{
    (void)state;
    enum { N = 16 };
    float logits[N] = {0};
    for (int kept = 1; kept < N; kept++) {
        int counts[N];
        qmi_sampler *sampler = make(1.0f, 0, (float)kept / N, N, 5);
        draw(sampler, logits, 1000, counts, N);
        qmi_sampler_destroy(sampler);
        for (int i = 0; i < N; i++)
            assert_int_equal(counts[i] > 0, i < kept);
    }
}

/* top_k first, then top_p of what it kept: of 4 equal tokens out of 8 a share
 * of 0.5 keeps two; of all 8 it would keep four. */
static void top_k_before_top_p(void **state)
{
    (void)state;
    enum { N = 8 };
    float logits[N] = {0};
    int counts[N];
    qmi_sampler *sampler = make(1.0f, 4, 0.5f, N, 5);
    draw(sampler, logits, 1000, counts, N);
    qmi_sampler_destroy(sampler);
    for (int i = 0; i < N; i++)
        assert_int_equal(counts[i] > 0, i < 2);
}

/* Temperature acts before top_p: hot logits spread over more tokens. */
static void temperature_before_top_p(void **state)
{
    (void)state;
    static const float logits[3] = {4.0f, 0.0f, 0.0f};
    int counts[3];
    qmi_sampler *sampler = make(1.0f, 0, 0.5f, 3, 5);
    draw(sampler, logits, 1000, counts, 3);
    assert_int_equal(counts[0], 1000);
    qmi_sampler_destroy(sampler);
    sampler = make(100.0f, 0, 0.5f, 3, 5);
    draw(sampler, logits, 1000, counts, 3);
    assert_true(counts[0] > 300 && counts[1] > 300);
    assert_int_equal(counts[2], 0);
    qmi_sampler_destroy(sampler);
}

/* A vocabulary of real size: the heap's kept set equals that of a count. */
static void large_vocabulary(void **state)
{
    (void)state;
    enum { N = 32128, K = 40 };
    static float logits[N];
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 2);
    for (int i = 0; i < N; i++)
        logits[i] = (float)(qmi_mt19937_u32(&rng) % 3000) / 100.0f;
    qmi_sampler *sampler = make(10.0f, K, 0.0f, N, 1);
    for (int i = 0; i < 200; i++) {
        int32_t id = qmi_sampler_pick(sampler, logits);
        int n_before = 0;
        for (int j = 0; j < N; j++)
            n_before +=
                logits[j] > logits[id] || (logits[j] == logits[id] && j < id);
        assert_true(n_before < K);
    }
    qmi_sampler_destroy(sampler);
}

static void same_seed_same_choices(void **state)
{
    (void)state;
    enum { N = 50 };
    float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = sinf((float)i);
    static const uint64_t seeds[] = {0, 1234, 1ull << 32, UINT64_MAX};
    int32_t first[4][20];
    for (int s = 0; s < 4; s++) {
        qmi_sampler *a = make(0.8f, 20, 0.95f, N, seeds[s]);
        qmi_sampler *b = make(0.8f, 20, 0.95f, N, seeds[s]);
        for (int i = 0; i < 20; i++) {
            first[s][i] = qmi_sampler_pick(a, logits);
            assert_int_equal(first[s][i], qmi_sampler_pick(b, logits));
        }
        qmi_sampler_destroy(a);
        qmi_sampler_destroy(b);
        for (int other = 0; other < s; other++)
            assert_memory_not_equal(first[s], first[other], sizeof first[s]);
    }
}

/* Pinned choices: id = first i whose share of the cumulative probability goes
 * beyond NumPy's random_sample of seed 0 (0.5488, 0.7152, 0.6028, 0.5449,
 * 0.4237, 0.6459, 0.4376, 0.8918). */
static void pinned_choices(void **state)
{
    (void)state;
    enum { N = 10 };
    float logits[N] = {0};
    static const int32_t expected[8] = {5, 7, 6, 5, 4, 6, 4, 8};
    qmi_sampler *sampler = make(1.0f, 0, 0.0f, N, 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(qmi_sampler_pick(sampler, logits), expected[i]);
    qmi_sampler_destroy(sampler);
}

static void logits_that_are_no_numbers(void **state)
{
    (void)state;
    enum { N = 5 };
    static const struct {
        float logits[N];
        int allowed; /* bit set of ids */
    } cases[] = {
        {{NAN, NAN, NAN, NAN, NAN}, 1 << 0},
        {{-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY}, 1 << 0},
        {{NAN, 1.0f, NAN, 1.0f, -INFINITY}, 1 << 1 | 1 << 3},
        {{0.0f, INFINITY, NAN, INFINITY, 1.0f}, 1 << 1 | 1 << 3},
        {{-3e38f, 3e38f, NAN, 0.0f, 0.0f}, 1 << 1},
    };
    static const qmi_sampler_options options[] = {{0.0f, 0, 0.0f, 0},
        {1.0f, 0, 0.0f, 0}, {1.0f, 3, 0.0f, 0}, {1.0f, 0, 0.9f, 0},
        {1.0f, 4, 0.9f, 0}, {1e-30f, 0, 0.9f, 0}, {1e-45f, 2, 0.0f, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
            qmi_sampler *sampler = make(options[o].temperature,
                options[o].top_k, options[o].top_p, N, 1);
            for (int i = 0; i < 50; i++) {
                int32_t id = qmi_sampler_pick(sampler, cases[c].logits);
                assert_true(id >= 0 && id < N);
                assert_true((cases[c].allowed >> id & 1) != 0);
            }
            qmi_sampler_destroy(sampler);
        }
}

/* Two infinite logits share the probability. */
static void infinite_logits_are_ties(void **state)
{
    (void)state;
    static const float logits[3] = {INFINITY, 5.0f, INFINITY};
    int counts[3];
    qmi_sampler *sampler = make(1.0f, 0, 0.0f, 3, 1);
    draw(sampler, logits, 200, counts, 3);
    qmi_sampler_destroy(sampler);
    assert_true(counts[0] > 50 && counts[2] > 50);
    assert_int_equal(counts[1], 0);
}

/* Of two tokens with logits 0 and -d, a draw u takes the first one exactly
 * when u (1 + exp(-d)) < 1: the value of d where that changes shows how exact
 * the exponential is. */
static void weights_are_exponentials(void **state)
{
    (void)state;
    int n_checked = 0;
    for (uint32_t seed = 0; seed < 200; seed++) {
        qmi_mt19937 rng;
        qmi_mt19937_seed(&rng, seed);
        double u = qmi_mt19937_double(&rng);
        double border = -log(1.0 / u - 1.0);
        if (border < 0.01)
            continue;
        for (int side = -1; side <= 1; side += 2) {
            float logits[2] = {0.0f, (float)(-border * (1.0 + side * 1e-6))};
            qmi_sampler *sampler = make(1.0f, 0, 0.0f, 2, seed);
            assert_int_equal(
                qmi_sampler_pick(sampler, logits), side < 0 ? 1 : 0);
            qmi_sampler_destroy(sampler);
        }
        n_checked++;
    }
    assert_true(n_checked > 50);
}

/* ---- choice from the largest logits alone ---- */

enum { TOP_N = 300 };

/* The k largest by plain sorting, as operation top-logits orders them. */
static void top_of(
    const float *logits, int n, int k, float *values, int32_t *ids)
{
    for (int i = 0; i < n; i++) {
        float x = qmi_counted_logit(logits[i]);
        int rank = 0;
        for (int j = 0; j < n; j++) {
            float other = qmi_counted_logit(logits[j]);
            rank += other > x || (other == x && j < i);
        }
        if (rank < k) {
            values[rank] = x;
            ids[rank] = i;
        }
    }
}

/* From smooth to full of ties, zeros of both signs and what is no number. */
static float draw_logit(qmi_mt19937 *rng, int kind)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3.4028235e38f,
        -3.4028235e38f, 0.0f, -0.0f, 2.0f};
    switch (kind) {
    case 0:
        return (float)(12.0 * qmi_mt19937_double(rng) - 6.0);
    case 1:
        return 0.25f * (float)(qmi_mt19937_u32(rng) % 5) - 0.5f;
    case 2:
        return qmi_mt19937_u32(rng) % 2 != 0 ? 0.0f : -0.0f;
    case 3:
        return (float)(qmi_mt19937_u32(rng) % 40) - 30.0f;
    case 4:
        return odd[qmi_mt19937_u32(rng) % 8];
    default:
        return qmi_mt19937_u32(rng) % 50 != 0 ? -INFINITY : 1.0f;
    }
}

/* The same choices from all logits and from the k largest, and the same place
 * in the stream of random numbers after each. */
static void top_gives_the_same(void **state)
{
    (void)state;
    static const float temperatures[] = {0.0f, 1e-30f, 0.3f, 1.0f, 40.0f};
    static const float shares[] = {0.0f, 0.05f, 0.5f, 0.9f, 1.0f};
    static const int sizes[] = {1, 2, 7, 129, TOP_N};
    float logits[TOP_N], values[TOP_N];
    int32_t ids[TOP_N];
    int n_drawn = 0, n_tied = 0;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 77);
    for (int i = 0; i < 4000; i++) {
        const int n = sizes[qmi_mt19937_u32(&rng) % 5];
        const int top_k = 1 + (int)(qmi_mt19937_u32(&rng) % 140);
        const float temperature = temperatures[qmi_mt19937_u32(&rng) % 5];
        const float top_p = shares[qmi_mt19937_u32(&rng) % 5];
        qmi_sampler *all = make(temperature, top_k, top_p, n, (uint64_t)i);
        qmi_sampler *top = make(temperature, top_k, top_p, n, (uint64_t)i);
        const int k = qmi_sampler_n_top(top);
        assert_int_equal(k, temperature > 0 ? (top_k < n ? top_k : 0) : 1);
        for (int step = 0; k != 0 && step < 4; step++) {
            const int kind = (i + step) % 6;
            for (int j = 0; j < n; j++)
                logits[j] = draw_logit(&rng, kind);
            top_of(logits, n, k, values, ids);
            int32_t id = qmi_sampler_pick(all, logits);
            assert_int_equal(qmi_sampler_pick_top(top, values, ids), id);
            n_drawn += id != ids[0];
            for (int j = 0; k < n && j < n; j++)
                n_tied += j > ids[k - 1] && logits[j] == values[k - 1];
        }
        qmi_sampler_destroy(all);
        qmi_sampler_destroy(top);
    }
    /* The cases can tell: others than the first, ties at the k-th place. */
    assert_true(n_drawn > 1000 && n_tied > 1000);
}

static void one_token(void **state)
{
    (void)state;
    static const float logit = -2.0f;
    qmi_sampler *sampler = make(1.0f, 5, 0.5f, 1, 1);
    assert_int_equal(qmi_sampler_pick(sampler, &logit), 0);
    qmi_sampler_destroy(sampler);
}

/* Likelihoods 1, e^-1, e^-2 of the first; the others are below. */
static void min_p_drops_the_unlikely(void **state)
{
    (void)state;
    static const float logits[] = {1, 3, -4, 2, 3 - 1.5f};
    const qmi_sampler_options options = {.temperature = 1, .min_p = 0.3f};
    bool seen[5] = {false};
    qmi_sampler *sampler;
    qmi_error err = {0};
    assert_int_equal(qmi_sampler_create(&sampler, &options, 5, 1, &err), 0);
    for (int i = 0; i < 200; i++)
        seen[qmi_sampler_pick(sampler, logits)] = true;
    qmi_sampler_destroy(sampler);
    /* e^-1 = 0.37 is kept, e^-1.5 = 0.22 is not. */
    assert_true(seen[1] && seen[3]);
    assert_false(seen[0] || seen[2] || seen[4]);
}

static void refused_options(void **state)
{
    (void)state;
    static const struct {
        qmi_sampler_options options;
        int64_t n;
    } cases[] = {{{1.0f, 0, 0.0f, 0}, 0}, {{1.0f, 0, 0.0f, 0}, -1},
        {{1.0f, 0, 0.0f, 0}, (int64_t)INT32_MAX + 1}, {{NAN, 0, 0.0f, 0}, 5},
        {{INFINITY, 0, 0.0f, 0}, 5}, {{1.0f, -1, 0.0f, 0}, 5},
        {{1.0f, 0, NAN, 0}, 5}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        qmi_error err = {0};
        qmi_sampler *sampler = (qmi_sampler *)&err;
        assert_int_equal(qmi_sampler_create(
                             &sampler, &cases[c].options, cases[c].n, 0, &err),
            QMOE_E_INVALID);
        assert_null(sampler);
        assert_true(err.text[0] != '\0');
    }
    for (uint64_t n = 1; n <= 3; n++) {
        qmi_sampler *sampler = NULL;
        qmi_error err = {0};
        qmi_alloc_fail_after(n);
        assert_int_equal(
            qmi_sampler_create(&sampler, &cases[0].options, 100, 0, &err),
            QMOE_E_NOMEM);
        qmi_alloc_fail_after(0);
        assert_null(sampler);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy),
        cmocka_unit_test(frequencies),
        cmocka_unit_test(top_k_is_exact),
        cmocka_unit_test(top_p_is_exact),
        cmocka_unit_test(top_p_reached_exactly),
        cmocka_unit_test(top_k_before_top_p),
        cmocka_unit_test(temperature_before_top_p),
        cmocka_unit_test(large_vocabulary),
        cmocka_unit_test(same_seed_same_choices),
        cmocka_unit_test(pinned_choices),
        cmocka_unit_test(logits_that_are_no_numbers),
        cmocka_unit_test(infinite_logits_are_ties),
        cmocka_unit_test(weights_are_exponentials),
        cmocka_unit_test(top_gives_the_same),
        cmocka_unit_test(one_token),
        cmocka_unit_test(min_p_drops_the_unlikely),
        cmocka_unit_test(refused_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
