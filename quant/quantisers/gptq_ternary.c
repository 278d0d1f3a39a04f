/* SPDX-License-Identifier: Apache-2.0
 * Ternary quantisers for "ternary-dict": rounding to nearest and GPTQ, with the
 * paper's grid {row min, 0, row max} or with fitted levels.  In: a matrix,
 * second moments or none.  Out: the encoded matrix and its errors, measured
 * with the levels as stored.  Rounding comes first in each case: it gives the
 * levels, and the share of zeros that fitting aims at. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "encode_ternary.h"
#include "gptq_frame.h"
#include "ternary.h"
#include "ternary_dict.h"
#include "ternary_fit.h"
#include "ternary_grid.h"

/* Fitted matrices aim at this share of the non-zero weights that the paper's
 * rule gives: still less error, and less entropy.  Rows with a few large
 * weights get almost no others under the paper's rule; the dictionary gains
 * nothing from so many zeros (28 weights per codeword at most), the error
 * would lose. */
static const double fit_share = 0.9, fit_most_zeros = 0.93;

/* One matrix on its way. */
typedef struct job {
    qmi_ternary_matrix matrix;  /* codes and levels so far */
    const float *w;             /* [n_rows, n_cols] */
    float *work;                /* [n_rows, n_cols] */
    const qmi_hessian *hessian; /* NULL: A = I */
    const qmi_quant_options *options;
    qmi_gptq gptq; /* all zero: no feedback */
} job;

static qmoe_status round_rows(job *j, qmi_error *err)
{
    qmi_ternary_matrix *m = &j->matrix;
    for (int64_t row = 0; row < m->n_rows; row++) {
        qmoe_status status = qmi_ternary_rtn_row(m->codes + row * m->n_cols,
            m->levels + 2 * row, j->w + row * m->n_cols, m->n_cols, err);
        /* The row's number is added here, where it is known. */
        if (status != QMOE_OK)
            return qmi_error_prefix(err, status, "row %lld", (long long)row);
    }
    return QMOE_OK;
}

/* The paper's grid: the row's extremes as they are, rounded only for storage.
 * What would be stored as zero is never chosen. */
static void set_extremes(qmi_ternary_grid *grid, const job *j)
{
    const int64_t n_cols = j->matrix.n_cols;
    for (int64_t row = 0; row < j->matrix.n_rows; row++) {
        const float *w = j->w + row * n_cols;
        const uint16_t *levels = j->matrix.levels + 2 * row;
        float low = 0, high = 0;
        /* Zero is always inside the range. */
        for (int64_t c = 0; c < n_cols; c++) {
            low = w[c] < low ? w[c] : low;
            high = w[c] > high ? w[c] : high;
        }
        qmi_ternary_grid_set(
            grid, row, levels[0] != 0 ? low : 0, levels[1] != 0 ? high : 0, 0);
    }
}

static qmoe_status walk_extremes(job *j, qmi_error *err)
{
    const qmi_ternary_matrix *m = &j->matrix;
    qmi_ternary_grid grid;
    qmi_sweep sweep = {
        .n_rows = m->n_rows,
        .n_cols = m->n_cols,
        .w = j->w,
        .work = j->work,
        .codes = m->codes,
        .gptq = &j->gptq,
        .choose = qmi_ternary_choose,
        .user = &grid,
        .n_coded = j->options->fit_levels ? NULL : j->options->n_coded,
    };
    QMI_TRY(qmi_ternary_grid_create(&grid, m->n_rows, err));
    set_extremes(&grid, j);
    /* The walk starts from the weights themselves: no errors were made yet. */
    memcpy(
        j->work, j->w, (size_t)m->n_rows * (size_t)m->n_cols * sizeof *j->work);
    qmoe_status status = qmi_sweep_run(&sweep, err);
    qmi_ternary_grid_release(&grid);
    return status;
}

static double aimed_zeros(const qmi_ternary_matrix *m)
{
    /* Counted on the codes of the paper's rule. */
    qmi_quant_result count = {0};
    qmi_ternary_count(&count, m);
    const double n = (double)m->n_rows * (double)m->n_cols;
    const double zeros = 1 - fit_share * (1 - (double)count.n_zeros / n);
    return zeros < fit_most_zeros ? zeros : fit_most_zeros;
}

/* Replaces the codes and levels found with the paper's grid. */
static qmoe_status fit_levels(job *j, qmi_error *err)
{
    qmi_gptq descent = {0};
    qmi_ternary_fit fit = {
        .w = j->w,
        .n_rows = j->matrix.n_rows,
        .n_cols = j->matrix.n_cols,
        .gptq = j->gptq.feedback != NULL ? &j->gptq : NULL,
        .zeros = aimed_zeros(&j->matrix),
        .passes = j->options->passes,
    };
    /* A second form of the same moments: feedback on both sides of the
     * diagonal. */
    if (j->hessian != NULL) {
        QMI_TRY(qmi_gptq_prepare_descent(
            &descent, j->hessian, j->options->damping, err));
        fit.descent = &descent;
    }
    qmoe_status status = qmi_ternary_fit_run(
        j->matrix.codes, j->matrix.levels, j->work, &fit, err);
    qmi_gptq_release(&descent);
    return status;
}

