/* SPDX-License-Identifier: Apache-2.0
 * pvq and pvq8 in portable C: the row form, for one token and for many.  In:
 * codes of a tile, tokens packed with their negatives.  Out: sums of the rows.
 * Every processor can run it. */
#include "pvq_kernel.h"

#define ISA
#define NAME(x) x##_portable
#define VEC_BYTES 16
#include "pvq_rows_template.h"

/* One lane for few tokens: padding would be most of the work. */
static int lanes_for(int64_t n_tokens)
{
    return n_tokens < QCPU_PVQ_MIN_TOKENS_FOR_ROWS ? 1 : QCPU_PVQ_LANES;
}

void qcpu_pvq_rows_tile(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int lanes)
{
    rows_tile_portable(sums, codes, s, panel, lanes);
}

static size_t packed_bytes(const qmi_weight *w, int64_t n_tokens)
{
    return qcpu_pvq_rows_bytes(w, n_tokens, lanes_for(n_tokens));
}

static void pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens)
{
    (void)mat;
    qcpu_pvq_rows_pack(dst, w, x, n_tokens, lanes_for(n_tokens));
}

static size_t tile_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)w;
    (void)n_tokens;
    return QCPU_PVQ_ROWS_SCRATCH;
}

static void run(float *y, const qcpu_tile *tile, void *scratch)
{
    qcpu_pvq_rows_run(
        y, tile, scratch, rows_tile_portable, lanes_for(tile->n_tokens));
}

const qcpu_matmul qcpu_matmul_pvq_portable = {
    .takes = qcpu_pvq_takes,
    .max_tokens = QCPU_ANY_TOKENS,
    .speed = 12,
    .tile_rows = qcpu_pvq_tile_rows,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .tile_scratch = tile_scratch,
    .run = run,
};
