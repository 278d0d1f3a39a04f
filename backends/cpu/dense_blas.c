/* SPDX-License-Identifier: Apache-2.0
 * Dense products by OpenBLAS: a tile of rows is widened to f32 in the thread's
 * work space (it stays in the L2 cache), then multiplied.  In: bf16, f16, f32
 * or int8 rows.  Out: y of the tile, by one BLAS call of one thread: the team
 * is above it.  For large products without AVX-512, and for f16. */
#include "blas.h"
#include "int8.h"
#include "matmul.h"

/* Bytes of a widened tile; half of a common 512 KiB-2 MiB L2 cache at most. */
enum { TILE_BYTES = 256 * 1024, MAX_TILE_ROWS = 256 };

static bool takes(const qmi_weight *w)
{
    return w->format->dense || w->format == &qmi_format_int8;
}

static int64_t tile_rows(const qmi_weight *w)
{
    int64_t rows = TILE_BYTES / (int64_t)sizeof(float) / w->n_cols;
    if (rows < 4)
        rows = 4;
    if (rows > MAX_TILE_ROWS)
        rows = MAX_TILE_ROWS;
    return rows < w->n_rows ? rows : w->n_rows;
}

static size_t tile_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)n_tokens;
    return (size_t)(tile_rows(w) * w->n_cols) * sizeof(float);
}

static void run(float *y, const qcpu_tile *tile, void *scratch)
{
    const qmi_weight *w = tile->w;
    float *wide = scratch;
    qmi_weight_decode(w, tile->mat, tile->row, tile->n_rows, wide);
    int n = (int)tile->n_rows, k = (int)w->n_cols, t = (int)tile->n_tokens;
    if (t == 1) {
        qmi_blas.sgemv(CblasRowMajor, CblasNoTrans, n, k, 1.0f, wide, k,
            tile->x, 1, 0.0f, y, 1);
        return;
    }
    qmi_blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t, n, k, 1.0f,
        tile->x, k, wide, k, 0.0f, y, n);
}

const qcpu_matmul qcpu_matmul_blas = {
    .takes = takes,
    .max_tokens = QCPU_ANY_TOKENS,
    .begin = qmi_blas_load,
    .speed = 5,
    .tile_rows = tile_rows,
    .packed_bytes = qcpu_no_packed_bytes,
    .pack = qcpu_no_pack,
    .tile_scratch = tile_scratch,
    .run = run,
};
