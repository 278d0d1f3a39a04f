/* SPDX-License-Identifier: Apache-2.0
 * Products of the backward pass (backward_ops.h).  In: rows of tokens and a
 * matrix of any format.  Out: their product with the matrix or its transpose.
 * The matrix is decoded to float32 a slab of rows at a time, by all threads;
 * tiles of the result are then multiplied by OpenBLAS, each by one thread.
 * Slabs and tiles have fixed sizes, so that results do not depend on the number
 * of threads. */
#include <string.h>

#include "alloc.h"
#include "backward_ops.h"
#include "blas.h"

enum {
    SLAB_WEIGHTS = 1 << 22,
    DECODED_ROWS = 32, /* by a thread at a time */
    TILE_TOKENS = 256,
    TILE_COLUMNS = 512
};

qmoe_status qmi_backward_open(qmi_backward *out, int n_threads, qmi_error *err)
{
    *out = (qmi_backward){.n_threads = n_threads};
    QMI_TRY(qmi_blas_load(n_threads, err));
    return qmi_team_open(&out->team, n_threads, err);
}

void qmi_backward_close(qmi_backward *backward)
{
    if (backward->team != NULL)
        qmi_team_close(backward->team);
    qmi_free(backward->slab);
    *backward = (qmi_backward){0};
}

qmi_matrix_rows qmi_all_rows(const qmi_weight *weight, int64_t mat)
{
    return (qmi_matrix_rows){
        .weight = weight, .mat = mat, .n_rows = weight->n_rows};
}

/* Rows [row, row + n) of the matrix, in the slab, and the product with them. */
typedef struct job {
    const qmi_matrix_rows *rows;
    float *slab;
    int64_t row, n;
    /* The result, [n_tokens, n_cols], of which tiles are items. */
    float *out;
    const float *in;
    int64_t out_stride, in_stride, n_tokens, n_cols, n_across;
    float alpha;
    bool is_transposed; /* W^T: the result's columns are rows of the matrix */
} job;

static void decode(void *context, int64_t item, int thread)
{
    const job *j = context;
    const qmi_weight *w = j->rows->weight;
    const int64_t first = item * DECODED_ROWS;
    const int64_t left = j->n - first;
    (void)thread;
    qmi_weight_decode(w, j->rows->mat, j->rows->row + j->row + first,
        left < DECODED_ROWS ? left : DECODED_ROWS, j->slab + first * w->n_cols);
}

static void multiply(void *context, int64_t item, int thread)
{
    const job *j = context;
    const int64_t width = j->rows->weight->n_cols;
    const int64_t t = item / j->n_across * TILE_TOKENS;
    const int64_t c = item % j->n_across * TILE_COLUMNS;
    const int64_t n_tokens =
        j->n_tokens - t < TILE_TOKENS ? j->n_tokens - t : TILE_TOKENS;
    const int64_t n_cols =
        j->n_cols - c < TILE_COLUMNS ? j->n_cols - c : TILE_COLUMNS;
    (void)thread;
    qmi_blas.sgemm(CblasRowMajor, CblasNoTrans,
        j->is_transposed ? CblasTrans : CblasNoTrans, (int)n_tokens,
        (int)n_cols, (int)(j->is_transposed ? width : j->n), j->alpha,
        j->in + t * j->in_stride, (int)j->in_stride,
        j->slab + (j->is_transposed ? c * width : c), (int)width,
        j->is_transposed ? 0.0f : 1.0f, j->out + t * j->out_stride + c,
        (int)j->out_stride);
}

static int64_t parts(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

static qmoe_status run_slab(qmi_backward *b, job *j, qmi_error *err)
{
    j->n_across = parts(j->n_cols, TILE_COLUMNS);
    QMI_TRY(qmi_team_run(b->team, parts(j->n, DECODED_ROWS), decode, j, err));
    return qmi_team_run(b->team, parts(j->n_tokens, TILE_TOKENS) * j->n_across,
        multiply, j, err);
}

/* Rows of a slab, which then has room. */
static qmoe_status reserve(qmi_backward *b, int64_t *n_rows,
    const qmi_matrix_rows *rows, qmi_error *err)
{
    const int64_t width = rows->weight->n_cols;
    int64_t n = SLAB_WEIGHTS / width;
    n = n < 1 ? 1 : n;
    *n_rows = n < rows->n_rows ? n : rows->n_rows;
    const size_t wanted = (size_t)(*n_rows * width);
    QMI_TRY(qmi_weight_check(rows->weight, rows->mat, err));
    if (wanted <= b->n_slab)
        return QMOE_OK;
    qmi_free(b->slab);
    b->n_slab = 0;
    b->slab = qmi_calloc(wanted, sizeof *b->slab, "rows of a matrix", err);
    b->n_slab = b->slab != NULL ? wanted : 0;
    return b->slab != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

qmoe_status qmi_backward_multiply(qmi_backward *backward, float *y,
    const float *x, int64_t n, qmi_matrix_rows rows, qmi_error *err)
{
    int64_t step;
    QMI_TRY(reserve(backward, &step, &rows, err));
    for (int64_t row = 0; row < rows.n_rows; row += step) {
        const int64_t left = rows.n_rows - row;
        job j = {.rows = &rows,
            .slab = backward->slab,
            .row = row,
            .n = left < step ? left : step,
            .out = y + row,
            .in = x,
            .out_stride = rows.n_rows,
            .in_stride = rows.weight->n_cols,
            .n_tokens = n,
            .alpha = 1,
            .is_transposed = true};
        j.n_cols = j.n;
        QMI_TRY(run_slab(backward, &j, err));
    }
    return QMOE_OK;
}

qmoe_status qmi_backward_linear(qmi_backward *backward, float *d_x,
    const float *d_y, int64_t n, float alpha, qmi_matrix_rows rows,
    qmi_error *err)
{
    int64_t step;
    QMI_TRY(reserve(backward, &step, &rows, err));
    for (int64_t row = 0; row < rows.n_rows; row += step) {
        const int64_t left = rows.n_rows - row;
        job j = {.rows = &rows,
            .slab = backward->slab,
            .row = row,
            .n = left < step ? left : step,
            .out = d_x,
            .in = d_y + row,
            .out_stride = rows.weight->n_cols,
            .in_stride = rows.n_rows,
            .n_tokens = n,
            .n_cols = rows.weight->n_cols,
            .alpha = alpha};
        QMI_TRY(run_slab(backward, &j, err));
    }
    return QMOE_OK;
}
