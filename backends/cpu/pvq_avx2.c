/* SPDX-License-Identifier: Apache-2.0
 * pvq and pvq8 on AVX2.  In: codes of a tile of 32 rows, packed tokens.  Out:
 * sums of the rows without their scales.  Few tokens: 8 rows in the 8 lanes, a
 * pulse is a look up in x by vpermps (two and a blend for the 16 columns of
 * pvq) with its sign xored in.  Many tokens: the row form.  Each row is added
 * up in the order of its groups. */
#include "pvq_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define VEC_BYTES 32
#include "pvq_rows_template.h"

#define INLINE ISA static inline __attribute__((always_inline))

/* How far ahead codes are fetched; reaching past the end is harmless. */
enum { PREFETCH_BYTES = 4096 };

/* One group in 8 rows: 4 position bytes or 4 times six bits, and 4 sign bits
 * in the low bits. */
typedef struct words {
    __m256i positions, signs;
} words;

INLINE __m256 flip_where_set(__m256 x, __m256i top_bit)
{
    const __m256i minus = _mm256_set1_epi32((int)0x80000000);
    return _mm256_xor_ps(
        x, _mm256_castsi256_ps(_mm256_and_si256(top_bit, minus)));
}

/* x[index & 15] per lane; bit 3 of the index is at the top of `upper`. */
INLINE __m256 look_up_16(const float *x, __m256i index, __m256i upper)
{
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(x), index),
        _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + 8), index),
        _mm256_castsi256_ps(upper));
}

/* Block i of the group, the signs not applied but that of the pair. */
INLINE __m256 pair_16(const float *x, __m256i p, __m256i order, int i)
{
    const __m256 a = look_up_16(
        x, _mm256_srli_epi32(p, 8 * i), _mm256_slli_epi32(p, 28 - 8 * i));
    const __m256 b = look_up_16(
        x, _mm256_srli_epi32(p, 8 * i + 4), _mm256_slli_epi32(p, 24 - 8 * i));
    return _mm256_add_ps(
        a, flip_where_set(b, _mm256_slli_epi32(order, 24 - 8 * i)));
}

INLINE __m256 pair_8(const float *x, __m256i p, int i)
{
    const __m256i low = _mm256_set1_epi32(7);
    const __m256i at_a = _mm256_and_si256(_mm256_srli_epi32(p, 6 * i), low);
    const __m256i at_b = _mm256_and_si256(_mm256_srli_epi32(p, 6 * i + 3), low);
    const __m256 columns = _mm256_loadu_ps(x);
    return _mm256_add_ps(_mm256_permutevar8x32_ps(columns, at_a),
        flip_where_set(_mm256_permutevar8x32_ps(columns, at_b),
            _mm256_cmpgt_epi32(at_a, at_b)));
}

/* Blocks in pairs: two chains of additions, in a fixed order. */
INLINE __m256 group_sum(const float *x, words w, int n)
{
    /* Top bit of a byte: a > b. */
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i order = _mm256_sub_epi8(
        _mm256_and_si256(_mm256_srli_epi32(w.positions, 4), low),
        _mm256_and_si256(w.positions, low));
    __m256 blocks[4];
    QCPU_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m256 sum = n == 16 ? pair_16(x + 16 * i, w.positions, order, i)
                                   : pair_8(x + 8 * i, w.positions, i);
        blocks[i] = flip_where_set(sum, _mm256_slli_epi32(w.signs, 31 - i));
    }
    return _mm256_add_ps(_mm256_add_ps(blocks[0], blocks[1]),
        _mm256_add_ps(blocks[2], blocks[3]));
}

/* 8 bytes as the low bytes of the lanes. */
INLINE __m256i bytes(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}

/* Byte i of lane r = byte r of column i. */
INLINE __m256i columns_of(const uint8_t *p, int n_columns)
{
    __m256i word = _mm256_setzero_si256();
    for (int i = 0; i < n_columns; i++)
        word =
            _mm256_or_si256(word, _mm256_sllv_epi32(bytes(p + QMI_PVQ_TILE * i),
                                      _mm256_set1_epi32(8 * i)));
    return word;
}

/* A whole group; p: of the first of the 8 rows. */
INLINE __m256i load_positions(const uint8_t *group, int quarter, int n)
{
    if (n == 16)
        return _mm256_loadu_si256((const void *)(group + 32 * quarter));
    const uint8_t *p = group + 8 * quarter;
    return _mm256_or_si256(
        bytes(p), _mm256_or_si256(_mm256_slli_epi32(bytes(p + 32), 8),
                      _mm256_slli_epi32(bytes(p + 64), 16)));
}

