/* SPDX-License-Identifier: Apache-2.0
 * The search for the string of a tile and column (Viterbi's algorithm on a
 * ring).  In: for each row the cost of a value.  Out: the windows of a string,
 * never one of more cost than the string before.
 *
 * A window w has the 2^k predecessors whose upper bits are its lower ones.  The
 * sums of windows are kept in the order of `place`, in which the predecessors
 * of 64 / 2^k neighbours lie in 2^k runs of neighbours: minima of whole
 * vectors.  Costs are integers, so that all variants find the same, with the
 * lowest k bits free for the number of a window among predecessors: a minimum
 * brings its argument along. */
#include "tlut_fit.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu_features.h"
#include "unchecked.h"

enum {
    BITS = QMI_TLUT_WINDOW_BITS,
    N = QMI_TLUT_WINDOWS,
    MAX_STEPS = QMI_TLUT_TILE,
    MOST = QMI_TLUT_MAX_VALUE,
    LOG2_COST = 27, /* a whole string costs less, by magnitude */
    FAR = 1 << 29   /* of a window in which no string may begin */
};

static inline int place_of(int window, int k)
{
    return (window & ((1 << k) - 1)) << (BITS - k) | window >> k;
}

static int window_at(int place, int k)
{
    return (place & ((N >> k) - 1)) << k | place >> (BITS - k);
}

/* ---- the trellis ---- */

#define INLINE QMI_UNCHECKED static inline __attribute__((always_inline))

/* Sums before a step to the least among the predecessors of each window: least
 * [N >> k], of windows with the lower bits 0, 1, ... */
INLINE void find_least(int32_t *restrict least, const int32_t *sum, int k)
{
    const int n = N >> k;
    for (int i = 0; i < n; i++)
        least[i] = sum[i];
    for (int j = 1; j < 1 << k; j++)
        for (int i = 0; i < n; i++)
            least[i] = sum[j * n + i] < least[i] ? sum[j * n + i] : least[i];
}

/* Sums behind the step, with the numbers of the windows in their lowest bits as
 * `cost` has them.  The loops are those over places, with runs of neighbours
 * innermost. */
INLINE void add_costs(int32_t *restrict sum, const int32_t *restrict least,
    const int32_t *restrict cost, int k)
{
    const int32_t clear = -(1 << k);
    if (k == 4) {
        for (int i = 0; i < N; i++)
            sum[i] = (least[i >> 2 & 3] & clear) + cost[i];
        return;
    }
    const int n = N >> 2 * k;
    for (int low = 0; low < 1 << k; low++)
        for (int new = 0; new < 1 << k; new ++)
            for (int i = 0; i < n; i++) {
                const int place = (low << k | new) * n + i;
                sum[place] = (least[i << k | low] & clear) + cost[place];
            }
}

/* Takes sums [N] of windows through `n` steps; trace: the least before each. */
typedef void (*forward_fn)(
    int32_t *sum, int32_t (*trace)[N / 2], const int32_t (*cost)[N], int n);

INLINE void forward_body(int32_t *restrict sum,
    int32_t (*restrict trace)[N / 2], const int32_t (*restrict cost)[N], int n,
    int k)
{
    for (int step = 0; step < n; step++) {
        find_least(trace[step], sum, k);
        add_costs(sum, trace[step], cost[step], k);
    }
}

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* For each lane of sums in registers which of the least it adds to; `low`: of
 * the first lane. */
AVX512 INLINE __m512i order_of(int k, int low)
{
    int32_t order[16];
    for (int i = 0; i < 16; i++)
        order[i] = k == 1   ? 2 * i + low
                   : k == 2 ? 4 * (i % 4) + low
                   : k == 3 ? i / 8 + low
                            : i / 4;
    return _mm512_loadu_si512(order);
}

