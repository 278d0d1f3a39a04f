/* SPDX-License-Identifier: Apache-2.0
 * The paper's 2-bit quantisers for "q2": rounding to nearest and GPTQ.  In: a
 * matrix, second moments or none.  Out: two bits per weight and four levels per
 * row.  The grid is even, from the row's smallest to its largest weight, and is
 * fixed before any code is chosen; levels are rounded to bf16 only for
 * storage. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "gptq_frame.h"
#include "q2.h"

enum { ROWS = QMI_SWEEP_ROWS, TOP = QMI_Q2_VALUES - 1 };

/* One matrix on its way. */
typedef struct job {
    int64_t n_rows, n_cols;
    const float *w;             /* [n_rows, n_cols] */
    float *work;                /* [n_rows, n_cols] */
    uint8_t *codes;             /* [n_rows, n_cols] */
    const qmi_hessian *hessian; /* NULL: A = I */
    const qmi_quant_options *options;
    qmi_gptq gptq; /* all zero: no feedback */
    /* Value of code q: scale * (q - zero).  [n_rows up to whole tiles] */
    float *scale, *zero;
} job;

/* Half to even; |x| < 2^22.  Adding 1.5 * 2^23 leaves no bits for a
 * fraction, in the default rounding mode. */
static inline float round_even(float x)
{
    const float shift = 12582912.0F;
    return (x + shift) - shift;
}

/* The code of c before it is rounded to 0 .. 3: far outside any way, and a
 * number even if c is none. */
static inline float clamp(float x, float limit)
{
    x = x > -limit ? x : -limit;
    return x < limit ? x : limit;
}

static void choose(void *user, int64_t row, int64_t col, int n, const float *c,
    float *q, uint8_t *codes)
{
    const job *j = user;
    const float *scale = j->scale + row, *zero = j->zero + row;
    int32_t chosen[ROWS];
    (void)col;
    (void)n;
    /* A loop without branches over rows next to each other, which compilers
     * make vectors of. */
    for (int r = 0; r < ROWS; r++) {
        float code = round_even(clamp(c[r] / scale[r], 8)) + zero[r];
        code = code > 0 ? code : 0;
        code = code < TOP ? code : TOP;
        q[r] = scale[r] * (code - zero[r]);
        chosen[r] = (int32_t)code;
    }
    /* Narrowed in a loop of its own: mixed widths would keep the first one from
     * being a vector loop. */
    for (int r = 0; r < ROWS; r++)
        codes[r] = (uint8_t)chosen[r];
}

/* Rows of zeros get the grid of a row from -1 to 1. */
static qmoe_status set_grid(job *j, int64_t row, qmi_error *err)
{
    const float *w = j->w + row * j->n_cols;
    float low = 0, high = 0;
    bool finite = true;
    for (int64_t c = 0; c < j->n_cols; c++) {
        low = w[c] < low ? w[c] : low;
        high = w[c] > high ? w[c] : high;
        finite = finite && isfinite(w[c]);
    }
    float scale = (high - low) / TOP;
    /* The paper's rule; codes of such a row all stand for zero. */
    if (scale == 0) {
        low = -1;
        scale = 2.0F / TOP;
    }
    if (!finite || !isfinite(scale))
        return qmi_fail(err, QMOE_E_FORMAT, "row %lld: %s", (long long)row,
            finite ? "weights too large for q2" : "non-finite weight");
    j->scale[row] = scale;
    j->zero[row] = round_even(-low / scale);
    return QMOE_OK;
}

static qmoe_status set_grids(job *j, qmi_error *err)
{
    const int64_t padded = (j->n_rows + ROWS - 1) / ROWS * ROWS;
    for (int64_t row = 0; row < j->n_rows; row++)
        QMI_TRY(set_grid(j, row, err));
    /* Rows that fill up the last tile divide by their scale as well. */
    for (int64_t row = j->n_rows; row < padded; row++)
        j->scale[row] = 1;
    return QMOE_OK;
}

static uint16_t stored_level(const job *j, int64_t row, int code)
{
    const float value = j->scale[row] * ((float)code - j->zero[row]);
    const uint16_t level = qmi_f32_to_bf16(value);
    /* Levels must be finite; a zero has no sign. */
    if ((level & 0x7fff) == 0x7f80)
        return (uint16_t)(level - 1);
    return (level & 0x7fff) == 0 ? 0 : level;
}

static qmoe_status walk(job *j, qmi_error *err)
{
    qmi_sweep sweep = {
        .n_rows = j->n_rows,
        .n_cols = j->n_cols,
        .w = j->w,
        .work = j->work,
        .codes = j->codes,
        .gptq = j->gptq.feedback != NULL ? &j->gptq : NULL,
        .choose = choose,
        .user = j,
        .n_coded = j->options->n_coded,
    };
    memcpy(
        j->work, j->w, (size_t)j->n_rows * (size_t)j->n_cols * sizeof *j->work);
    return qmi_sweep_run(&sweep, err);
}

