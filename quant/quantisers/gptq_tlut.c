/* SPDX-License-Identifier: Apache-2.0
 * Quantisers for "tlut-0.25" to "tlut-4".  In: a matrix, second moments or
 * none, the rotation, weights of rows.  Out: the strings and scales of the
 * format, and errors measured on what the bytes decode to.  Moments of no use
 * mean the nearest strings, and the result says so. */
#include <string.h>

#include "alloc.h"
#include "tlut_fit.h"

/* Scales of rows are below this (tlut.c allows less than 2^61). */
static const float largest_weight = 0x1p60f;

/* ---- bytes ---- */

static uint64_t count_zeros(const qmi_tlut_problem *p)
{
    uint64_t n_zeros = 0;
    float q[QMI_TLUT_TILE];
    for (int64_t col = 0; col < p->basis.n_cols; col++)
        for (int64_t row = 0; row < p->basis.n_rows; row++) {
            if (row % QMI_TLUT_TILE == 0)
                qmi_tlut_values(q, p, col, row / QMI_TLUT_TILE);
            n_zeros += p->scale[row] == 0 || p->col_scale[col] == 0 ||
                       q[row % QMI_TLUT_TILE] == 0;
        }
    return n_zeros;
}

static void encode_column(qmi_encoded *out, const qmi_tlut_shape *shape,
    const qmi_tlut_problem *p, int64_t col)
{
    const qmi_tlut_rate *rate = p->trellis.rate;
    const uint16_t scale = qmi_f32_to_bf16(p->col_scale[col]);
    memcpy(out->parts[QMI_TLUT_COL_SCALES] + 2 * col, &scale, sizeof scale);
    for (int64_t tile = 0; tile < p->n_tiles; tile++) {
        const uint8_t *windows = qmi_tlut_windows_at(p, col, tile);
        uint8_t *string =
            out->parts[QMI_TLUT_CODES] + qmi_tlut_string_at(shape, tile, col);
        for (int step = 0; step < p->trellis.n_steps; step++)
            qmi_tlut_set(
                string, rate, step, windows[step] & ((1u << rate->k) - 1));
    }
}

static qmoe_status encode(qmi_encoded *out, const qmi_format *format,
    const qmi_tlut_problem *p, qmi_error *err)
{
    const int64_t n_rows = p->basis.n_rows, n_cols = p->basis.n_cols;
    const qmi_tlut_shape shape =
        qmi_tlut_shape_of(p->trellis.rate, n_rows, n_cols);
    const size_t sizes[] = {
        [QMI_TLUT_CODES] = (size_t)shape.n_tiles * shape.tile_bytes,
        [QMI_TLUT_SCALES] = (size_t)n_rows * sizeof(uint16_t),
        [QMI_TLUT_COL_SCALES] = (size_t)n_cols * sizeof(uint16_t)};
    *out = (qmi_encoded){.format = format, .n_rows = n_rows, .n_cols = n_cols};
    for (int i = 0; i < format->n_parts; i++) {
        out->part_bytes[i] = sizes[i];
        out->parts[i] = qmi_calloc(sizes[i], 1, "a compressed matrix", err);
        if (out->parts[i] == NULL)
            return QMOE_E_NOMEM;
    }
    for (int64_t r = 0; r < n_rows; r++) {
        const uint16_t scale =
            qmi_basis_stored_scale(&p->basis, r, p->scale[r]);
        memcpy(out->parts[QMI_TLUT_SCALES] + 2 * r, &scale, sizeof scale);
    }
    for (int64_t c = 0; c < n_cols; c++)
        encode_column(out, &shape, p, c);
    return QMOE_OK;
}

/* ---- quantisers ---- */

typedef struct request {
    const qmi_format *format;
    bool moments; /* GPTQ where the second moments allow it */
    const float *w;
    const qmi_hessian *hessian; /* usable, or NULL */
    const qmi_quant_options *options;
} request;

/* Rounds of strings and scales in turn without moments; more change nothing
 * (docs/quantisers.md "TLUT"). */
enum { PLAIN_PASSES = 4 };

static qmoe_status problem_init(qmi_tlut_problem *p, const request *q,
    int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    static const char what[] = "a matrix";
    QMI_TRY(qmi_basis_init(
        &p->basis, 1, largest_weight, q->w, n_rows, n_cols, q->options, err));
    qmi_tlut_trellis_init(&p->trellis, qmi_tlut_rate_of(q->format));
    p->n_tiles = (n_rows + QMI_TLUT_TILE - 1) / QMI_TLUT_TILE;
    p->height = p->n_tiles * QMI_TLUT_TILE;
    const size_t height = (size_t)p->height, width = (size_t)n_cols;
    p->weight = qmi_calloc(height, sizeof *p->weight, what, err);
    p->scale = qmi_calloc(height, sizeof *p->scale, what, err);
    p->col_scale = qmi_calloc(width, sizeof *p->col_scale, what, err);
    p->windows = qmi_calloc(
        width * (size_t)p->n_tiles, (size_t)p->trellis.n_steps, what, err);
    if (p->weight == NULL || p->scale == NULL || p->col_scale == NULL ||
        p->windows == NULL)
        return QMOE_E_NOMEM;
    return QMOE_OK;
}

