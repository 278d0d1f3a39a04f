/* SPDX-License-Identifier: Apache-2.0
 * Quantisers for "pvq" and "pvq8".  In: a matrix, second moments or none, the
 * rotation.  Out: the codes and scales of the format, and errors measured on
 * what the bytes decode to.  With moments: nearest blocks, block GPTQ, then
 * rounds of coordinate descent (docs/quantisers.md, "PVQ"); moments of no use
 * mean nearest blocks alone, and the result says so. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "pvq_fit.h"
#include "rotation.h"

/* ---- bytes ---- */

static uint64_t count_zeros(const qmi_pvq_problem *p)
{
    uint64_t n_pulses = 0;
    /* A pulse in the padding is no weight; both pulses at one place make one
     * weight that is not zero. */
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
    /* A row whose scale is stored as zero decodes to zeros: its codes stay
     * zero, so that equal rows have equal bytes. */
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
        /* Tiles of rows are padded to whole ones (docs/format.md, section
         * 8). */
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

/* dst [n_rows, n_cols] = what the bytes decode to: rows as stored (rotation
 * 0) or undone. */
static void decode(
    float *dst, const qmi_encoded *encoded, int32_t rotation, uint32_t seed)
{
    qmi_weight stack = {.format = encoded->format,
        .name = "a matrix",
        .n_mats = 1,
        .n_rows = encoded->n_rows,
        .n_cols = encoded->n_cols,
        .rotation = rotation,
        .rotation_seed = seed};
    /* Borrowed: the stack lives as long as `encoded`. */
    for (int i = 0; i < encoded->format->n_parts; i++)
        stack.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
    qmi_weight_decode(&stack, 0, 0, encoded->n_rows, dst);
}

/* The factored second moments are those of the stored basis, the others those
 * of the matrix itself: errors are taken in either. */
static qmoe_status measure(qmi_quant_result *result, const qmi_pvq_problem *p,
    const qmi_encoded *encoded, const float *w, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    const int64_t n = p->n_rows * p->n_cols;
    const bool stored = p->gptq.feedback != NULL;
    /* One allocation for the truth and the difference. */
    float *d = qmi_calloc(2 * (size_t)n, sizeof *d, "a matrix", err);
    if (d == NULL)
        return QMOE_E_NOMEM;
    float *truth = d + n;
    /* The weights in the stored basis are those of the problem, with their
     * exponents put back. */
    if (stored)
        for (int64_t i = 0; i < n; i++) {
            int64_t row = i / p->n_cols;
            truth[i] =
                ldexpf(p->w[row * p->stride + i % p->n_cols], p->exponent[row]);
        }
    else
        memcpy(truth, w, (size_t)n * sizeof *truth);
    /* Decoding the bytes, instead of using the search's own values, also checks
     * what was written. */
    decode(d, encoded, stored ? 0 : options->rotation, options->rotation_seed);
    for (int64_t i = 0; i < n; i++)
        d[i] = truth[i] - d[i];
    qmoe_status status = qmi_gptq_measure(
        result, d, truth, p->n_rows, p->n_cols, hessian, &p->gptq, err);
    qmi_free(d);
    return status;
}

/* ---- quantisers ---- */

typedef struct request {
    const qmi_format *format;
    bool moments; /* GPTQ where the second moments allow it */
    const float *w;
    const qmi_hessian *hessian; /* usable, or NULL */
    const qmi_quant_options *options;
} request;

static qmoe_status fit(
    qmi_pvq_problem *p, bool *fell_back, request *q, qmi_error *err)
{
    /* Its text is dropped where rounding takes over. */
    qmi_error first = qmi_error_beside(err);
    /* With moments this is where the search starts, and takes little time. */
    QMI_TRY(
        qmi_pvq_fit_nearest(p, q->moments ? NULL : q->options->n_coded, err));
    if (!q->moments)
        return QMOE_OK;
    qmoe_status status =
        q->hessian == NULL
            ? QMOE_E_UNSUPPORTED
            : qmi_pvq_problem_add_moments(p, q->hessian, q->options, &first);
    /* E_UNSUPPORTED alone is no failure: such moments are a property of the
     * text. */
    *fell_back = status == QMOE_E_UNSUPPORTED;
    if (*fell_back) {
        q->hessian = NULL;
        return QMOE_OK;
    }
    if (status != QMOE_OK)
        return qmi_fail(err, status, "%s", first.text);
    QMI_TRY(qmi_pvq_fit_moments(p, q->options, err));
    qmi_free(p->h); /* makes room for measuring */
    p->h = NULL;
    return QMOE_OK;
}

static qmoe_status quantise(qmi_encoded *out, qmi_quant_result *result,
    qmi_pvq_problem *p, request *q, qmi_error *err)
{
    QMI_TRY(fit(p, &result->fell_back, q, err));
    result->n_zeros = count_zeros(p);
    QMI_TRY(encode(out, q->format, p, err));
    return measure(result, p, out, q->w, q->hessian, q->options, err);
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result, request q,
    int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    qmi_pvq_problem p = {0};
    *out = (qmi_encoded){0};
    *result = (qmi_quant_result){0};
    const int32_t block = q.options->rotation;
    if (block < 0 || block > QMI_ROTATION_MAX_BLOCK || (block & (block - 1)))
        return qmi_fail(err, QMOE_E_INVALID,
            "rotation %d is not 0 or a power of two up to %d", (int)block,
            QMI_ROTATION_MAX_BLOCK);
    QMI_TRY(qmi_gptq_check(n_rows, n_cols, q.hessian, err));
    if (!qmi_hessian_usable(q.hessian))
        q.hessian = NULL;
    qmoe_status status = qmi_pvq_problem_init(
        &p, qmi_pvq_width(q.format), q.w, n_rows, n_cols, q.options, err);
    if (status == QMOE_OK)
        status = quantise(out, result, &p, &q, err);
    qmi_pvq_problem_free(&p);
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
    /* The result exists beside the problem at the end. */
    return qmi_pvq_problem_bytes(
               qmi_pvq_width(format), n_rows, n_cols, moments, options) +
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
