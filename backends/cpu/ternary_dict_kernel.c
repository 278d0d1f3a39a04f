/* SPDX-License-Identifier: Apache-2.0
 * The kernels for "ternary-dict" (ternary_dict_kernel.h), one per width of the
 * vector registers; for one token they differ in instruction encoding only. */
#include "ternary_dict_kernel.h"

#include <stddef.h>

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

size_t qcpu_td_packed_bytes(const qmi_weight *w, int64_t n_tokens)
{
    if (n_tokens < QCPU_TD_MIN_TOKENS_FOR_LANES)
        return 0;
    int64_t n_panels = (n_tokens + QCPU_TD_LANES - 1) / QCPU_TD_LANES;
    return (size_t)(n_panels * panel_floats(w)) * sizeof(float);
}

void qcpu_td_pack(
    void *dst, const qmi_weight *w, const float *x, int64_t n_tokens)
{
    float *out = dst;
    if (n_tokens < QCPU_TD_MIN_TOKENS_FOR_LANES)
        return;
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
        for (int64_t t = 0; few && t < n; t++)
            y[t * tile->n_rows + r] = one(&row, tile->x + t * w->n_cols);
        for (int64_t t = 0; !few && t < n; t += QCPU_TD_LANES) {
            lanes(sums, &row, panel);
            panel += panel_floats(w);
            for (int64_t i = 0; i < QCPU_TD_LANES && t + i < n; i++)
                y[(t + i) * tile->n_rows + r] = sums[i];
        }
    }
}

#define KERNEL(symbol, features)                                               \
    const qcpu_matmul qcpu_matmul_ternary_dict_##symbol = {                    \
        .needs = features,                                                     \
        .takes = qcpu_td_takes,                                                \
        .max_tokens = QCPU_ANY_TOKENS,                                         \
        .speed = 12,                                                           \
        .tile_rows = qcpu_td_tile_rows,                                        \
        .packed_bytes = qcpu_td_packed_bytes,                                  \
        .pack = qcpu_td_pack,                                                  \
        .tile_scratch = qcpu_no_scratch,                                       \
        .run = run_##symbol,                                                   \
    }

#define ISA
#define NAME(x) x##_portable
#define VEC_BYTES 16
#include "ternary_dict_template.h"
KERNEL(portable, 0);
#undef ISA
#undef NAME
#undef VEC_BYTES

#if defined(__x86_64__)
#define ISA __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define VEC_BYTES 32
#include "ternary_dict_template.h"
KERNEL(avx2, QCPU_AVX2);
#undef ISA
#undef NAME
#undef VEC_BYTES

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define VEC_BYTES 64
#include "ternary_dict_template.h"
KERNEL(avx512, QCPU_AVX512);
#endif