static void problem_free(qmi_tlut_problem *p)
{
    qmi_basis_free(&p->basis);
    qmi_free(p->weight);
    qmi_free(p->scale);
    qmi_free(p->col_scale);
    qmi_free(p->windows);
    *p = (qmi_tlut_problem){0};
}

static qmoe_status quantise(qmi_encoded *out, qmi_quant_result *result,
    qmi_tlut_problem *p, request *q, qmi_error *err)
{
    if (q->moments)
        QMI_TRY(qmi_basis_add_moments(
            &p->basis, &result->fell_back, q->hessian, q->options, err));
    if (result->fell_back)
        q->hessian = NULL;
    QMI_TRY(
        qmi_tlut_fit(p, p->basis.h != NULL ? q->options->passes : PLAIN_PASSES,
            q->options, err));
    qmi_basis_drop_moments(&p->basis); /* makes room for measuring */
    result->n_zeros = count_zeros(p);
    QMI_TRY(encode(out, q->format, p, err));
    return qmi_basis_measure(
        result, &p->basis, out, q->w, q->hessian, q->options, err);
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result, request q,
    int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    qmi_tlut_problem p = {0};
    *out = (qmi_encoded){0};
    *result = (qmi_quant_result){0};
    QMI_TRY(qmi_basis_check(n_rows, n_cols, q.hessian, q.options, err));
    if (!qmi_hessian_usable(q.hessian))
        q.hessian = NULL;
    qmoe_status status = problem_init(&p, &q, n_rows, n_cols, err);
    if (status == QMOE_OK)
        status = quantise(out, result, &p, &q, err);
    problem_free(&p);
    /* A failure leaves nothing to free and no half of a result. */
    if (status != QMOE_OK) {
        qmi_encoded_free(out);
        *result = (qmi_quant_result){0};
    }
    return status;
}

static uint64_t work_bytes(const qmi_format *format, int64_t n_rows,
    int64_t n_cols, bool moments, const qmi_quant_options *options)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(format);
    const uint64_t n_tiles =
        (uint64_t)((n_rows + QMI_TLUT_TILE - 1) / QMI_TLUT_TILE);
    const uint64_t width = (uint64_t)n_cols;
    /* The result exists beside the problem at the end. */
    return 2 * n_tiles * QMI_TLUT_TILE * sizeof(float) + width * sizeof(float) +
           width * n_tiles * (uint64_t)qmi_tlut_steps(rate) +
           qmi_basis_bytes(1, n_rows, n_cols, moments,
               qmi_tlut_fit_bytes(n_rows, n_cols), options) +
           qmi_stack_size(format, 1, n_rows, n_cols, 0);
}

/* docs/quantisers.md "TLUT". */
enum { DEFAULT_PASSES = 8 };

#define QUANTISER(name, method_text, rate, with_moments)                       \
    static qmoe_status run_##name(qmi_encoded *out, qmi_quant_result *result,  \
        const float *w, int64_t n_rows, int64_t n_cols,                        \
        const qmi_hessian *hessian, const qmi_quant_options *options,          \
        qmi_error *err)                                                        \
    {                                                                          \
        const request q = {                                                    \
            &qmi_format_tlut_##rate, with_moments, w, hessian, options};       \
        return run(out, result, q, n_rows, n_cols, err);                       \
    }                                                                          \
    static uint64_t bytes_##name(int64_t n_rows, int64_t n_cols, bool known,   \
        const qmi_quant_options *options)                                      \
    {                                                                          \
        return work_bytes(&qmi_format_tlut_##rate, n_rows, n_cols,             \
            (with_moments) && known, options);                                 \
    }                                                                          \
    extern const qmi_quantiser qmi_quantiser_##name;                           \
    const qmi_quantiser qmi_quantiser_##name = {.method = method_text,         \
        .format = &qmi_format_tlut_##rate,                                     \
        .needs_hessian = with_moments,                                         \
        .default_passes = DEFAULT_PASSES,                                      \
        .weighs_rows = with_moments,                                           \
        .work_bytes = bytes_##name,                                            \
        .run = run_##name};

#define BOTH(rate, text)                                                       \
    QUANTISER(tlut_##rate##_rtn, "rtn", rate, false)                           \
    QUANTISER(tlut_##rate##_gptq, "gptq", rate, true)
QMI_TLUT_MAP(BOTH)
