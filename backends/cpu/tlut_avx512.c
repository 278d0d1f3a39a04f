/* SPDX-License-Identifier: Apache-2.0
 * The formats "tlut-*" on AVX-512 with byte permutes, multishifts and dot
 * products of bytes.  In: codes of a tile of 64 rows, planes of digits.  Out:
 * integer sums.  A dword lane is a row and its bytes are the four columns of a
 * group: 16 windows of four columns come from one multishift, and a permute of
 * the table makes the values of one row each (docs/kernels/cpu.md).  Up to four
 * planes are multiplied while the values are in registers; for more, a block of
 * groups is decoded first. */
#include "tlut_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <pthread.h>

#define ISA                                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,"     \
                          "avx512vbmi2,avx512vnni")))
#define INLINE ISA static inline __attribute__((always_inline))
#define NAME(x) x##_avx512vbmi
#include "tlut_digits_template.h"

enum {
    N_SUMS = 4, /* registers of 16 rows */
    FEW = 4,    /* planes in registers */
    MANY = 6,   /* planes at a time of a decoded block */
    /* How far ahead codes are fetched; reaching past the end is harmless. */
    PREFETCH_BYTES = 4096,
    MAX_GROUP_BYTES = 8 * QMI_TLUT_MAX_WORDS,
    N_RATES = 8
};

/* ---- tables of a rate ---- */

/* Where the windows of a rate lie, in bits and bytes; one per rate. */
typedef struct tables {
    uint8_t values[4][64];  /* of rows j of a step, QCPU_TLUT_OFFSET added */
    uint8_t windows[2][64]; /* controls of multishifts */
    uint16_t copies[32];    /* shifts of the copies of a group */
    uint8_t bytes[2][64];   /* for three bits: pairs of bytes */
    int32_t places[64];     /* of the rows among the sums */
} tables;

static tables all_tables[N_RATES] __attribute__((aligned(64)));
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The place of a row: 16 * register + lane. */
static int place_of(const qmi_tlut_rate *rate, int row)
{
    const int k = rate->k, n_words = qmi_tlut_words(rate);
    const int step = row / rate->v, bit = k * step;
    const int word = bit / 16, in_word = bit % 16;
    int w, lane;
    if (k == 3) {
        w = step / 16;
        lane = step % 16;
    } else if (n_words < 8) {
        /* 8 / n_words copies, each with 2 n_words bits of a word. */
        const int in_copy = in_word % (2 * n_words) / k;
        w = in_copy / 2;
        lane = 2 * (word + n_words * (in_word / (2 * n_words))) + in_copy % 2;
    } else {
        const int in_byte = in_word % 8 / k;
        w = 2 * (word / 8) + in_word / 8 * (4 / k) + in_byte / 2;
        lane = 2 * (word % 8) + in_byte % 2;
    }
    return 16 * (w * rate->v + row % rate->v) + lane;
}

static void fill_tables(tables *t, const qmi_tlut_rate *rate)
{
    const int k = rate->k, v = rate->v, n_words = qmi_tlut_words(rate);
    for (int i = 0; i < 64; i++) {
        const int quad = i / 8, second = i % 8 / 4, col = i % 4;
        for (int j = 0; j < v; j++)
            t->values[j][i] =
                (uint8_t)(rate->table[v * i + j] + QCPU_TLUT_OFFSET);
        t->places[i] = place_of(rate, i);
        /* Eight bits from this one of the qword; the upper two are anything. */
        const int first = k == 3 ? 6 * quad % 8 : 0;
        t->windows[0][i] = (uint8_t)(16 * col + first + k * second);
        t->windows[1][i] = (uint8_t)(16 * col + first + k * (2 + second));
        /* Byte i % 2 of the pair of steps i / 8 of column i / 2 % 4. */
        for (int half = 0; half < 2; half++) {
            const int pair = quad + (v == 1 ? 24 : 8) * half;
            int byte = 6 * pair / 8 + i % 2;
            /* The last quarter of 3/1 is loaded from word 8 on. */
            byte = v == 1 && half == 1 ? byte - 16 : byte % (2 * n_words);
            if (byte >= 8 && v == 1 && half == 1)
                byte -= 8; /* word 12 is word 0, in place of word 8 */
            t->bytes[half][i] =
                (uint8_t)(8 * (byte / 2) + 2 * (i / 2 % 4) + byte % 2);
        }
    }
    for (int i = 0; i < 32; i++)
        t->copies[i] =
            (uint16_t)(n_words < 8 ? i / 4 / n_words * (2 * n_words) : 0);
}

static void fill_all(void)
{
    int i = 0;
#define X(name, text) fill_tables(&all_tables[i++], &qmi_tlut_rate_##name);
    QMI_TLUT_MAP(X)
#undef X
}

