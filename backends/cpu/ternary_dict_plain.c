/* SPDX-License-Identifier: Apache-2.0
 * "ternary-dict" by the letter of the format: every codeword is unpacked weight
 * by weight from the decode table of docs/format.md.  In: codewords of checked
 * rows.  Out: y, each row added up column by column.  For comparison and as the
 * last resort. */
#include "matmul.h"
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

/* One row times one token. */
static float row_times(const qmi_dict *dict, const float values[3],
    const uint8_t *codes, uint32_t n_codes, const float *x, int64_t n_cols)
{
    float sum = 0;
    int64_t c = 0;
    for (uint32_t i = 0; i < n_codes; i++) {
        const qmi_dict_entry *e = &dict->entries[qmi_load_u16(codes + 2 * i)];
        uint8_t weights[2 * QMI_DICT_MAX_PAIRS + 1] = {0};
        for (int j = 0; j < e->n_nonzeros; j++)
            weights[e->position[j]] = e->code[j];
        /* A padding weight lies past n_cols and is left out. */
        for (int j = 0; j < e->n_weights && c < n_cols; j++, c++)
            sum += values[weights[j]] * x[c];
    }
    return sum;
}

static void run(float *y, const qcpu_tile *tile, void *scratch)
{
    const qmi_weight *w = tile->w;
    const qmi_dict *dict =
        w->codebook != NULL ? w->codebook : qmi_dict_generic();
    const qmi_td_matrix m = qmi_td_matrix_of(w, tile->mat);
    (void)scratch;
    for (int64_t r = 0; r < tile->n_rows; r++) {
        const uint8_t *offset = m.row_offsets + 4 * (tile->row + r);
        const uint32_t begin = qmi_load_u32(offset);
        const uint32_t n_codes = qmi_load_u32(offset + 4) - begin;
        const uint8_t *level = m.levels + 4 * (tile->row + r);
        const float values[3] = {0, qmi_bf16_to_f32(qmi_load_u16(level)),
            qmi_bf16_to_f32(qmi_load_u16(level + 2))};
        for (int64_t t = 0; t < tile->n_tokens; t++)
            y[t * tile->n_rows + r] =
                row_times(dict, values, m.codes + 2 * (uint64_t)begin, n_codes,
                    tile->x + t * w->n_cols, w->n_cols);
    }
}

const qcpu_matmul qcpu_matmul_ternary_dict_plain = {
    .takes = takes,
    .max_tokens = QCPU_ANY_TOKENS,
    .speed = 1,
    .tile_rows = tile_rows,
    .packed_bytes = qcpu_no_packed_bytes,
    .pack = qcpu_no_pack,
    .tile_scratch = qcpu_no_scratch,
    .run = run,
};