/* The same with the sums in registers: GCC makes no vectors of these loops. */
AVX512 INLINE void forward_wide(int32_t *sum, int32_t (*trace)[N / 2],
    const int32_t (*cost)[N], int n, int k)
{
    const __m512i clear = _mm512_set1_epi32(-(1 << k));
    __m512i order[4], s[4], next[4];
    for (int i = 0; i < 4; i++) {
        order[i] = order_of(k, k == 1 ? i / 2 : k == 2 ? i : 2 * i);
        s[i] = _mm512_loadu_si512(sum + 16 * i);
    }
    for (int step = 0; step < n; step++) {
        __m512i least = _mm512_min_epi32(s[0], s[2]);
        __m512i other = _mm512_min_epi32(s[1], s[3]);
        if (k > 1)
            least = _mm512_min_epi32(least, other);
        if (k > 2)
            least = _mm512_min_epi32(
                least, _mm512_shuffle_i32x4(least, least, 0x4e));
        if (k > 3)
            least = _mm512_min_epi32(
                least, _mm512_shuffle_i32x4(least, least, 0xb1));
        _mm512_storeu_si512(trace[step], least);
        if (k == 1)
            _mm512_storeu_si512(trace[step] + 16, other);
        least = _mm512_and_si512(least, clear);
        other = _mm512_and_si512(other, clear);
        for (int i = 0; i < 4; i++)
            next[i] = k == 1 ? _mm512_permutex2var_epi32(least, order[i], other)
                             : _mm512_permutexvar_epi32(order[i], least);
        for (int i = 0; i < 4; i++)
            s[i] = _mm512_add_epi32(
                next[i], _mm512_loadu_si512(cost[step] + 16 * i));
    }
    for (int i = 0; i < 4; i++)
        _mm512_storeu_si512(sum + 16 * i, s[i]);
}
#endif
/* The window before `window`. */
INLINE int predecessor(const int32_t *least, int window, int k)
{
    const int low = window & ((N >> k) - 1);
    return low << k | (least[low] & ((1 << k) - 1));
}

/* False: every string costs the same, or the costs are no numbers. */
INLINE bool find_costs(int32_t (*restrict cost)[N], const qmi_tlut_trellis *t,
    const float *a, const float *b, int k, int v)
{
    float bound = 0, square[MAX_STEPS], value[MAX_STEPS];
    int exponent = 0;
    for (int r = 0; r < QMI_TLUT_TILE; r++)
        bound += a[r] * (MOST * MOST) + fabsf(b[r]) * (2 * MOST);
    if (!(bound > 0x1p-90f && bound < 0x1p90f))
        return false;
    frexpf(bound, &exponent);
    const float unit = ldexpf(1, LOG2_COST - exponent);
    for (int r = 0; r < QMI_TLUT_TILE; r++) {
        square[r] = a[r] * unit;
        value[r] = b[r] * (2 * unit);
    }
    for (int step = 0; step < QMI_TLUT_TILE / v; step++)
        for (int i = 0; i < N; i++) {
            float sum = t->square[0][i] * square[step * v] -
                        t->value[0][i] * value[step * v];
            for (int r = 1; r < v; r++)
                sum += t->square[r][i] * square[step * v + r] -
                       t->value[r][i] * value[step * v + r];
            cost[step][i] = ((int32_t)sum & -(1 << k)) | i >> (BITS - k);
        }
    return true;
}

/* Sums of strings that begin anywhere. */
INLINE void begin(int32_t *sum, int k)
{
    for (int i = 0; i < N; i++)
        sum[i] = i >> (BITS - k);
}

/* The window at the cut of the ring, before its first step: that of the best
 * path through its neighbourhood. */
INLINE int find_cut(int32_t (*trace)[N / 2], const int32_t (*cost)[N],
    const qmi_tlut_trellis *t, int k, forward_fn forward)
{
    int32_t sum[N];
    int best = 0;
    begin(sum, k);
    forward(sum, trace, cost + t->n_steps - t->reach, t->reach);
    forward(sum, trace + t->reach, cost, t->reach);
    for (int i = 1; i < N; i++)
        best = sum[i] < sum[best] ? i : best;
    int window = window_at(best, k);
    for (int i = 2 * t->reach - 1; i >= t->reach; i--)
        window = predecessor(trace[i], window, k);
    return window;
}

