/* SPDX-License-Identifier: Apache-2.0
 * Attention (attention_template.h) for each instruction set, and what the
 * kernels share.  In: a task of attention.h and work space of one thread.  Out:
 * rows of dst, or partials.  The template is included once per set, with its
 * vector width as macros, so that every set computes by the same text. */
#include "attention.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "cancel.h"
#include "cpu.h"
#include "exp.h"
#include "matmul.h"

enum {
    ROWS = 4,  /* keys or channels of a block at once */
    HEADS = 4, /* of queries that a step meets a key with */
    /* One line, whole cache lines. */
    LINE_FLOATS =
        (QCPU_KEYS + QCPU_QUERIES > QCPU_CHUNK ? QCPU_KEYS + QCPU_QUERIES
                                               : QCPU_CHUNK)
};

/* ---- shared ---- */

/* A block and a step never run at once in a thread: one space serves both. */
size_t qcpu_attention_scratch_bytes(
    int64_t n_heads, int64_t n_kv_heads, int64_t d_key, int64_t d_value)
{
    const int64_t d = d_key + d_value;
    const int64_t wider = d_key > d_value ? d_key : d_value;
    const size_t block =
        (size_t)(QCPU_QUERIES * (QCPU_KEYS + d) + QCPU_KEYS * d);
    const size_t step =
        (size_t)(n_heads * QCPU_CHUNK + QCPU_TILE * n_kv_heads * wider);
    return qcpu_align(
        (LINE_FLOATS + (block > step ? block : step)) * sizeof(float));
}

/* By distance, so that neighbouring queries read the same line one place apart,
 * and the mask costs no comparison in the kernel. */
void qcpu_attention_line(float *line, const qcpu_attention_task *a,
    int64_t head, int64_t n_queries, int64_t first, int64_t n_keys)
{
    const int64_t n = n_keys - 1 + n_queries, m = a->max_distance;
    /* How far the last key lies behind the first query. */
    const int64_t farthest = first + n_keys - 1 - a->q_pos;
    const float *bias =
        a->bias != NULL ? a->bias + head * (2 * m + 1) + m : NULL;
    /* From the farthest key down: line[n_keys - 1 - j + i] belongs to key j and
     * query i (attention.h). */
    for (int64_t i = 0; i < n; i++) {
        int64_t distance = farthest - i;
        const bool hidden = (a->causal && distance > 0) ||
                            (a->window > 0 && distance <= -a->window);
        distance = distance > m ? m : distance;
        distance = distance < -m ? -m : distance;
        line[i] = hidden ? -INFINITY : bias != NULL ? bias[distance] : 0;
    }
}

/* Keys that some query of a block sees. */
static int64_t visible_keys(const qcpu_attention_task *a)
{
    const int64_t n = a->q_pos + a->n_queries;
    return a->causal && n < a->n_keys ? n : a->n_keys;
}

/* Work space of a block. */
typedef struct block_parts {
    float *line;   /* of the queries and the keys at hand */
    float *scores; /* of a strip and these keys, later weights */
    float *strips; /* queries and results */
    float *k, *v;  /* rows of the keys at hand, back to back */
} block_parts;

static block_parts parts_of(const qcpu_attention_task *a, void *scratch)
{
    block_parts p = {.line = scratch};
    p.scores = p.line + LINE_FLOATS;
    p.strips = p.scores + QCPU_QUERIES * QCPU_KEYS;
    p.k = p.strips + QCPU_QUERIES * (a->d_key + a->d_value);
    p.v = p.k + QCPU_KEYS * a->d_key;
    return p;
}

/* Keys, or values, as floats.  Their rows in the cache one tile on are asked for
 * while this tile is computed with: memory is slower than either. */
typedef struct tile {
    const float *rows;
    int64_t stride, n;
    const uint8_t *ahead;
    uint64_t ahead_stride, ahead_bytes;
} tile;

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void fetch_ahead(const tile *t, int64_t first, int64_t n)
{
    const uint8_t *row = t->ahead + (uint64_t)first * t->ahead_stride;
    for (int64_t i = 0; i < n; i++, row += t->ahead_stride)
        for (uint64_t at = 0; at < t->ahead_bytes; at += 64)
            __builtin_prefetch(row + at);
}

/* What head h of the queries reads; only the first of those that share it asks
 * for more. */
