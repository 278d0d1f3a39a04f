/* SPDX-License-Identifier: Apache-2.0
 * Products with "q2" matrices (q2_template.h) for each instruction set: what
 * they share, and how each looks up the value of a code.  In: a tile of rows,
 * tokens packed in the order in which codes are unpacked.  Out: y of the tile.
 * The number of chains of additions is fixed per set, so bits do not depend on
 * threads. */
#include "matmul.h"
#include "q2.h"

enum {
    ROWS = 2,     /* at once */
    MAX_SUMS = 8, /* per row: tokens, or chains of additions for one */
    TILE_ROWS = 32,
    STRIP_COLS = 1024, /* a strip of x for TOKENS stays in the L1 cache */
    PREFETCH_BYTES = 1024
};

typedef struct q2_rows {
    const uint8_t *codes; /* of the first column wanted */
    size_t row_bytes;
    const uint8_t *levels; /* bf16 [rows, 4], any alignment */
} q2_rows;

static bool takes(const qmi_weight *w)
{
    return w->format == &qmi_format_q2;
}

static int64_t tile_rows(const qmi_weight *w)
{
    (void)w;
    return TILE_ROWS;
}

static q2_rows rows_of(const qcpu_tile *tile)
{
    const qmi_q2_matrix m = qmi_q2_matrix_of(tile->w, tile->mat);
    const size_t row_bytes = (size_t)qmi_q2_row_bytes(tile->w->n_cols);
    return (q2_rows){m.codes + (size_t)tile->row * row_bytes, row_bytes,
        m.levels + 2 * QMI_Q2_VALUES * tile->row};
}

/* Floats between packed rows of x. */
static int64_t q2_stride(const qmi_weight *w, int64_t lanes)
{
    return (w->n_cols + lanes - 1) / lanes * lanes;
}

/* Whole steps of 16 * lanes columns transposed, the rest as it is, zeros past
 * the end. */
static void q2_pack(float *dst, const qmi_weight *w, const float *x,
    int64_t n_tokens, int64_t lanes)
{
    const int64_t n_cols = w->n_cols, stride = q2_stride(w, lanes);
    const int64_t step = 16 * lanes, whole = n_cols / step * step;
    for (int64_t t = 0; t < n_tokens; t++, x += n_cols, dst += stride) {
        /* A 32-bit word holds 16 codes; shifting all lanes by two bits gives
         * every 16th column, so x lies in that order. */
        for (int64_t c = 0; c < whole; c += step)
            for (int64_t l = 0; l < lanes; l++)
                for (int64_t k = 0; k < 16; k++)
                    dst[c + k * lanes + l] = x[c + 16 * l + k];
        for (int64_t c = whole; c < stride; c++)
            dst[c] = c < n_cols ? x[c] : 0;
    }
}

#define KERNEL(symbol, features, macs_per_ns)                                  \
    const qcpu_matmul qcpu_matmul_q2_##symbol = {                              \
        .needs = features,                                                     \
        .takes = takes,                                                        \
        .max_tokens = QCPU_ANY_TOKENS,                                         \
        .speed = macs_per_ns,                                                  \
        .tile_rows = tile_rows,                                                \
        .packed_bytes = packed_bytes_##symbol,                                 \
        .pack = pack_##symbol,                                                 \
        .tile_scratch = qcpu_no_scratch,                                       \
        .run = run_##symbol,                                                   \
    }

/* ---- without a look-up: values are selected bit by bit ---- */

#define ISA
#define NAME(x) x##_portable
#define LANES 4
#define TOKENS 4
#define PER_INDEX 1
#define FMA(a, b, c) ((a) * (b) + (c))
#define SUM(v) ((v)[0] + (v)[1] + ((v)[2] + (v)[3]))

typedef float vec_portable __attribute__((vector_size(16)));
typedef uint32_t bits_portable __attribute__((vector_size(16)));
static const bits_portable lane_shifts_portable = {0, 2, 4, 6};

/* first, first ^ second, first ^ third, all four */
typedef struct {
    bits_portable first, low, high, both;
} table_portable;

/* bf16 is the upper half of f32. */
static inline bits_portable bits_of_level(const uint8_t *levels, int code)
{
    const uint32_t one = (uint32_t)qmi_load_u16(levels + 2 * code) << 16;
    return (bits_portable){one, one, one, one};
}

static inline table_portable tables_of_portable(const uint8_t *levels)
{
    const bits_portable v0 = bits_of_level(levels, 0);
    const bits_portable v1 = bits_of_level(levels, 1);
    const bits_portable v2 = bits_of_level(levels, 2);
    const bits_portable v3 = bits_of_level(levels, 3);
    return (table_portable){v0, v0 ^ v1, v0 ^ v2, v0 ^ v1 ^ v2 ^ v3};
}