INLINE void search_body(const qmi_tlut_trellis *t, const float *a,
    const float *b, uint8_t *windows, int k, int v, forward_fn forward)
{
    const int n_steps = QMI_TLUT_TILE / v;
    const int32_t clear = -(1 << k);
    int32_t cost[MAX_STEPS][N], trace[MAX_STEPS][N / 2], sum[N], old = 0;
    if (!find_costs(cost, t, a, b, k, v))
        return;
    const int cut = find_cut(trace, (const int32_t(*)[N])cost, t, k, forward);
    /* Once around, from the window at the cut to itself. */
    begin(sum, k);
    for (int i = 0; i < N; i++)
        sum[i] += i == place_of(cut, k) ? 0 : FAR;
    forward(sum, trace, (const int32_t(*)[N])cost, n_steps);
    for (int step = 0; step < n_steps; step++)
        old += cost[step][place_of(windows[step], k)] & clear;
    /* The ring that the window is part of need not be the best one. */
    if ((sum[place_of(cut, k)] & clear) >= old)
        return;
    for (int step = n_steps - 1, window = cut; step >= 0; step--) {
        windows[step] = (uint8_t)window;
        window = predecessor(trace[step], window, k);
    }
}

/* ---- variants ---- */

#define RATES(X) X(1, 4) X(2, 4) X(3, 4) X(2, 2) X(3, 2) X(2, 1) X(3, 1) X(4, 1)

/* k bits per step. */
#define FORWARD(bits, suffix, target, body)                                    \
    QMI_UNCHECKED target static void forward_##bits##suffix(                   \
        int32_t *sum, int32_t(*trace)[N / 2], const int32_t(*cost)[N], int n)  \
    {                                                                          \
        body(sum, trace, cost, n, bits);                                       \
    }
#define ALL_FORWARD(suffix, target, body)                                      \
    FORWARD(1, suffix, target, body)                                           \
    FORWARD(2, suffix, target, body)                                           \
    FORWARD(3, suffix, target, body)                                           \
    FORWARD(4, suffix, target, body)

#define SEARCH(bits, rows, suffix, target)                                     \
    QMI_UNCHECKED target static void search_##bits##_##rows##suffix(           \
        const qmi_tlut_trellis *t, const float *a, const float *b,             \
        uint8_t *windows)                                                      \
    {                                                                          \
        search_body(t, a, b, windows, bits, rows, forward_##bits##suffix);     \
    }
#define ENTRY(bits, rows, suffix)                                              \
    if (rate->k == (bits) && rate->v == (rows))                                \
        return search_##bits##_##rows##suffix;

ALL_FORWARD(_plain, , forward_body)
#define X(k, v) SEARCH(k, v, _plain, )
RATES(X)
#undef X
#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
ALL_FORWARD(_avx2, AVX2, forward_body)
ALL_FORWARD(_avx512, AVX512, forward_wide)
#define X(k, v) SEARCH(k, v, _avx2, AVX2) SEARCH(k, v, _avx512, AVX512)
RATES(X)
#undef X
#endif

static qmi_tlut_search_fn search_of(const qmi_tlut_rate *rate)
{
    const unsigned features = qmi_cpu_features();
#if defined(__x86_64__)
    if ((features & QMI_CPU_AVX512) != 0) {
#define X(k, v) ENTRY(k, v, _avx512)
        RATES(X)
#undef X
    }
    if ((features & QMI_CPU_AVX2) != 0) {
#define X(k, v) ENTRY(k, v, _avx2)
        RATES(X)
#undef X
    }
#endif
    (void)features;
#define X(k, v) ENTRY(k, v, _plain)
    RATES(X)
#undef X
    return NULL;
}

void qmi_tlut_trellis_init(qmi_tlut_trellis *t, const qmi_tlut_rate *rate)
{
    /* What is four windows away no longer depends on a string's beginning. */
    const int n_steps = qmi_tlut_steps(rate), reach = 4 * BITS / rate->k;
    *t = (qmi_tlut_trellis){.rate = rate,
        .n_steps = n_steps,
        .reach = reach < n_steps ? reach : n_steps,
        .search = search_of(rate)};
    for (int i = 0; i < rate->v; i++)
        for (int place = 0; place < N; place++) {
            const float q =
                rate->table[window_at(place, rate->k) * rate->v + i];
            t->value[i][place] = q;
            t->square[i][place] = q * q;
        }
}
