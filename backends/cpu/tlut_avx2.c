/* SPDX-License-Identifier: Apache-2.0
 * The formats "tlut-*" on AVX2.  In: codes of a tile of 64 rows, planes of
 * digits.  Out: integer sums.  Windows come from two multiplications of 16-bit
 * lanes, which shift each by its own amount; a table of 64 entries is four
 * shuffles, of which one finds its index in range.  Groups are decoded into
 * bytes and multiplied from there. */
#include "tlut_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <pthread.h>

#define ISA __attribute__((target("avx2,fma")))
#define INLINE ISA static inline __attribute__((always_inline))
#define NAME(x) x##_avx2
#include "tlut_digits_template.h"

enum { N_RATES = 8, PREFETCH_BYTES = 2048, N_SUMS = 8 };

/* Two units side by side. */
typedef struct units {
    qcpu_tlut_units of;
    /* By lane: factors that bring the first window to the upper byte, and the
     * second to the lower. */
    uint16_t up[QCPU_TLUT_MAX_UNITS][8], down[QCPU_TLUT_MAX_UNITS][8];
} units;

static units all_units[N_RATES];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_units(units *out, const qmi_tlut_rate *rate)
{
    qcpu_tlut_units_make(&out->of, rate);
    for (int u = 0; u < out->of.n_units; u++)
        for (int lane = 0; lane < 8; lane++) {
            const int bit = out->of.bit[u][lane];
            out->up[u][lane] = (uint16_t)(1 << (8 - bit));
            out->down[u][lane] = (uint16_t)(1 << (16 - bit - rate->k));
        }
}

static void make_all(void)
{
    int i = 0;
#define X(name, text) make_units(&all_units[i++], &qmi_tlut_rate_##name);
    QMI_TLUT_MAP(X)
#undef X
}

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* Words `word` and the one behind it, the first behind the last. */
INLINE __m128i two_words(const uint8_t *group, int word, int n_words)
{
    const uint8_t *at = group + 8 * word;
    if (word + 1 < n_words)
        return _mm_loadu_si128((const void *)at);
    return _mm_set_epi64x(
        (int64_t)qmi_load_u64(group), (int64_t)qmi_load_u64(at));
}

/* Windows of the units u and u + 1, four columns of each step side by side. */
INLINE __m256i windows_of(
    const units *t, const uint8_t *group, int u, int k, int n_words)
{
    const __m256i by_step = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14));
    const __m256i words =
        _mm256_set_m128i(two_words(group, 4 * (u + 1) * k / 16, n_words),
            two_words(group, 4 * u * k / 16, n_words));
    const __m256i pairs = _mm256_shuffle_epi8(words, load(t->of.pairs[u]));
    const __m256i first = _mm256_mullo_epi16(pairs, load(t->up[u]));
    const __m256i second = _mm256_mulhi_epu16(pairs, load(t->down[u]));
    const __m256i both =
        _mm256_or_si256(_mm256_and_si256(first, _mm256_set1_epi16(0x3f00)),
            _mm256_and_si256(second, _mm256_set1_epi16(0x003f)));
    return _mm256_shuffle_epi8(both, by_step);
}

/* Indices into each quarter of the table: of another quarter's windows the top
 * bit is set, which makes a shuffle give 0. */
INLINE void quarters_of(__m256i index[4], __m256i windows)
{
    QCPU_UNROLL
    for (int i = 0; i < 4; i++)
        index[i] = _mm256_add_epi8(
            _mm256_xor_si256(windows, _mm256_set1_epi8((char)(16 * i))),
            _mm256_set1_epi8(0x70));
}

INLINE __m256i look_up(const uint8_t *values, const __m256i index[4])
{
    __m256i found[4];
    QCPU_UNROLL
    for (int i = 0; i < 4; i++)
        found[i] = _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(
                _mm_loadu_si128((const void *)(values + 16 * i))),
            index[i]);
    return _mm256_or_si256(_mm256_or_si256(found[0], found[1]),
        _mm256_or_si256(found[2], found[3]));
}

INLINE void decode_groups(uint8_t *decoded, const units *t,
    const uint8_t *codes, int64_t n_groups, int k, int v)
{
    const int n_words = QMI_TLUT_TILE * k / v / 16, n_units = 16 / v;
    for (int64_t g = 0; g < n_groups; g++, codes += 8 * n_words) {
        qcpu_prefetch(codes, PREFETCH_BYTES);
        QCPU_UNROLL
        for (int u = 0; u < n_units; u += 2) {
            __m256i index[4];
            quarters_of(index, windows_of(t, codes, u, k, n_words));
            QCPU_UNROLL
            for (int j = 0; j < v; j++) {
                const __m256i found = look_up(t->of.values[j], index);
                uint8_t *at = decoded + 16 * (u * v + j);
                _mm_storeu_si128((void *)at, _mm256_castsi256_si128(found));
                _mm_storeu_si128(
                    (void *)(at + 16 * v), _mm256_extracti128_si256(found, 1));
            }
        }
        decoded += QCPU_TLUT_GROUP_WEIGHTS;
    }
}

#define RATE(name, k, v)                                                       \
    ISA static void decode_##name(uint8_t *decoded, const units *t,            \
        const uint8_t *codes, int64_t n_groups)                                \
    {                                                                          \
        decode_groups(decoded, t, codes, n_groups, k, v);                      \
    }

QCPU_TLUT_RATES(RATE)

static void decode(uint8_t *decoded, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups)
{
    const units *t = all_units;
    pthread_once(&once, make_all);
#define X(name, text)                                                          \
    if (rate == &qmi_tlut_rate_##name) {                                       \
        decode_##name(decoded, t, codes, n_groups);                            \
        return;                                                                \
    }                                                                          \
    t++;
    QMI_TLUT_MAP(X)
#undef X
}

/* Weights are below 128, so a pair of products fits 16 bits. */
ISA static void multiply(int32_t *sums, const uint8_t *decoded,
    int64_t n_groups, const int32_t *digits, int64_t stride)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[N_SUMS];
    QCPU_UNROLL
    for (int i = 0; i < N_SUMS; i++)
        sum[i] = load(sums + 8 * i);
    for (int64_t g = 0; g < n_groups; g++, digits += stride) {
        const __m256i d = _mm256_set1_epi32(*digits);
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++) {
            const __m256i pairs =
                _mm256_maddubs_epi16(load(decoded + 32 * i), d);
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
        }
        decoded += QCPU_TLUT_GROUP_WEIGHTS;
    }
    QCPU_UNROLL
    for (int i = 0; i < N_SUMS; i++)
        _mm256_storeu_si256((void *)(sums + 8 * i), sum[i]);
}

static void any_tile(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded)
{
    qcpu_tlut_blocks(
        sums, rate, codes, n_groups, planes, decoded, decode, multiply);
}

QCPU_TLUT_KERNELS(avx2, QMI_CPU_AVX2, 15, any_tile);

#else
typedef int qcpu_no_tlut_avx2; /* a file must not be empty */
#endif
