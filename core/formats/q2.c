/* SPDX-License-Identifier: Apache-2.0
 * The format "q2" of docs/format.md: sizes, validation, plain decoding.  In:
 * codes and levels of a stack from an untrusted file.  Out: f32 rows.  Every
 * code is valid, so nothing but sizes and levels needs a check. */
#include "q2.h"

#include <inttypes.h>

#include "alloc.h"

static int shape_codes(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = qmi_q2_row_bytes(n_cols);
    return 3;
}

static int shape_levels(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_cols;
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = QMI_Q2_VALUES;
    return 3;
}

qmi_q2_matrix qmi_q2_matrix_of(const qmi_weight *w, int64_t mat)
{
    const uint8_t *codes = w->parts[QMI_Q2_CODES].data;
    const uint8_t *levels = w->parts[QMI_Q2_LEVELS].data;
    return (qmi_q2_matrix){
        .codes = codes + mat * w->n_rows * qmi_q2_row_bytes(w->n_cols),
        .levels = levels + mat * w->n_rows * QMI_Q2_VALUES * 2,
    };
}

/* All four levels, used or not: a code may choose any of them. */
static qmoe_status check_levels(
    const qmi_weight *w, int64_t mat, qmi_error *err)
{
    const uint8_t *levels = qmi_q2_matrix_of(w, mat).levels;
    for (int64_t i = 0; i < w->n_rows * QMI_Q2_VALUES; i++) {
        const uint16_t level = qmi_load_u16(levels + 2 * i);
        if ((level & 0x7f80) == 0x7f80)
            return qmi_fail(err, QMOE_E_FORMAT,
                "levels: row %" PRId64 ": 0x%04x is not finite",
                i / QMI_Q2_VALUES, level);
    }
    return QMOE_OK;
}

static void decode(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const qmi_q2_matrix m = qmi_q2_matrix_of(w, mat);
    const int64_t row_bytes = qmi_q2_row_bytes(w->n_cols);
    for (int64_t r = row; r < row + n; r++) {
        const uint8_t *codes = m.codes + r * row_bytes;
        /* The row's four values once; then a weight is a look-up. */
        float values[QMI_Q2_VALUES];
        for (int i = 0; i < QMI_Q2_VALUES; i++)
            values[i] = qmi_bf16_to_f32(
                qmi_load_u16(m.levels + 2 * (r * QMI_Q2_VALUES + i)));
        for (int64_t c = 0; c < w->n_cols; c++)
            *dst++ = values[codes[c / 4] >> 2 * (c % 4) & 3];
    }
}

const qmi_format qmi_format_q2 = {
    .id = QMI_FORMAT_Q2,
    .name = "q2",
    .summary = "2 bits per weight, four values per row",
    .n_parts = 2,
    .parts =
        {
            [QMI_Q2_CODES] = {"codes", QMI_U8, shape_codes},
            [QMI_Q2_LEVELS] = {"levels", QMI_BF16, shape_levels},
        },
    .open = qmi_weight_check_sizes,
    .check = check_levels,
    .decode = decode,
};
