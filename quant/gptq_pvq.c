/* SPDX-License-Identifier: Apache-2.0
 * Quantisers for "pvq" and "pvq8": nearest blocks, and block GPTQ followed by
 * coordinate descent (docs/quantisers.md "PVQ"). */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "pvq_fit.h"

/* ---- bytes ---- */

static uint64_t count_zeros(const qmi_pvq_problem *p)
{
    uint64_t n_pulses = 0;
    for (int64_t r = 0; r < p->n_rows; r++)
        for (int64_t b = 0; p->scale[r] != 0 && b < p->n_blocks; b++) {
            const qmi_pvq_pulses q =
                qmi_pvq_pulses_of(&p->pairs, p->blocks[r * p->n_blocks + b]);
            const int64_t col = b * p->pairs.n;
            n_pulses += col + q.a < p->n_cols;
            n_pulses += q.a != q.b && col + q.b < p->n_cols;
        }
    return (uint64_t)(p->n_rows * p->n_cols) - n_pulses;
}

static void encode_row(qmi_encoded *out, const qmi_pvq_shape *shape,
    const qmi_pvq_problem *p, int64_t row)
{
    uint16_t scale = qmi_pvq_stored_scale(p, row, p->scale[row]);
    memcpy(out->parts[QMI_PVQ_SCALES] + 2 * row, &scale, sizeof scale);
    for (int64_t b = 0; scale != 0 && b < p->n_blocks; b++) {
        const qmi_pvq_pulses q =
            qmi_pvq_pulses_of(&p->pairs, p->blocks[row * p->n_blocks + b]);
        qmi_pvq_set(shape, out->parts[QMI_PVQ_CODES], row, b,
            qmi_pvq_make(
                q.a, q.sign_a < 0 ? -1 : 1, q.b, q.sign_b < 0 ? -1 : 1));
    }
}

static qmoe_status encode(qmi_encoded *out, const qmi_format *format,
    const qmi_pvq_problem *p, qmi_error *err)
{
    const qmi_pvq_shape shape =
        qmi_pvq_shape_of(p->pairs.n, p->n_rows, p->n_cols);
    *out = (qmi_encoded){
        .format = format, .n_rows = p->n_rows, .n_cols = p->n_cols};
    const size_t sizes[] = {
        [QMI_PVQ_CODES] = (size_t)shape.n_tiles * shape.tile_bytes,
        [QMI_PVQ_SCALES] = (size_t)p->n_rows * sizeof(uint16_t)};
    for (int i = 0; i < format->n_parts; i++) {
        out->part_bytes[i] = sizes[i];
        out->parts[i] = qmi_calloc(sizes[i], 1, "a compressed matrix", err);
        if (out->parts[i] == NULL)
            return QMOE_E_NOMEM;
    }
    for (int64_t r = 0; r < p->n_rows; r++)
        encode_row(out, &shape, p, r);
    return QMOE_OK;
}

/* Errors of what the bytes decode to. */
static qmoe_status measure(qmi_quant_result *result, const qmi_encoded *encoded,
    const float *w, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    const int64_t n_rows = encoded->n_rows, n_cols = encoded->n_cols;
    const int64_t n = n_rows * n_cols;
    qmi_weight stack = {.format = encoded->format,
        .name = "a matrix",
        .n_mats = 1,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .rotation = options->rotation,
        .rotation_seed = options->rotation_seed};
    for (int i = 0; i < encoded->format->n_parts; i++)
        stack.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
    float *difference =
        qmi_calloc((size_t)n, sizeof *difference, "a matrix", err);
    if (difference == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(&stack, 0, 0, n_rows, difference);
    for (int64_t i = 0; i < n; i++)
        difference[i] = w[i] - difference[i];
    result->error =
        qmi_quadratic_error(difference, n_rows, n_cols, hessian, err);
    result->energy = qmi_quadratic_error(w, n_rows, n_cols, hessian, err);
    qmi_free(difference);
    return isnan(result->error) || isnan(result->energy) ? QMOE_E_NOMEM
                                                         : QMOE_OK;
}

/* ---- quantisers ---- */

/* GPTQ where the second moments allow it. */
static qmoe_status fit(qmi_pvq_problem *p, bool *fell_back,
    const qmi_hessian *hessian, const qmi_quant_options *options, bool moments,
    qmi_error *err)
{
    qmi_pvq_fit_nearest(p);
    *fell_back = moments && (hessian == NULL || hessian->n_tokens == 0);
    if (!moments || *fell_back)
        return QMOE_OK;
    qmoe_status status = qmi_pvq_problem_add_moments(p, hessian, options, err);
    *fell_back = status == QMOE_E_UNSUPPORTED;
    if (*fell_back)
        return QMOE_OK;
    QMI_TRY(status);
    return qmi_pvq_fit_moments(p, options->passes, err);
}

static qmoe_status quantise(qmi_encoded *out, qmi_quant_result *result,
    qmi_pvq_problem *p, const qmi_format *format, const float *w,
    const qmi_hessian *hessian, const qmi_quant_options *options, bool moments,
    qmi_error *err)
{
    QMI_TRY(fit(p, &result->fell_back, hessian, options, moments, err));
    result->n_zeros = count_zeros(p);
    QMI_TRY(encode(out, format, p, err));
    return measure(result, out, w, hessian, options, err);
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result,
    const qmi_format *format, const float *w, int64_t n_rows, int64_t n_cols,
    const qmi_hessian *hessian, const qmi_quant_options *options, bool moments,
    qmi_error *err)
{
    qmi_pvq_problem p = {0};
    *out = (qmi_encoded){0};
    *result = (qmi_quant_result){0};
    qmoe_status status = qmi_pvq_problem_init(
        &p, qmi_pvq_width(format), w, n_rows, n_cols, options, err);
    if (status == QMOE_OK)
        status = quantise(
            out, result, &p, format, w, hessian, options, moments, err);
    qmi_pvq_problem_free(&p);
    if (status != QMOE_OK) {
        qmi_encoded_free(out);
        *result = (qmi_quant_result){0};
    }
    return status;
}

#define QUANTISER(name, method_text, format_text, moments)                     \
    static qmoe_status run_##name(qmi_encoded *out, qmi_quant_result *result,  \
        const float *w, int64_t n_rows, int64_t n_cols,                        \
        const qmi_hessian *hessian, const qmi_quant_options *options,          \
        qmi_error *err)                                                        \
    {                                                                          \
        return run(out, result, &qmi_format_##format_text, w, n_rows, n_cols,  \
            hessian, options, moments, err);                                   \
    }                                                                          \
    extern const qmi_quantiser qmi_quantiser_##name;                           \
    const qmi_quantiser qmi_quantiser_##name = {.method = method_text,         \
        .format = #format_text,                                                \
        .needs_hessian = moments,                                              \
        .run = run_##name}

QUANTISER(pvq_rtn, "rtn", pvq, false);
QUANTISER(pvq_gptq, "gptq", pvq, true);
QUANTISER(pvq8_rtn, "rtn", pvq8, false);
QUANTISER(pvq8_gptq, "gptq", pvq8, true);