/* ---- windows ---- */

typedef struct registers {
    __m512i values[4], windows[2], copies, bytes[2];
} registers;

INLINE registers load_tables(const tables *t, int v)
{
    registers r;
    QCPU_UNROLL
    for (int j = 0; j < v; j++)
        r.values[j] = _mm512_load_si512(t->values[j]);
    QCPU_UNROLL
    for (int j = 0; j < 2; j++) {
        r.windows[j] = _mm512_load_si512(t->windows[j]);
        r.bytes[j] = _mm512_load_si512(t->bytes[j]);
    }
    r.copies = _mm512_load_si512(t->copies);
    return r;
}

/* Lanes of `lanes` become the first word of the group, as the string goes on
 * there: strings are rings. */
INLINE __m512i close_ring(__m512i x, __mmask8 lanes, const uint8_t *group)
{
    return _mm512_mask_set1_epi64(x, lanes, (int64_t)qmi_load_u64(group));
}

INLINE __m512i pick(__m512i windows, __m512i x)
{
    return _mm512_multishift_epi64_epi8(windows, x);
}

/* Up to 8 words in copies. */
INLINE void windows_in_copies(
    __m512i *out, const registers *r, const uint8_t *group, int n_words, int v)
{
    __m512i own, next;
    if (n_words == 1) {
        own = next = _mm512_set1_epi64((int64_t)qmi_load_u64(group));
    } else if (n_words == 2) {
        own = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)group));
        next = close_ring(
            _mm512_set1_epi64((int64_t)qmi_load_u64(group + 8)), 0xaa, group);
    } else {
        own = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)group));
        next = close_ring(_mm512_broadcast_i64x4(
                              _mm256_loadu_si256((const void *)(group + 8))),
            0x88, group);
    }
    const __m512i x = _mm512_shrdv_epi16(own, next, r->copies);
    out[0] = pick(r->windows[0], x);
    if (v == 2)
        out[1] = pick(r->windows[1], x);
}

/* Eight words at `at`; `last` if they end the string. */
INLINE void windows_of_eight(__m512i *out, const registers *r,
    const uint8_t *at, const uint8_t *group, bool last, int k)
{
    const __m512i own = _mm512_loadu_si512(at);
    __m512i next = _mm512_loadu_si512(at + 8);
    if (last)
        next = close_ring(next, 0x80, group);
    const __m512i upper = _mm512_shrdi_epi16(own, next, 8);
    out[0] = pick(r->windows[0], own);
    if (k == 4) {
        out[1] = pick(r->windows[0], upper);
        return;
    }
    out[1] = pick(r->windows[1], own);
    out[2] = pick(r->windows[0], upper);
    out[3] = pick(r->windows[1], upper);
}

/* Steps of three bits: two steps lie within two bytes. */
INLINE void windows_of_three(
    __m512i *out, const registers *r, const uint8_t *group, int v)
{
    if (v > 1) {
        const __mmask8 words = v == 4 ? 0x07 : 0x3f;
        const __m512i x = _mm512_maskz_loadu_epi64(words, group);
        out[0] = pick(r->windows[0], _mm512_permutexvar_epi8(r->bytes[0], x));
        if (v == 2)
            out[1] =
                pick(r->windows[0], _mm512_permutexvar_epi8(r->bytes[1], x));
        return;
    }
    QCPU_UNROLL
    for (int i = 0; i < 4; i++) {
        const uint8_t *at = group + (i < 3 ? 24 * i : 64);
        __m512i x =
            _mm512_castsi256_si512(_mm256_loadu_si256((const void *)at));
        if (i == 3)
            x = close_ring(x, 0x01, group);
        out[i] =
            pick(r->windows[0], _mm512_permutexvar_epi8(r->bytes[i == 3], x));
    }
}

/* weights[i]: lane l, byte c = the weight of column c in the row of place
 * 16 i + l.  Reads up to 8 bytes behind the group. */
INLINE void decode(__m512i weights[N_SUMS], const registers *r,
    const uint8_t *group, int k, int v)
{
    const int n_words = QMI_TLUT_TILE * k / v / 16;
    __m512i windows[4];
    if (k == 3) {
        windows_of_three(windows, r, group, v);
    } else if (n_words < 8) {
        windows_in_copies(windows, r, group, n_words, v);
    } else {
        windows_of_eight(windows, r, group, group, n_words == 8, k);
        if (n_words == 16)
            windows_of_eight(windows + 2, r, group + 64, group, true, k);
    }
    QCPU_UNROLL
    for (int i = 0; i < N_SUMS; i++)
        weights[i] = _mm512_permutexvar_epi8(windows[i / v], r->values[i % v]);
}