/* Parts of the format, and D = w - what they decode to in `work`. */
static qmoe_status encode(
    qmi_encoded *out, job *j, qmi_quant_result *result, qmi_error *err)
{
    static const char what[] = "a compressed matrix";
    const int64_t row_bytes = qmi_q2_row_bytes(j->n_cols);
    *out = (qmi_encoded){
        .format = &qmi_format_q2, .n_rows = j->n_rows, .n_cols = j->n_cols};
    out->part_bytes[QMI_Q2_CODES] = (size_t)(j->n_rows * row_bytes);
    out->part_bytes[QMI_Q2_LEVELS] =
        (size_t)j->n_rows * QMI_Q2_VALUES * sizeof(uint16_t);
    for (int i = 0; i < 2; i++)
        out->parts[i] = qmi_calloc(out->part_bytes[i], 1, what, err);
    if (out->parts[0] == NULL || out->parts[1] == NULL)
        return QMOE_E_NOMEM;
    for (int64_t row = 0; row < j->n_rows; row++) {
        uint8_t *codes = out->parts[QMI_Q2_CODES] + row * row_bytes;
        uint16_t levels[QMI_Q2_VALUES];
        float values[QMI_Q2_VALUES];
        /* The four levels of the row as stored: the error is measured with
         * them. */
        for (int i = 0; i < QMI_Q2_VALUES; i++) {
            levels[i] = stored_level(j, row, i);
            values[i] = qmi_bf16_to_f32(levels[i]);
        }
        memcpy(out->parts[QMI_Q2_LEVELS] + row * (int64_t)sizeof levels, levels,
            sizeof levels);
        for (int64_t c = 0; c < j->n_cols; c++) {
            const int64_t at = row * j->n_cols + c;
            const uint8_t code = j->codes[at];
            /* Four codes per byte, the first in the lowest bits
             * (docs/format.md). */
            codes[c / 4] |= (uint8_t)(code << 2 * (c % 4));
            j->work[at] = j->w[at] - values[code];
            result->n_zeros += values[code] == 0;
        }
    }
    return QMOE_OK;
}

static qmoe_status quantise(qmi_encoded *out, job *j, qmi_quant_result *result,
    bool feedback, qmi_error *err)
{
    QMI_TRY(set_grids(j, err));
    if (feedback) {
        /* Kept apart: without usable moments the walk goes on without
         * feedback. */
        qmi_error first = qmi_error_beside(err);
        qmoe_status status = qmi_gptq_prepare(
            &j->gptq, j->hessian, j->options->damping, 1, &first);
        result->fell_back = status == QMOE_E_UNSUPPORTED;
        if (result->fell_back)
            j->hessian = NULL;
        else if (status != QMOE_OK)
            return qmi_fail(err, status, "%s", first.text);
    }
    QMI_TRY(walk(j, err));
    QMI_TRY(encode(out, j, result, err));
    return qmi_gptq_measure(
        result, j->work, j->w, j->n_rows, j->n_cols, j->hessian, &j->gptq, err);
}

static qmoe_status allocate(job *j, qmi_error *err)
{
    static const char what[] = "a matrix being quantised";
    const size_t n = (size_t)j->n_rows * (size_t)j->n_cols;
    /* Up to a whole tile more than there are rows. */
    const size_t padded = (size_t)j->n_rows + ROWS;
    j->work = qmi_calloc(n, sizeof *j->work, what, err);
    j->codes = qmi_calloc(n, sizeof *j->codes, what, err);
    j->scale = qmi_calloc(padded, sizeof *j->scale, what, err);
    j->zero = qmi_calloc(padded, sizeof *j->zero, what, err);
    return j->work != NULL && j->codes != NULL && j->scale != NULL &&
                   j->zero != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, bool feedback, qmi_error *err)
{
    job j = {
        .n_rows = n_rows,
        .n_cols = n_cols,
        .w = w,
        .hessian = qmi_hessian_usable(hessian) ? hessian : NULL,
        .options = options,
    };
    *out = (qmi_encoded){0};
    *result = (qmi_quant_result){0};
    QMI_TRY(qmi_gptq_check(n_rows, n_cols, hessian, err));
    qmoe_status status = allocate(&j, err);
    if (status == QMOE_OK)
        status = quantise(out, &j, result, feedback, err);
    qmi_gptq_release(&j.gptq);
    qmi_free(j.work);
    qmi_free(j.codes);
    qmi_free(j.scale);
    qmi_free(j.zero);
    if (status != QMOE_OK) {
        qmi_encoded_free(out);
        *result = (qmi_quant_result){0};
    }
    return status;
}

static qmoe_status run_rtn(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    return run(out, result, w, n_rows, n_cols, hessian, options, false, err);
}

static qmoe_status run_gptq(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    return run(out, result, w, n_rows, n_cols, hessian, options, true, err);
}

/* Codes, what is left of the weights, the result; with moments a factor and
 * the feedback made of it. */
static uint64_t work_bytes(int64_t n_rows, int64_t n_cols, bool moments,
    const qmi_quant_options *options)
{
    (void)options;
    const uint64_t n = (uint64_t)n_rows * (uint64_t)n_cols;
    const uint64_t square = (uint64_t)n_cols * (uint64_t)n_cols;
    return n * (1 + sizeof(float)) + 8 * (uint64_t)(n_rows + ROWS) +
           qmi_stack_size(&qmi_format_q2, 1, n_rows, n_cols, 0) +
           (moments ? square * (sizeof(double) + sizeof(float)) : 0);
}

static uint64_t work_bytes_rtn(int64_t n_rows, int64_t n_cols, bool moments,
    const qmi_quant_options *options)
{
    (void)moments;
    return work_bytes(n_rows, n_cols, false, options);
}

extern const qmi_quantiser qmi_quantiser_q2_rtn;
const qmi_quantiser qmi_quantiser_q2_rtn = {.method = "rtn",
    .format = &qmi_format_q2,
    .work_bytes = work_bytes_rtn,
    .run = run_rtn};
extern const qmi_quantiser qmi_quantiser_q2_gptq;
const qmi_quantiser qmi_quantiser_q2_gptq = {.method = "gptq",
    .format = &qmi_format_q2,
    .needs_hessian = true,
    .work_bytes = work_bytes,
    .run = run_gptq};