/* As add_tile for the blocks behind the last chunk: signs are bytes, and pvq's
 * last blocks have columns of their own (pvq.h). */
INLINE void add_tail(__m256 sums[4], const uint8_t *codes, int n_blocks,
    const float *x, int64_t stride, int n)
{
    const int n_groups = (n_blocks + 3) / 4;
    const int n_whole = n == 16 ? n_blocks / 4 : n_groups;
    const int n_rest = n == 16 ? n_blocks % 4 : 0;
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    const uint8_t *rest = codes + (size_t)n_whole * group_bytes;
    const uint8_t *sign_columns = rest + QMI_PVQ_TILE * n_rest;
    QCPU_UNROLL
    for (int q = 0; q < 4; q++) {
        __m256i signs = columns_of(sign_columns + 8 * q, (n_blocks + 7) / 8);
        for (int g = 0; g < n_groups; g++) {
            const __m256i positions =
                g < n_whole
                    ? load_positions(codes + (size_t)g * group_bytes, q, n)
                    : columns_of(rest + 8 * q, n_rest);
            const words w = {positions, signs};
            sums[q] = _mm256_add_ps(sums[q], group_sum(x + g * stride, w, n));
            /* The next four signs. */
            signs = _mm256_srli_epi32(signs, 4);
        }
    }
}

/* x of group g: x + g * stride. */
INLINE void add_tile(float *out, const uint8_t *codes, const qmi_pvq_shape *s,
    const float *x, int64_t stride, int n)
{
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    __m256 sums[4];
    /* Four registers of 8 rows are a tile. */
    QCPU_UNROLL
    for (int q = 0; q < 4; q++)
        sums[q] = _mm256_setzero_ps();
    for (int64_t c = 0; c < s->n_chunks; c++) {
        const uint8_t *sign_words =
            codes + QCPU_PVQ_GROUPS_PER_CHUNK * group_bytes;
        for (int g = 0; g < QCPU_PVQ_GROUPS_PER_CHUNK; g++) {
            qcpu_prefetch(codes, PREFETCH_BYTES);
            qcpu_prefetch(codes, PREFETCH_BYTES + 64);
            QCPU_UNROLL
            for (int q = 0; q < 4; q++) {
                const __m256i signs = _mm256_srlv_epi32(
                    _mm256_loadu_si256((const void *)(sign_words + 32 * q)),
                    _mm256_set1_epi32(4 * g));
                const words w = {load_positions(codes, q, n), signs};
                sums[q] = _mm256_add_ps(sums[q], group_sum(x, w, n));
            }
            codes += group_bytes;
            x += stride;
        }
        codes += QMI_PVQ_TILE * sizeof(uint32_t);
    }
    if (s->tail != 0)
        add_tail(sums, codes, s->tail, x, stride, n);
    QCPU_UNROLL
    for (int q = 0; q < 4; q++)
        _mm256_storeu_ps(out + 8 * q, sums[q]);
}

ISA static void few_tokens(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int64_t n_tokens)
{
    const int64_t width = QCPU_PVQ_GROUP * s->n;
    for (int64_t t = 0; t < n_tokens; t++) {
        float *out = sums + t * QMI_PVQ_TILE;
        const float *x = panel + t * width;
        /* n as a constant in both calls, so that each is compiled for its
         * width. */
        if (s->n == 16)
            add_tile(out, codes, s, x, width * n_tokens, 16);
        else
            add_tile(out, codes, s, x, width * n_tokens, 8);
    }
}

QCPU_PVQ_FEW_OR_ROWS(avx2, few_tokens, rows_tile_avx2)

const qcpu_matmul qcpu_matmul_pvq_avx2 = {
    .needs = QMI_CPU_AVX2,
    .takes = qcpu_pvq_takes,
    .max_tokens = QCPU_ANY_TOKENS,
    .speed = 60,
    .tile_rows = qcpu_pvq_tile_rows,
    .packed_bytes = packed_bytes_avx2,
    .pack = pack_avx2,
    .tile_scratch = tile_scratch_avx2,
    .run = run_avx2,
};

#else
typedef int qcpu_no_avx2; /* a file must not be empty */
#endif
