/* SPDX-License-Identifier: Apache-2.0
 * Fused decode and multiply of "ternary-dict" rows: a codeword holds at most
 * three non-zero weights, so a row costs three conditional adds per codeword
 * (about 22 weights) and no multiplication but the two levels at its end.
 * Memory-safe on matrices that passed qmi_weight_check. */
#include "cpu.h"

#include "ternary_dict.h"

static bool takes(const qmi_weight *w)
{
    return w->format == &qmi_format_ternary_dict;
}

static int64_t tile_rows(const qmi_weight *w)
{
    (void)w;
    return 16;
}

static size_t tile_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)w;
    (void)n_tokens;
    return 0;
}

/* Sums of x at the zero (unused slots), low and high weights of one row. */
static void sum_row(float sums[3], const qmi_dict_entry *entries,
    const uint8_t *codes, uint32_t n_codes, const float *x)
{
    sums[0] = sums[1] = sums[2] = 0;
    for (uint32_t i = 0; i < n_codes; i++) {
        const qmi_dict_entry *e = &entries[qmi_load_u16(codes + 2 * i)];
        for (int j = 0; j < QMI_DICT_MAX_NONZEROS; j++)
            sums[e->code[j]] += x[e->position[j]];
        x += e->n_weights;
    }
}

/* The same for QCPU_LANES tokens at once: x [n_cols, QCPU_LANES]. */
static void sum_row_lanes(float sums[3][QCPU_LANES],
    const qmi_dict_entry *entries, const uint8_t *codes, uint32_t n_codes,
    const float *x)
{
    for (int j = 0; j < 3 * QCPU_LANES; j++)
        sums[j / QCPU_LANES][j % QCPU_LANES] = 0;
    for (uint32_t i = 0; i < n_codes; i++) {
        const qmi_dict_entry *e = &entries[qmi_load_u16(codes + 2 * i)];
        for (int j = 0; j < e->n_nonzeros; j++) {
            const float *column = x + e->position[j] * QCPU_LANES;
            float *sum = sums[e->code[j]];
            for (int lane = 0; lane < QCPU_LANES; lane++)
                sum[lane] += column[lane];
        }
        x += e->n_weights * QCPU_LANES;
    }
}

static void tile(float *y, const qmi_weight *w, int64_t mat, int64_t row,
    int64_t n_rows, const qcpu_input *x, void *scratch)
{
    (void)scratch;
    const qmi_dict_entry *entries = qmi_dict_generic()->entries;
    const qmi_td_matrix m = qmi_td_matrix_of(w, mat);
    for (int64_t r = 0; r < n_rows; r++) {
        const uint8_t *offset = m.row_offsets + 4 * (row + r);
        uint32_t begin = qmi_load_u32(offset);
        uint32_t n_codes = qmi_load_u32(offset + 4) - begin;
        const uint8_t *codes = m.codes + 2 * (uint64_t)begin;
        const uint8_t *level = m.levels + 4 * (row + r);
        float low = qmi_bf16_to_f32(qmi_load_u16(level));
        float high = qmi_bf16_to_f32(qmi_load_u16(level + 2));
        if (x->n_tokens == 1) {
            float sums[3];
            sum_row(sums, entries, codes, n_codes, x->rows);
            y[r] = low * sums[QMI_CODE_LOW] + high * sums[QMI_CODE_HIGH];
            continue;
        }
        for (int64_t t = 0; t < x->n_tokens; t += QCPU_LANES) {
            float sums[3][QCPU_LANES];
            sum_row_lanes(
                sums, entries, codes, n_codes, x->lanes + t * w->n_cols);
            for (int64_t i = 0; i < QCPU_LANES && t + i < x->n_tokens; i++)
                y[(t + i) * n_rows + r] =
                    low * sums[QMI_CODE_LOW][i] + high * sums[QMI_CODE_HIGH][i];
        }
    }
}

const qcpu_matmul qcpu_matmul_ternary_dict = {
    .name = "ternary-dict",
    .takes = takes,
    .wants_lanes = true,
    .tile_rows = tile_rows,
    .tile_scratch = tile_scratch,
    .tile = tile,
};
