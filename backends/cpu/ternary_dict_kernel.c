/* SPDX-License-Identifier: Apache-2.0
 * The kernels for "ternary-dict" (ternary_dict_kernel.h), one per width of the
 * vector registers.  In: codewords of checked rows, packed tokens.  Out: y of a
 * tile.  Codewords are walked once per row and token, or once per row and panel
 * of tokens; each adds its non-zero weights in their order. */
#include "ternary_dict_kernel.h"

#include <stddef.h>
#include <string.h>

bool qcpu_td_takes(const qmi_weight *w)
{
    return w->format == &qmi_format_ternary_dict;
}

int64_t qcpu_td_tile_rows(const qmi_weight *w)
{
    (void)w;
    return 16;
}

static int64_t panel_floats(const qmi_weight *w)
{
    return w->n_cols * QCPU_TD_LANES;
}

/* A look-up may read past the last column: zeros are there. */
static int64_t padded_floats(const qmi_weight *w)
{
    return w->n_cols + QCPU_TD_PADDING;
}

size_t qcpu_td_packed_bytes(const qmi_weight *w, int64_t n_tokens)
{
    if (n_tokens < QCPU_TD_MIN_TOKENS_FOR_LANES)
        return (size_t)(n_tokens * padded_floats(w)) * sizeof(float);
    int64_t n_panels = (n_tokens + QCPU_TD_LANES - 1) / QCPU_TD_LANES;
    return (size_t)(n_panels * panel_floats(w)) * sizeof(float);
}

void qcpu_td_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens)
{
    (void)mat;
    float *out = dst;
    /* Few tokens: one after the other.  Many: a lane is a token, and the
     * codewords are read once for all of a panel. */
    if (n_tokens < QCPU_TD_MIN_TOKENS_FOR_LANES) {
        for (int64_t t = 0; t < n_tokens; t++, out += padded_floats(w)) {
            memcpy(out, x + t * w->n_cols, (size_t)w->n_cols * sizeof *out);
            memset(out + w->n_cols, 0, QCPU_TD_PADDING * sizeof *out);
        }
        return;
    }
    for (int64_t t = 0; t < n_tokens; t += QCPU_TD_LANES)
        for (int64_t c = 0; c < w->n_cols; c++)
            for (int64_t i = t; i < t + QCPU_TD_LANES; i++)
                *out++ = i < n_tokens ? x[i * w->n_cols + c] : 0;
}

static qcpu_td_row row_of(
    const qmi_weight *w, const qmi_td_matrix *m, int64_t r)
{
    const qmi_dict *dict =
        w->codebook != NULL ? w->codebook : qmi_dict_generic();
    const uint8_t *offset = m->row_offsets + 4 * r;
    const uint8_t *level = m->levels + 4 * r;
    const uint32_t begin = qmi_load_u32(offset);
    return (qcpu_td_row){
        .entries = dict->entries,
        .codes = m->codes + 2 * (uint64_t)begin,
        .n_codes = qmi_load_u32(offset + 4) - begin,
        .values = {0, qmi_bf16_to_f32(qmi_load_u16(level)),
            qmi_bf16_to_f32(qmi_load_u16(level + 2))},
    };
}

void qcpu_td_run(
    float *y, const qcpu_tile *tile, qcpu_td_one_fn one, qcpu_td_lanes_fn lanes)
{
    _Alignas(64) float sums[QCPU_TD_LANES];
    const qmi_weight *w = tile->w;
    const qmi_td_matrix m = qmi_td_matrix_of(w, tile->mat);
    const int64_t n = tile->n_tokens;
    const bool few = n < QCPU_TD_MIN_TOKENS_FOR_LANES;
    for (int64_t r = 0; r < tile->n_rows; r++) {
        const qcpu_td_row row = row_of(w, &m, tile->row + r);
        const float *panel = tile->packed;
        /* One of both loops runs. */
        for (int64_t t = 0; few && t < n; t++)
            y[t * tile->n_rows + r] = one(&row, panel + t * padded_floats(w));
        for (int64_t t = 0; !few && t < n; t += QCPU_TD_LANES) {
            lanes(sums, &row, panel);
            panel += panel_floats(w);
            for (int64_t i = 0; i < QCPU_TD_LANES && t + i < n; i++)
                y[(t + i) * tile->n_rows + r] = sums[i];
        }
    }
}

