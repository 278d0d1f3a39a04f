/* SPDX-License-Identifier: Apache-2.0
 * Quantisers for "pvq" and "pvq8".  In: a matrix, second moments or none, the
 * rotation.  Out: the codes and scales of the format, and errors measured on
 * what the bytes decode to.  With moments: nearest blocks, block GPTQ, then
 * rounds of coordinate descent (docs/quantisers.md, "PVQ"); moments of no use
 * mean nearest blocks alone, and the result says so. */
#include <string.h>

#include "alloc.h"
#include "pvq_fit.h"

/* ---- bytes ---- */

static uint64_t count_zeros(const qmi_pvq_problem *p)
{
    uint64_t n_pulses = 0;
    /* A pulse in the padding is no weight; both pulses at one place make one
     * weight that is not zero. */
    for (int64_t r = 0; r < p->basis.n_rows; r++)
        for (int64_t b = 0; p->scale[r] != 0 && b < p->n_blocks; b++) {
            const qmi_pvq_pulses q =
                qmi_pvq_pulses_of(&p->pairs, p->blocks[r * p->n_blocks + b]);
            const int64_t col = b * p->pairs.n;
            n_pulses += col + q.a < p->basis.n_cols;
            n_pulses += q.a != q.b && col + q.b < p->basis.n_cols;
        }
    return (uint64_t)(p->basis.n_rows * p->basis.n_cols) - n_pulses;
}

static void encode_row(qmi_encoded *out, const qmi_pvq_shape *shape,
    const qmi_pvq_problem *p, int64_t row)
{
    /* A row whose scale is stored as zero decodes to zeros: its codes stay
     * zero, so that equal rows have equal bytes. */
    uint16_t scale = qmi_basis_stored_scale(&p->basis, row, p->scale[row]);
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
        qmi_pvq_shape_of(p->pairs.n, p->basis.n_rows, p->basis.n_cols);
    *out = (qmi_encoded){
        .format = format, .n_rows = p->basis.n_rows, .n_cols = p->basis.n_cols};
    const size_t sizes[] = {
        /* Tiles of rows are padded to whole ones (docs/format.md, section
         * 8). */
        [QMI_PVQ_CODES] = (size_t)shape.n_tiles * shape.tile_bytes,
        [QMI_PVQ_SCALES] = (size_t)p->basis.n_rows * sizeof(uint16_t)};
    for (int i = 0; i < format->n_parts; i++) {
        out->part_bytes[i] = sizes[i];
        out->parts[i] = qmi_calloc(sizes[i], 1, "a compressed matrix", err);
        if (out->parts[i] == NULL)
            return QMOE_E_NOMEM;
    }
    for (int64_t r = 0; r < p->basis.n_rows; r++)
        encode_row(out, &shape, p, r);
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

/* No sum or product of weights below this overflows in f32. */
static const float largest_weight = 0x1p100f;

static qmoe_status problem_init(qmi_pvq_problem *p, const request *q,
    int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    const int width = qmi_pvq_width(q->format);
    *p = (qmi_pvq_problem){.n_blocks = (n_cols + width - 1) / width};
    qmi_pvq_pairs_of(&p->pairs, width);
    QMI_TRY(qmi_basis_init(&p->basis, width, largest_weight, q->w, n_rows,
        n_cols, q->options, err));
    p->scale = qmi_calloc((size_t)n_rows, sizeof *p->scale, "a matrix", err);
    p->blocks = qmi_calloc(
        (size_t)(n_rows * p->n_blocks), sizeof *p->blocks, "a matrix", err);
    return p->scale != NULL && p->blocks != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static void problem_free(qmi_pvq_problem *p)
{
    qmi_basis_free(&p->basis);
    qmi_free(p->scale);
    qmi_free(p->blocks);
    *p = (qmi_pvq_problem){0};
}

static qmoe_status fit(
    qmi_pvq_problem *p, bool *fell_back, request *q, qmi_error *err)
{
    /* With moments this is where the search starts, and takes little time. */
    QMI_TRY(
        qmi_pvq_fit_nearest(p, q->moments ? NULL : q->options->n_coded, err));
    if (!q->moments)
        return QMOE_OK;
    QMI_TRY(qmi_basis_add_moments(
        &p->basis, fell_back, q->hessian, q->options, err));
    if (*fell_back) {
        q->hessian = NULL;
        return QMOE_OK;
    }
    QMI_TRY(qmi_pvq_fit_moments(p, q->options, err));
    qmi_basis_drop_moments(&p->basis);
    return QMOE_OK;
}

static qmoe_status quantise(qmi_encoded *out, qmi_quant_result *result,
    qmi_pvq_problem *p, request *q, qmi_error *err)
{
    QMI_TRY(fit(p, &result->fell_back, q, err));
    result->n_zeros = count_zeros(p);
    QMI_TRY(encode(out, q->format, p, err));
    return qmi_basis_measure(
        result, &p->basis, out, q->w, q->hessian, q->options, err);
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result, request q,
    int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    qmi_pvq_problem p = {0};
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

/* Bytes of a problem with all that fitting and measuring it takes, and of the
 * result, which exists beside it at the end. */
static uint64_t work_bytes(const qmi_format *format, int64_t n_rows,
    int64_t n_cols, bool moments, const qmi_quant_options *options)
{
    const int width = qmi_pvq_width(format);
    const uint64_t n_blocks = (uint64_t)((n_cols + width - 1) / width);
    const uint64_t stride = n_blocks * (uint64_t)width;
    const uint64_t rows = (uint64_t)n_rows;
    uint64_t bytes = rows * sizeof(float) + rows * n_blocks * sizeof(uint16_t);
    if (moments)
        bytes += stride * (uint64_t)width * (sizeof(float) + sizeof(double)) +
                 3 * QMI_PVQ_PANEL_ROWS * stride * sizeof(float);
    return bytes + qmi_basis_bytes(width, n_rows, n_cols, moments, 0, options) +
           qmi_stack_size(format, 1, n_rows, n_cols, 0);
}

/* A quarter more passes gains less than 1 % (docs/quantisers.md "PVQ"). */
enum { DEFAULT_PASSES = 16 };

#define QUANTISER(name, method_text, format_text, moments)                     \
    static qmoe_status run_##name(qmi_encoded *out, qmi_quant_result *result,  \
        const float *w, int64_t n_rows, int64_t n_cols,                        \
        const qmi_hessian *hessian, const qmi_quant_options *options,          \
        qmi_error *err)                                                        \
    {                                                                          \
        const request q = {                                                    \
            &qmi_format_##format_text, moments, w, hessian, options};          \
        return run(out, result, q, n_rows, n_cols, err);                       \
    }                                                                          \
    static uint64_t bytes_##name(int64_t n_rows, int64_t n_cols, bool known,   \
        const qmi_quant_options *options)                                      \
    {                                                                          \
        return work_bytes(&qmi_format_##format_text, n_rows, n_cols,           \
            (moments) && known, options);                                      \
    }                                                                          \
    extern const qmi_quantiser qmi_quantiser_##name;                           \
    const qmi_quantiser qmi_quantiser_##name = {.method = method_text,         \
        .format = &qmi_format_##format_text,                                   \
        .needs_hessian = moments,                                              \
        .default_passes = DEFAULT_PASSES,                                      \
        .work_bytes = bytes_##name,                                            \
        .run = run_##name}

QUANTISER(pvq_rtn, "rtn", pvq, false);
QUANTISER(pvq_gptq, "gptq", pvq, true);
QUANTISER(pvq8_rtn, "rtn", pvq8, false);
QUANTISER(pvq8_gptq, "gptq", pvq8, true);