/* sum += weights (unsigned) times digits, four columns of each row.  In
 * assembly: compilers copy the sum of the intrinsic to another register. */
INLINE void add_products(__m512i *sum, __m512i weights, __m512i digits)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(digits));
}

/* Rows in their order. */
INLINE void store_rows(
    int32_t *out, const __m512i sums[N_SUMS], const tables *t)
{
    QCPU_UNROLL
    for (int i = 0; i < N_SUMS; i++) {
        const __m512i at = _mm512_load_si512(t->places + 16 * i);
        const __m512i low = _mm512_permutex2var_epi32(sums[0], at, sums[1]);
        const __m512i high = _mm512_permutex2var_epi32(sums[2], at, sums[3]);
        const __mmask16 is_high =
            _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
        _mm512_storeu_si512(
            out + 16 * i, _mm512_mask_blend_epi32(is_high, low, high));
    }
}

INLINE void prefetch(const uint8_t *group, int n_words)
{
    qcpu_prefetch(group, PREFETCH_BYTES);
    if (n_words > 8)
        qcpu_prefetch(group, PREFETCH_BYTES + 64);
}

/* The last group of a tile with room behind it. */
typedef struct last_group {
    uint8_t bytes[MAX_GROUP_BYTES + 8];
} last_group;

INLINE last_group copy_last(
    const uint8_t *codes, int64_t n_groups, size_t group_bytes)
{
    last_group last;
    memcpy(
        last.bytes, codes + (size_t)(n_groups - 1) * group_bytes, group_bytes);
    memset(last.bytes + group_bytes, 0, 8);
    return last;
}

/* ---- few planes ---- */

INLINE void add_groups(__m512i sums[FEW][N_SUMS], const registers *r,
    const uint8_t *codes, int64_t n, const int32_t *digits, int64_t stride,
    int n_planes, int k, int v)
{
    const int n_words = QMI_TLUT_TILE * k / v / 16;
    for (int64_t g = 0; g < n; g++) {
        __m512i weights[N_SUMS];
        prefetch(codes, n_words);
        decode(weights, r, codes, k, v);
        QCPU_UNROLL
        for (int p = 0; p < n_planes; p++) {
            const __m512i d = _mm512_set1_epi32(digits[p]);
            QCPU_UNROLL
            for (int i = 0; i < N_SUMS; i++)
                add_products(&sums[p][i], weights[i], d);
        }
        codes += 8 * n_words;
        digits += stride;
    }
}

INLINE void few_planes(int32_t *out, const tables *t, const uint8_t *codes,
    int64_t n_groups, const qcpu_tlut_planes *planes, int n_planes, int k,
    int v)
{
    const size_t group_bytes = (size_t)(QMI_TLUT_TILE * k / v / 16) * 8;
    const last_group last = copy_last(codes, n_groups, group_bytes);
    const registers r = load_tables(t, v);
    __m512i sums[FEW][N_SUMS];
    QCPU_UNROLL
    for (int p = 0; p < n_planes; p++) {
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++)
            sums[p][i] = _mm512_set1_epi32(planes->start[p]);
    }
    add_groups(sums, &r, codes, n_groups - 1, planes->digits, planes->stride,
        n_planes, k, v);
    add_groups(sums, &r, last.bytes, 1,
        planes->digits + (n_groups - 1) * planes->stride, planes->stride,
        n_planes, k, v);
    QCPU_UNROLL
    for (int p = 0; p < n_planes; p++)
        store_rows(out + p * QMI_TLUT_TILE, sums[p], t);
}

/* ---- many planes ---- */

/* n groups from `codes` on. */
INLINE void decode_groups(uint8_t *decoded, const registers *r,
    const uint8_t *codes, int64_t n, int k, int v)
{
    const int n_words = QMI_TLUT_TILE * k / v / 16;
    for (int64_t g = 0; g < n; g++) {
        __m512i weights[N_SUMS];
        prefetch(codes, n_words);
        decode(weights, r, codes, k, v);
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++)
            _mm512_store_si512(decoded + 64 * i, weights[i]);
        codes += 8 * n_words;
        decoded += QCPU_TLUT_GROUP_WEIGHTS;
    }
}