#define KERNEL(symbol, features, macs_per_ns)                                  \
    const qcpu_matmul qcpu_matmul_ternary_dict_##symbol = {                    \
        .needs = features,                                                     \
        .takes = qcpu_td_takes,                                                \
        .max_tokens = QCPU_ANY_TOKENS,                                         \
        .speed = macs_per_ns,                                                  \
        .tile_rows = qcpu_td_tile_rows,                                        \
        .packed_bytes = qcpu_td_packed_bytes,                                  \
        .pack = qcpu_td_pack,                                                  \
        .tile_scratch = qcpu_no_scratch,                                       \
        .run = run_##symbol,                                                   \
    }

#define ISA
#define NAME(x) x##_portable
#define VEC_BYTES 16
#define FMA(a, b, c) ((a) * (b) + (c))
#include "ternary_dict_template.h"
KERNEL(portable, 0, 8);
#undef ISA
#undef NAME
#undef VEC_BYTES
#undef FMA

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define VEC_BYTES 32
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#include "ternary_dict_template.h"
KERNEL(avx2, QMI_CPU_AVX2, 9);
#undef ISA
#undef NAME
#undef VEC_BYTES
#undef FMA

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define NAME(x) x##_avx512
#define VEC_BYTES 64
#define HAVE_ONE

enum {
    POSITIONS = offsetof(qmi_dict_entry, position),
    CODES = offsetof(qmi_dict_entry, code)
};

/* The three slots of an entry in the first lanes of a register: one permute of
 * the 32 values of x from the codeword's first weight on, and one of the row's
 * values.  Both look at the low bits of a lane alone. */
ISA static inline __attribute__((always_inline)) __m128 add_codeword(
    __m128 sum, __m128 values, uint64_t word, const float *x)
{
    const __m128i to_positions = _mm_setr_epi8(POSITIONS, -1, -1, -1,
        POSITIONS + 1, -1, -1, -1, POSITIONS + 2, -1, -1, -1, -1, -1, -1, -1);
    const __m128i to_codes = _mm_setr_epi8(CODES, -1, -1, -1, CODES + 1, -1, -1,
        -1, CODES + 2, -1, -1, -1, -1, -1, -1, -1);
    const __m128i entry = _mm_cvtsi64_si128((int64_t)word);
    const __m512i at =
        _mm512_castsi128_si512(_mm_shuffle_epi8(entry, to_positions));
    const __m512 picked =
        _mm512_permutex2var_ps(_mm512_loadu_ps(x), at, _mm512_loadu_ps(x + 16));
    const __m128 value =
        _mm_permutevar_ps(values, _mm_shuffle_epi8(entry, to_codes));
    return _mm_fmadd_ps(value, _mm512_castps512_ps128(picked), sum);
}

/* Lane 3 adds zeros: its code is 0. */
ISA static float one_avx512(const qcpu_td_row *row, const float *x)
{
    /* Two sums: the second codeword does not wait for the first addition. */
    const __m128 values =
        _mm_setr_ps(row->values[0], row->values[1], row->values[2], 0);
    __m128 sum0 = _mm_setzero_ps(), sum1 = _mm_setzero_ps();
    uint32_t i = 0;
    for (; i + 2 <= row->n_codes; i += 2) {
        const uint64_t first = qcpu_td_entry(row, i);
        const uint64_t second = qcpu_td_entry(row, i + 1);
        const float *next = x + (uint8_t)first;
        sum0 = add_codeword(sum0, values, first, x);
        sum1 = add_codeword(sum1, values, second, next);
        x = next + (uint8_t)second;
    }
    if (i < row->n_codes)
        sum0 = add_codeword(sum0, values, qcpu_td_entry(row, i), x);
    sum0 = _mm_add_ps(sum0, sum1);
    sum0 = _mm_add_ps(sum0, _mm_movehl_ps(sum0, sum0));
    return _mm_cvtss_f32(_mm_add_ss(sum0, _mm_movehdup_ps(sum0)));
}

#include "ternary_dict_template.h"
KERNEL(avx512, QMI_CPU_AVX512, 14);
#endif