/* E_UNSUPPORTED: the Hessian is of no use. */
static qmoe_status choose_codes(job *j, bool feedback, qmi_error *err)
{
    QMI_TRY(round_rows(j, err));
    if (feedback && j->hessian != NULL) {
        QMI_TRY(qmi_gptq_prepare(
            &j->gptq, j->hessian, j->options->damping, 1, err));
        QMI_TRY(walk_extremes(j, err));
    }
    return j->options->fit_levels ? fit_levels(j, err) : QMOE_OK;
}

static qmoe_status quantise(
    job *j, qmi_quant_result *result, bool feedback, qmi_error *err)
{
    const qmi_ternary_matrix *m = &j->matrix;
    qmi_error first = qmi_error_beside(err);
    qmoe_status status = choose_codes(j, feedback, &first);
    /* Starts again from rounding: codes may be half chosen. */
    if (status == QMOE_E_UNSUPPORTED) {
        j->hessian = NULL;
        QMI_TRY(choose_codes(j, false, err));
    } else if (status != QMOE_OK) {
        return qmi_fail(err, status, "%s", first.text);
    }
    result->fell_back = feedback && j->hessian == NULL;
    qmi_ternary_count(result, m);
    /* What is left of each weight, with the levels that are stored. */
    for (int64_t row = 0; row < m->n_rows; row++) {
        const float values[3] = {0, qmi_bf16_to_f32(m->levels[2 * row]),
            qmi_bf16_to_f32(m->levels[2 * row + 1])};
        const int64_t end = (row + 1) * m->n_cols;
        for (int64_t i = row * m->n_cols; i < end; i++)
            j->work[i] = j->w[i] - values[m->codes[i]];
    }
    return qmi_gptq_measure(
        result, j->work, j->w, m->n_rows, m->n_cols, j->hessian, &j->gptq, err);
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, bool feedback, qmi_error *err)
{
    job j = {
        .w = w,
        .hessian = qmi_hessian_usable(hessian) ? hessian : NULL,
        .options = options,
    };
    *out = (qmi_encoded){0};
    *result = (qmi_quant_result){0};
    QMI_TRY(qmi_gptq_check(n_rows, n_cols, hessian, err));
    QMI_TRY(qmi_ternary_matrix_alloc(&j.matrix, n_rows, n_cols, err));
    j.work = qmi_calloc((size_t)(n_rows * n_cols), sizeof *j.work,
        "a matrix being quantised", err);
    qmoe_status status =
        j.work != NULL ? quantise(&j, result, feedback, err) : QMOE_E_NOMEM;
    qmi_gptq_release(&j.gptq);
    qmi_free(j.work);
    /* Encoding is last, when the work space is free again. */
    if (status == QMOE_OK)
        status = qmi_encode_ternary(out, &j.matrix, options->codebook, err);
    qmi_ternary_matrix_free(&j.matrix);
    if (status != QMOE_OK)
        *result = (qmi_quant_result){0};
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

/* Codes, what is left of the weights, fitting twice that; with moments a factor
 * and the feedback made of it, with fitted levels a second one. */
static uint64_t work_bytes(int64_t n_rows, int64_t n_cols, bool moments,
    const qmi_quant_options *options)
{
    const uint64_t n = (uint64_t)n_rows * (uint64_t)n_cols;
    const uint64_t square = (uint64_t)n_cols * (uint64_t)n_cols;
    /* Fitting and factoring follow each other: the larger one counts. */
    uint64_t bytes = n * (1 + sizeof(float)) + 4 * (uint64_t)n_rows;
    uint64_t factor = moments ? square * (sizeof(double) + sizeof(float)) : 0;
    uint64_t fit = moments ? 2 * square * sizeof(float) : 0;
    if (options->fit_levels)
        fit += 2 * n * sizeof(float);
    uint64_t encoded = n; /* at most two weights per codeword of 16 bits */
    bytes += factor > fit ? factor : fit;
    return bytes > encoded ? bytes : encoded;
}

static uint64_t work_bytes_rtn(int64_t n_rows, int64_t n_cols, bool moments,
    const qmi_quant_options *options)
{
    (void)moments;
    return work_bytes(n_rows, n_cols, false, options);
}

extern const qmi_quantiser qmi_quantiser_ternary_rtn;
const qmi_quantiser qmi_quantiser_ternary_rtn = {.method = "rtn",
    .format = &qmi_format_ternary_dict,
    .work_bytes = work_bytes_rtn,
    .run = run_rtn};
extern const qmi_quantiser qmi_quantiser_ternary_gptq;
const qmi_quantiser qmi_quantiser_ternary_gptq = {.method = "gptq",
    .format = &qmi_format_ternary_dict,
    .needs_hessian = true,
    .default_passes = 4,
    .passes_fit_levels = true,
    .work_bytes = work_bytes,
    .run = run_gptq};