static inline vec_portable look_up_portable(
    const table_portable *t, bits_portable codes, int which)
{
    /* Masks of all ones: v0, v1, v2 or v3 by two conditional xors and one for
     * both bits. */
    const bits_portable low = -(codes & 1), high = -(codes >> 1 & 1);
    (void)which;
    return (vec_portable)(t->first ^ (low & t->low) ^ (high & t->high) ^
                          (low & high & t->both));
}

#include "q2_template.h"
KERNEL(portable, 0, 3);
#undef ISA
#undef NAME
#undef LANES
#undef TOKENS
#undef PER_INDEX
#undef FMA
#undef SUM

#if defined(__x86_64__)
#include <immintrin.h>

/* ---- a permute looks at two bits of each lane ---- */

#define ISA __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define LANES 8
#define TOKENS 4
#define PER_INDEX 1
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(v) sum_avx2(v)

typedef float vec_avx2 __attribute__((vector_size(32)));
typedef uint32_t bits_avx2 __attribute__((vector_size(32)));
static const bits_avx2 lane_shifts_avx2 = {0, 2, 4, 6, 8, 10, 12, 14};

typedef struct {
    __m256 values; /* the four values, twice */
} table_avx2;

ISA static inline table_avx2 tables_of_avx2(const uint8_t *levels)
{
    /* All four values in one load of 8 bytes. */
    const __m256i wide =
        _mm256_cvtepu16_epi32(_mm_set1_epi64x((int64_t)qmi_load_u64(levels)));
    return (table_avx2){_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}

ISA static inline vec_avx2 look_up_avx2(
    const table_avx2 *t, bits_avx2 codes, int which)
{
    (void)which;
    return _mm256_permutevar_ps(t->values, (__m256i)codes);
}

ISA static inline float sum_avx2(__m256 v)
{
    __m128 s =
        _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#include "q2_template.h"
KERNEL(avx2, QMI_CPU_AVX2, 20);
#undef ISA
#undef NAME
#undef LANES
#undef TOKENS
#undef PER_INDEX
#undef FMA
#undef SUM

/* ---- a permute looks at four bits: two codes, one table for each ---- */

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define LANES 16
#define TOKENS 8
#define PER_INDEX 2
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(v) _mm512_reduce_add_ps(v)

typedef float vec_avx512 __attribute__((vector_size(64)));
typedef uint32_t bits_avx512 __attribute__((vector_size(64)));
static const bits_avx512 lane_shifts_avx512 = {
    0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};

typedef struct {
    __m512 of[2]; /* value i % 4, and i / 4, for index i */
} table_avx512;

ISA static inline table_avx512 tables_of_avx512(const uint8_t *levels)
{
    /* A table for each of the index's two codes. */
    const __m512i quarters =
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i wide = _mm512_slli_epi32(
        _mm512_cvtepu16_epi32(
            _mm256_set1_epi64x((int64_t)qmi_load_u64(levels))),
        16);
    return (table_avx512){{_mm512_castsi512_ps(wide),
        _mm512_castsi512_ps(_mm512_permutexvar_epi32(quarters, wide))}};
}

ISA static inline vec_avx512 look_up_avx512(
    const table_avx512 *t, bits_avx512 codes, int which)
{
    return _mm512_permutexvar_ps((__m512i)codes, t->of[which]);
}

#include "q2_template.h"
KERNEL(avx512, QMI_CPU_AVX512, 28);

#elif defined(__aarch64__)
#include <arm_neon.h>

/* ---- a byte look-up in the 16 bytes of the four values ---- */

#define ISA
#define NAME(x) x##_neon
#define LANES 4
#define TOKENS 8
#define PER_INDEX 1
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define SUM(v) vaddvq_f32(v)

typedef float vec_neon __attribute__((vector_size(16)));
typedef uint32_t bits_neon __attribute__((vector_size(16)));
static const bits_neon lane_shifts_neon = {0, 2, 4, 6};

typedef struct {
    uint8x16_t bytes;
} table_neon;

static inline float level(const uint8_t *levels, int code)
{
    return qmi_bf16_to_f32(qmi_load_u16(levels + 2 * code));
}

static inline table_neon tables_of_neon(const uint8_t *levels)
{
    const float values[QMI_Q2_VALUES] = {
        level(levels, 0), level(levels, 1), level(levels, 2), level(levels, 3)};
    return (table_neon){vreinterpretq_u8_f32(vld1q_f32(values))};
}

static inline vec_neon look_up_neon(
    const table_neon *t, bits_neon codes, int which)
{
    /* Four byte numbers per lane: 4 * code + 0..3. */
    const bits_neon index = (codes & 3) * 0x04040404u + 0x03020100u;
    (void)which;
    return (vec_neon)vqtbl1q_u8(t->bytes, (uint8x16_t)index);
}

#include "q2_template.h"
KERNEL(neon, QMI_CPU_NEON, 8);
#endif