/* Sums of n_planes planes, in the order of places, go on. */
INLINE void multiply(int32_t *sums, const uint8_t *decoded, int64_t n_groups,
    const int32_t *digits, int64_t stride, int n_planes)
{
    __m512i sum[MANY][N_SUMS];
    QCPU_UNROLL
    for (int p = 0; p < n_planes; p++) {
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++)
            sum[p][i] = _mm512_loadu_si512(sums + p * QMI_TLUT_TILE + 16 * i);
    }
    for (int64_t g = 0; g < n_groups; g++) {
        __m512i weights[N_SUMS];
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++)
            weights[i] = _mm512_load_si512(decoded + 64 * i);
        QCPU_UNROLL
        for (int p = 0; p < n_planes; p++) {
            const __m512i d = _mm512_set1_epi32(digits[p]);
            QCPU_UNROLL
            for (int i = 0; i < N_SUMS; i++)
                add_products(&sum[p][i], weights[i], d);
        }
        decoded += QCPU_TLUT_GROUP_WEIGHTS;
        digits += stride;
    }
    QCPU_UNROLL
    for (int p = 0; p < n_planes; p++) {
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++)
            _mm512_storeu_si512(sums + p * QMI_TLUT_TILE + 16 * i, sum[p][i]);
    }
}

ISA static void multiply_block(int32_t *sums, const uint8_t *decoded,
    int64_t n_groups, const int32_t *digits, const qcpu_tlut_planes *planes)
{
    int p = 0;
    for (; p + MANY <= planes->n; p += MANY)
        multiply(sums + p * QMI_TLUT_TILE, decoded, n_groups, digits + p,
            planes->stride, MANY);
    for (; p + 2 <= planes->n; p += 2)
        multiply(sums + p * QMI_TLUT_TILE, decoded, n_groups, digits + p,
            planes->stride, 2);
    if (p < planes->n)
        multiply(sums + p * QMI_TLUT_TILE, decoded, n_groups, digits + p,
            planes->stride, 1);
}

INLINE void many_planes(int32_t *sums, const tables *t, const uint8_t *codes,
    int64_t n_groups, const qcpu_tlut_planes *planes, uint8_t *decoded, int k,
    int v)
{
    const size_t group_bytes = (size_t)(QMI_TLUT_TILE * k / v / 16) * 8;
    const last_group last = copy_last(codes, n_groups, group_bytes);
    const registers r = load_tables(t, v);
    for (int i = 0; i < planes->n * QMI_TLUT_TILE; i++)
        sums[i] = planes->start[i / QMI_TLUT_TILE];
    for (int64_t g = 0; g < n_groups; g += QCPU_TLUT_BLOCK) {
        const int64_t left = n_groups - g;
        const int64_t n = left < QCPU_TLUT_BLOCK ? left : QCPU_TLUT_BLOCK;
        const int64_t n_whole = n == left ? n - 1 : n;
        decode_groups(decoded, &r, codes, n_whole, k, v);
        if (n == left)
            decode_groups(decoded + n_whole * QCPU_TLUT_GROUP_WEIGHTS, &r,
                last.bytes, 1, k, v);
        multiply_block(
            sums, decoded, n, planes->digits + g * planes->stride, planes);
        codes += (size_t)n * group_bytes;
    }
    for (int p = 0; p < planes->n; p++, sums += QMI_TLUT_TILE) {
        __m512i sum[N_SUMS];
        QCPU_UNROLL
        for (int i = 0; i < N_SUMS; i++)
            sum[i] = _mm512_loadu_si512(sums + 16 * i);
        store_rows(sums, sum, t);
    }
}

/* ---- every rate ---- */

#define RATE(name, k, v)                                                       \
    ISA static void tile_##name(int32_t *sums, const tables *t,                \
        const uint8_t *codes, int64_t n_groups,                                \
        const qcpu_tlut_planes *planes, uint8_t *decoded)                      \
    {                                                                          \
        switch (planes->n) {                                                   \
        case 1:                                                                \
            few_planes(sums, t, codes, n_groups, planes, 1, k, v);             \
            break;                                                             \
        case 2:                                                                \
            few_planes(sums, t, codes, n_groups, planes, 2, k, v);             \
            break;                                                             \
        case 3:                                                                \
            few_planes(sums, t, codes, n_groups, planes, 3, k, v);             \
            break;                                                             \
        case 4:                                                                \
            few_planes(sums, t, codes, n_groups, planes, 4, k, v);             \
            break;                                                             \
        default:                                                               \
            many_planes(sums, t, codes, n_groups, planes, decoded, k, v);      \
        }                                                                      \
    }

QCPU_TLUT_RATES(RATE)

static void any_tile(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded)
{
    const tables *t = all_tables;
    pthread_once(&once, fill_all);
#define X(name, text)                                                          \
    if (rate == &qmi_tlut_rate_##name) {                                       \
        tile_##name(sums, t, codes, n_groups, planes, decoded);                \
        return;                                                                \
    }                                                                          \
    t++;
    QMI_TLUT_MAP(X)
#undef X
}

QCPU_TLUT_KERNELS(
    avx512vbmi, QMI_CPU_AVX512 | QMI_CPU_AVX512VBMI, 90, any_tile);

#else
typedef int qcpu_no_tlut_avx512; /* a file must not be empty */
#endif
