/* SPDX-License-Identifier: Apache-2.0
 * Products that read bf16, f32 and int8 weights once, from where they lie
 * (dense_template.h), for each instruction set.  In: a tile of rows, tokens
 * packed with zeros up to whole vectors.  Out: y of the tile.  Sums of a row
 * are cut into chains whose number is fixed per set, so that bits depend on the
 * set, not on threads. */
#include "int8.h"
#include "matmul.h"

enum {
    TOKENS = 4, /* at once */
    TILE_ROWS = 32,
    STRIP_COLS = 2048, /* a strip of x for TOKENS stays in the L1 cache */
    PREFETCH_BYTES = 4096,
    WIDE_COLS = 4096,   /* x of more columns takes over half of that cache */
    WIDE_ROWS = 4,      /* at once, of such matrices */
    WIDE_PREFETCH = 512 /* in each of them */
};

static bool is_int8(const qmi_weight *w)
{
    return w->format == &qmi_format_int8;
}

static bool takes(const qmi_weight *w)
{
    const qmi_format *format = w->format;
    return is_int8(w) || (format->dense && (format->dtype == QMI_BF16 ||
                                               format->dtype == QMI_F32));
}

/* It tells the formats apart. */
static size_t element_bytes(const qmi_weight *w)
{
    return is_int8(w) ? sizeof(int8_t) : qmi_dtype_bits(w->format->dtype) / 8;
}

static const void *elements(const qmi_weight *w, int64_t mat)
{
    return is_int8(w) ? qmi_int8_codes(w, mat) : qmi_weight_dense(w, mat);
}

/* y of codes becomes y of weights. */
static void scale_rows(float *y, const qcpu_tile *tile)
{
    const uint8_t *scales = qmi_int8_scales(tile->w, tile->mat) + 2 * tile->row;
    for (int64_t t = 0; t < tile->n_tokens; t++)
        for (int64_t r = 0; r < tile->n_rows; r++)
            y[t * tile->n_rows + r] *=
                qmi_bf16_to_f32(qmi_load_u16(scales + 2 * r));
}

static int64_t tile_rows(const qmi_weight *w)
{
    (void)w;
    return TILE_ROWS;
}

/* Floats between packed rows of x. */
static int64_t dense_stride(const qmi_weight *w, int64_t step)
{
    return (w->n_cols + step - 1) / step * step;
}

/* The kernel reads 32-bit words of two bf16, whose halves are an even and an
 * odd column, so x is split the same way. */
static void pack_step(
    float *dst, const float *x, int64_t n, int64_t step, bool split)
{
    for (int64_t i = 0; i < step; i++) {
        const int64_t to = split ? i / 2 + i % 2 * (step / 2) : i;
        dst[to] = i < n ? x[i] : 0;
    }
}

/* Zeros past the end; for bf16 every `step` columns evens, then odds. */
static void dense_pack(float *dst, const qmi_weight *w, const float *x,
    int64_t n_tokens, int64_t step)
{
    const int64_t n_cols = w->n_cols, stride = dense_stride(w, step);
    const bool split = element_bytes(w) == sizeof(uint16_t);
    /* Whole steps only: the kernel has no tail. */
    for (int64_t t = 0; t < n_tokens; t++)
        for (int64_t c = 0; c < stride; c += step)
            pack_step(dst + t * stride + c, x + t * n_cols + c, n_cols - c,
                step, split);
}

#define KERNEL(symbol, features, most)                                         \
    const qcpu_matmul qcpu_matmul_dense_##symbol = {                           \
        .needs = features,                                                     \
        .takes = takes,                                                        \
        .max_tokens = most,                                                    \
        .speed = 8,                                                            \
        .tile_rows = tile_rows,                                                \
        .packed_bytes = packed_bytes_##symbol,                                 \
        .pack = pack_##symbol,                                                 \
        .tile_scratch = qcpu_no_scratch,                                       \
        .run = run_##symbol,                                                   \
    }

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define LANES 16
#define CHAINS 4
#define WIDE_CHAINS 2
#define ROWS 4
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(v) _mm512_reduce_add_ps(v)
#define WIDEN(p)                                                               \
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(p))))
#include "dense_template.h"
KERNEL(avx512, QMI_CPU_AVX512, QCPU_ANY_TOKENS);
#undef ISA
#undef NAME
#undef LANES
#undef CHAINS
#undef WIDE_CHAINS
#undef ROWS
#undef FMA
#undef SUM
#undef WIDEN

#define ISA __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define LANES 8
#define CHAINS 4
#define WIDE_CHAINS 1
#define ROWS 2
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(v) sum_avx2(v)
#define WIDEN(p)                                                               \
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p))))

/* Halves until one lane is left: a fixed order of additions. */
ISA static inline float sum_avx2(__m256 v)
{
    __m128 s =
        _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#include "dense_template.h"
/* OpenBLAS is faster beyond it. */
KERNEL(avx2, QMI_CPU_AVX2, 256);

#elif defined(__aarch64__)
#include <arm_neon.h>

#define ISA
#define NAME(x) x##_neon
#define LANES 4
#define CHAINS 4
#define WIDE_CHAINS 1
#define ROWS 4
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define SUM(v) vaddvq_f32(v)
#define WIDEN(p) widen_neon(p)

static inline float32x4_t widen_neon(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const int16x8_t wide = vmovl_s8(vcreate_s8(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

#include "dense_template.h"
KERNEL(neon, QMI_CPU_NEON, QCPU_ANY_TOKENS);
#endif
