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
    ROWS = 4, /* keys or channels at once */
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
#define SUM(v) ((v)[0] + (v)[1] + ((v)[2] + (v)[3]))
#define HALVES(p) four_halves(p)

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
#undef SUM
#undef HALVES

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define LANES 16
#define VECS 4
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_ps(a, b)
#define SUM(v) _mm512_reduce_add_ps(v)
#define HALVES(p) _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p)))
#include "attention_template.h"
KERNEL(avx512, QMI_CPU_AVX512);
#undef ISA
#undef NAME
#undef LANES
#undef VECS
#undef FMA
#undef MAX
#undef SUM
#undef HALVES

#define ISA __attribute__((target("avx2,fma,f16c")))
#define NAME(x) x##_avx2
#define LANES 8
#define VECS 2
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_ps(a, b)
#define SUM(v) sum_avx2(v)
#define HALVES(p) _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p)))

/* Halves until one lane is left: a fixed order of additions. */
ISA static inline float sum_avx2(__m256 v)
{
    __m128 s =
        _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
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
#define SUM(v) vaddvq_f32(v)
#define HALVES(p) vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)))
#include "attention_template.h"
KERNEL(neon, QMI_CPU_NEON);
#endif
