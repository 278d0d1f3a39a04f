/* SPDX-License-Identifier: Apache-2.0
 * The format "int8" of docs/format.md: validation, plain decoding.  In: codes
 * and scales of a stack from an untrusted file.  Out: f32 rows.  Every code is
 * valid, so nothing but sizes and scales needs a check. */
#include "int8.h"

#include <inttypes.h>

static int shape_codes(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = n_cols;
    return 3;
}

static int shape_scales(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_cols;
    shape[0] = n_mats;
    shape[1] = n_rows;
    return 2;
}

/* Offsets of matrices fit: `open` has compared the products with the bytes that
 * are there. */
const int8_t *qmi_int8_codes(const qmi_weight *w, int64_t mat)
{
    const int8_t *codes = w->parts[QMI_INT8_CODES].data;
    return codes + mat * w->n_rows * w->n_cols;
}

const uint8_t *qmi_int8_scales(const qmi_weight *w, int64_t mat)
{
    const uint8_t *scales = w->parts[QMI_INT8_SCALES].data;
    return scales + 2 * mat * w->n_rows;
}

static qmoe_status check_scales(
    const qmi_weight *w, int64_t mat, qmi_error *err)
{
    const uint8_t *scales = qmi_int8_scales(w, mat);
    for (int64_t row = 0; row < w->n_rows; row++) {
        const uint16_t scale = qmi_load_u16(scales + 2 * row);
        if ((scale & 0x7fff) > QMI_INT8_MAX_SCALE)
            return qmi_fail(err, QMOE_E_FORMAT,
                "scales: row %" PRId64 ": 0x%04x is 2^121 or more, or not "
                "finite",
                row, scale);
    }
    return QMOE_OK;
}

static void decode(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const int8_t *codes = qmi_int8_codes(w, mat) + row * w->n_cols;
    const uint8_t *scales = qmi_int8_scales(w, mat);
    for (int64_t r = row; r < row + n; r++) {
        const float scale = qmi_bf16_to_f32(qmi_load_u16(scales + 2 * r));
        for (int64_t c = 0; c < w->n_cols; c++)
            *dst++ = scale * (float)*codes++;
    }
}

const qmi_format qmi_format_int8 = {
    .id = QMI_FORMAT_INT8,
    .name = "int8",
    .summary = "8 bits per weight, a scale per row",
    .n_parts = 2,
    .parts =
        {
            [QMI_INT8_CODES] = {"codes", QMI_I8, shape_codes},
            [QMI_INT8_SCALES] = {"scales", QMI_BF16, shape_scales},
        },
    .open = qmi_weight_check_sizes,
    .check = check_scales,
    .decode = decode,
};
