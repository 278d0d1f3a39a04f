/* SPDX-License-Identifier: Apache-2.0
 * Products with any compressed format: each row is decoded as the format
 * decodes it, then multiplied.  In: a tile of rows and plain tokens.  Out: y of
 * the tile.  Slow; for formats and pairs of formats that no kernel before it
 * takes. */
#include "matmul.h"

static bool takes(const qmi_weight *w)
{
    return !w->format->dense; /* for those there is BLAS */
}

/* Small, so that even few rows give every thread some. */
static int64_t tile_rows(const qmi_weight *w)
{
    (void)w;
    return 16;
}

static size_t tile_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)n_tokens;
    return (size_t)w->n_cols * sizeof(float);
}

static float dot(const float *a, const float *b, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* x is not rotated: a decoded row is not either. */
static void run(float *y, const qcpu_tile *tile, void *scratch)
{
    const qmi_weight *w = tile->w;
    float *row = scratch;
    for (int64_t r = 0; r < tile->n_rows; r++) {
        /* A row is decoded once for all tokens. */
        qmi_weight_decode(w, tile->mat, tile->row + r, 1, row);
        for (int64_t t = 0; t < tile->n_tokens; t++)
            y[t * tile->n_rows + r] =
                dot(row, tile->x + t * w->n_cols, w->n_cols);
    }
}

const qcpu_matmul qcpu_matmul_decoded = {
    .takes = takes,
    .takes_plain_x = true,
    .max_tokens = QCPU_ANY_TOKENS,
    .speed = 1,
    .tile_rows = tile_rows,
    .packed_bytes = qcpu_no_packed_bytes,
    .pack = qcpu_no_pack,
    .tile_scratch = tile_scratch,
    .run = run,
};
