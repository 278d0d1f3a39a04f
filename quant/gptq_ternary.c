/* SPDX-License-Identifier: Apache-2.0
 * Ternary quantisers for "ternary-dict": rounding to nearest and GPTQ, with
 * the paper's grid {row min, 0, row max}. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "encode_ternary.h"
#include "gptq_frame.h"
#include "ternary.h"
#include "ternary_dict.h"

/* The grid of each row and the codes found so far. */
typedef struct rule {
    qmi_ternary_matrix *matrix;
    float *grid; /* [n_rows, 4]: low, high (unrounded) and decoded low, high */
} rule;

static float round_weight(void *context, int64_t row, int64_t col, float value)
{
    const rule *r = context;
    const float *grid = r->grid + 4 * row;
    uint8_t *code = r->matrix->codes + row * r->matrix->n_cols + col;
    if (value > grid[1] / 2) {
        *code = QMI_CODE_HIGH;
        return grid[3];
    }
    if (value < grid[0] / 2) {
        *code = QMI_CODE_LOW;
        return grid[2];
    }
    *code = QMI_CODE_ZERO;
    return 0;
}

/* Codes and levels of plain rounding; the grid for a sweep. */
static qmoe_status round_rows(rule *r, const float *w, qmi_error *err)
{
    qmi_ternary_matrix *m = r->matrix;
    for (int64_t row = 0; row < m->n_rows; row++) {
        const float *weights = w + row * m->n_cols;
        uint16_t *levels = m->levels + 2 * row;
        float *grid = r->grid + 4 * row;
        QMI_TRY(qmi_ternary_rtn_row(
            m->codes + row * m->n_cols, levels, weights, m->n_cols, err));
        for (int64_t c = 0; c < m->n_cols; c++) {
            grid[0] = fminf(grid[0], weights[c]);
            grid[1] = fmaxf(grid[1], weights[c]);
        }
        grid[2] = qmi_bf16_to_f32(levels[0]);
        grid[3] = qmi_bf16_to_f32(levels[1]);
        /* A level that is zero is never chosen. */
        grid[0] = grid[2] < 0 ? grid[0] : -INFINITY;
        grid[1] = grid[3] > 0 ? grid[1] : INFINITY;
    }
    return QMOE_OK;
}

/* GPTQ; a matrix whose second moments cannot be factored stays rounded. */
static qmoe_status sweep(rule *r, const float *w, const qmi_hessian *hessian,
    const qmi_quant_options *options, bool *fell_back, qmi_error *err)
{
    int64_t n_rows = r->matrix->n_rows, n_cols = r->matrix->n_cols;
    size_t n = (size_t)(n_rows * n_cols);
    float *u =
        qmi_calloc((size_t)(n_cols * n_cols), sizeof *u, "a factor", err);
    float *copy = qmi_calloc(n, sizeof *copy, "a matrix", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (u != NULL && copy != NULL) {
        memcpy(copy, w, n * sizeof *copy);
        status = qmi_gptq_factor(u, hessian, options->damping, err);
        *fell_back = status == QMOE_E_UNSUPPORTED;
        if (status == QMOE_OK)
            status =
                qmi_gptq_sweep(copy, n_rows, n_cols, u, round_weight, r, err);
    }
    qmi_free(u);
    qmi_free(copy);
    return *fell_back ? QMOE_OK : status;
}

/* difference = w - decoded. */
static qmoe_status measure(qmi_quant_result *result,
    const qmi_ternary_matrix *m, const float *w, const qmi_hessian *hessian,
    qmi_error *err)
{
    int64_t n = m->n_rows * m->n_cols;
    float *difference =
        qmi_calloc((size_t)n, sizeof *difference, "a matrix", err);
    if (difference == NULL)
        return QMOE_E_NOMEM;
    for (int64_t row = 0; row < m->n_rows; row++) {
        const float value[3] = {0, qmi_bf16_to_f32(m->levels[2 * row]),
            qmi_bf16_to_f32(m->levels[2 * row + 1])};
        for (int64_t i = row * m->n_cols; i < (row + 1) * m->n_cols; i++)
            difference[i] = w[i] - value[m->codes[i]];
    }
    result->error =
        qmi_quadratic_error(difference, m->n_rows, m->n_cols, hessian, err);
    result->energy = qmi_quadratic_error(w, m->n_rows, m->n_cols, hessian, err);
    qmi_free(difference);
    return isnan(result->error) || isnan(result->energy) ? QMOE_E_NOMEM
                                                         : QMOE_OK;
}

static qmoe_status quantise(qmi_encoded *out, qmi_quant_result *result,
    qmi_ternary_matrix *m, const float *w, const qmi_hessian *hessian,
    const qmi_quant_options *options, bool feedback, qmi_error *err)
{
    rule r = {.matrix = m};
    r.grid = qmi_calloc(4 * (size_t)m->n_rows, sizeof *r.grid, "grids", err);
    if (r.grid == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = round_rows(&r, w, err);
    bool known = hessian != NULL && hessian->n_tokens != 0;
    if (feedback && !known)
        result->fell_back = true;
    if (status == QMOE_OK && feedback && known)
        status = sweep(&r, w, hessian, options, &result->fell_back, err);
    qmi_free(r.grid);
    QMI_TRY(status);
    qmi_ternary_count(result, m);
    QMI_TRY(measure(result, m, w, hessian, err));
    return qmi_encode_ternary(out, m, options->codebook, err);
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, bool feedback, qmi_error *err)
{
    qmi_ternary_matrix m;
    *result = (qmi_quant_result){0};
    *out = (qmi_encoded){0};
    QMI_TRY(qmi_ternary_matrix_alloc(&m, n_rows, n_cols, err));
    qmoe_status status =
        quantise(out, result, &m, w, hessian, options, feedback, err);
    qmi_ternary_matrix_free(&m);
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

extern const qmi_quantiser qmi_quantiser_ternary_rtn;
const qmi_quantiser qmi_quantiser_ternary_rtn = {
    .method = "rtn", .format = "ternary-dict", .run = run_rtn};
extern const qmi_quantiser qmi_quantiser_ternary_gptq;
const qmi_quantiser qmi_quantiser_ternary_gptq = {.method = "gptq",
    .format = "ternary-dict",
    .needs_hessian = true,
    .run = run_gptq};
