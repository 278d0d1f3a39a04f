/* SPDX-License-Identifier: Apache-2.0
 * The quantiser for "int8" (docs/format.md).  In: a matrix, second moments or
 * none.  Out: a scale per row, of which its largest weight is 127, and the
 * nearest codes.  At this rate a smaller scale that clips gains nothing, and
 * feedback from column to column little: moments only measure. */
#include <math.h>

#include "alloc.h"
#include "gptq_frame.h"
#include "int8.h"

/* The scale as stored; 0 for a row of zeros, or of weights too small for it. */
static uint16_t scale_of(float largest)
{
    const uint16_t scale = qmi_f32_to_bf16(largest / (float)QMI_INT8_MAX_CODE);
    return scale < QMI_INT8_MAX_SCALE ? scale : QMI_INT8_MAX_SCALE;
}

static int8_t code_of(float weight, float scale)
{
    if (scale == 0)
        return 0;
    const float most = QMI_INT8_MAX_CODE;
    return (int8_t)rintf(fminf(fmaxf(weight / scale, -most), most));
}

/* A row of codes, and d = w - what they decode to. */
static qmoe_status round_row(int8_t *codes, uint8_t *scale_bytes, float *d,
    const float *w, int64_t n_cols, uint64_t *n_zeros)
{
    float largest = 0;
    for (int64_t c = 0; c < n_cols; c++) {
        if (!isfinite(w[c]))
            return QMOE_E_FORMAT;
        largest = fmaxf(largest, fabsf(w[c]));
    }
    const uint16_t stored = scale_of(largest);
    const float scale = qmi_bf16_to_f32(stored);
    memcpy(scale_bytes, &stored, sizeof stored);
    for (int64_t c = 0; c < n_cols; c++) {
        codes[c] = code_of(w[c], scale);
        d[c] = w[c] - scale * (float)codes[c];
        *n_zeros += codes[c] == 0;
    }
    return QMOE_OK;
}

static qmoe_status round_rows(qmi_encoded *out, qmi_quant_result *result,
    float *d, const float *w, qmi_error *err)
{
    const int64_t n_cols = out->n_cols;
    int8_t *codes = (int8_t *)out->parts[QMI_INT8_CODES];
    uint8_t *scales = out->parts[QMI_INT8_SCALES];
    for (int64_t row = 0; row < out->n_rows; row++) {
        const int64_t at = row * n_cols;
        if (round_row(codes + at, scales + 2 * row, d + at, w + at, n_cols,
                &result->n_zeros) != QMOE_OK)
            return qmi_fail(err, QMOE_E_FORMAT, "row %lld: non-finite weight",
                (long long)row);
    }
    return QMOE_OK;
}

static qmoe_status allocate(qmi_encoded *out, float **d, qmi_error *err)
{
    static const char what[] = "a compressed matrix";
    const size_t n = (size_t)out->n_rows * (size_t)out->n_cols;
    out->part_bytes[QMI_INT8_CODES] = n;
    out->part_bytes[QMI_INT8_SCALES] = (size_t)out->n_rows * sizeof(uint16_t);
    for (int i = 0; i < out->format->n_parts; i++)
        out->parts[i] = qmi_calloc(out->part_bytes[i], 1, what, err);
    *d = qmi_calloc(n, sizeof **d, what, err);
    return out->parts[0] != NULL && out->parts[1] != NULL && *d != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    static const qmi_gptq no_factor = {0};
    float *d = NULL;
    *out = (qmi_encoded){
        .format = &qmi_format_int8, .n_rows = n_rows, .n_cols = n_cols};
    *result = (qmi_quant_result){0};
    QMI_TRY(qmi_gptq_check(n_rows, n_cols, hessian, err));
    qmoe_status status = allocate(out, &d, err);
    if (status == QMOE_OK)
        status = round_rows(out, result, d, w, err);
    if (status == QMOE_OK) {
        qmi_count_coded(options->n_coded, n_rows * n_cols);
        status = qmi_gptq_measure(result, d, w, n_rows, n_cols,
            qmi_hessian_usable(hessian) ? hessian : NULL, &no_factor, err);
    }
    qmi_free(d);
    if (status != QMOE_OK) {
        qmi_encoded_free(out);
        *result = (qmi_quant_result){0};
    }
    return status;
}

/* What is left of the weights, and the result. */
static uint64_t work_bytes(int64_t n_rows, int64_t n_cols, bool moments,
    const qmi_quant_options *options)
{
    (void)moments;
    (void)options;
    return (uint64_t)n_rows * (uint64_t)n_cols * sizeof(float) +
           qmi_stack_size(&qmi_format_int8, 1, n_rows, n_cols, 0);
}

extern const qmi_quantiser qmi_quantiser_int8_rtn;
const qmi_quantiser qmi_quantiser_int8_rtn = {
    .method = "rtn",
    .format = &qmi_format_int8,
    .by_rows = true,
    .work_bytes = work_bytes,
    .run = run,
};