ALWAYS_INLINE tile tile_of_head(const tile *all, const qcpu_attention_task *a,
    const qcpu_kv_rows *from, int64_t h)
{
    const int64_t column = h / a->shared * from->width;
    tile t = *all;
    t.rows += column;
    t.ahead += qmi_kv_row_bytes(from->type, from->first + column);
    if (h % a->shared == 0)
        t.ahead_bytes = qmi_kv_row_bytes(from->type, from->width);
    return t;
}

/* Heads of queries from h on that meet a key together. */
static int heads_from(const qcpu_attention_task *a, int64_t h)
{
    const int64_t left = a->shared - h % a->shared;
    return (int)(left < HEADS ? left : HEADS);
}

#define KERNEL(symbol, features)                                               \
    const qcpu_attention_kernel qcpu_attention_##symbol = {                    \
        .needs = features,                                                     \
        .block = block_##symbol,                                               \
        .step = step_##symbol,                                                 \
    }

/* ---- without a target attribute ---- */

#define ISA
#define NAME(x) x##_portable
#define LANES 4
#define VECS 2
#define FMA(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) larger(a, b)
#define SUMS(v) sums_portable(v)
#define HALVES(p) four_halves(p)
#define CODES(p) four_codes(p)

static inline four sums_portable(const four *v)
{
    four out;
    for (int i = 0; i < 4; i++)
        out[i] = v[i][0] + v[i][1] + (v[i][2] + v[i][3]);
    return out;
}

static inline four four_codes(const int8_t *p)
{
    return (four){p[0], p[1], p[2], p[3]};
}

static inline four four_halves(const uint8_t *p)
{
    four out;
    for (int i = 0; i < 4; i++)
        out[i] = qmi_f16_to_f32(qmi_load_u16(p + 2 * i));
    return out;
}

#include "attention_template.h"
KERNEL(portable, 0);
#undef ISA
#undef NAME
#undef LANES
#undef VECS
#undef FMA
#undef MAX
#undef SUMS
#undef HALVES
#undef CODES

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define LANES 16
#define VECS 4
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_ps(a, b)
#define SUMS(v) sums_avx512(v)
#define HALVES(p) _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p)))
#define CODES(p)                                                               \
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(p))))

/* Halves of two registers, then quarters of four, side by side; lanes of
 * quarters as a transposed matrix of 4 x 4. */
ISA static inline __m512 sums_avx512(const __m512 *v)
{
    __m512 quarters[4];
    QCPU_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512 a =
            _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x44),
                _mm512_shuffle_f32x4(v[i], v[i + 4], 0xee));
        const __m512 b =
            _mm512_add_ps(_mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x44),
                _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xee));
        quarters[i] = _mm512_add_ps(
            _mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(quarters[0], quarters[1]),
        _mm512_unpackhi_ps(quarters[0], quarters[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(quarters[2], quarters[3]),
        _mm512_unpackhi_ps(quarters[2], quarters[3]));
    return _mm512_add_ps(
        _mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}

#include "attention_template.h"
KERNEL(avx512, QMI_CPU_AVX512);
#undef ISA
#undef NAME
#undef LANES
#undef VECS
#undef FMA
#undef MAX
#undef SUMS
#undef HALVES
#undef CODES

#define ISA __attribute__((target("avx2,fma,f16c")))
#define NAME(x) x##_avx2
#define LANES 8
#define VECS 2
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_ps(a, b)
#define SUMS(v) sums_avx2(v)
#define HALVES(p) _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p)))
#define CODES(p)                                                               \
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p))))

ISA static inline __m256 sums_avx2(const __m256 *v)
{
    const __m256 low =
        _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const __m256 high =
        _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
        _mm256_permute2f128_ps(low, high, 0x31));
}

#include "attention_template.h"
KERNEL(avx2, QMI_CPU_AVX2);

#elif defined(__aarch64__)
#include <arm_neon.h>

#define ISA
#define NAME(x) x##_neon
#define LANES 4
#define VECS 4
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define MAX(a, b) vmaxq_f32(a, b)
#define SUMS(v)                                                                \
    vpaddq_f32(vpaddq_f32((v)[0], (v)[1]), vpaddq_f32((v)[2], (v)[3]))
#define HALVES(p) vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)))
#define CODES(p) codes_neon(p)

static inline float32x4_t codes_neon(const int8_t *p)
{
    int8_t eight[8] = {0};
    memcpy(eight, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(eight)))));
}

#include "attention_template.h"
KERNEL(neon, QMI_CPU_NEON);
#endif
