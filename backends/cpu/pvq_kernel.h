/* SPDX-License-Identifier: Apache-2.0
 * What the kernels for pvq and pvq8 share: how x is packed and how a tile of
 * 32 rows is walked.  A group is 4 blocks, the unit of the storage. */
#ifndef QCPU_PVQ_KERNEL_H
#define QCPU_PVQ_KERNEL_H

#include "matmul.h"
#include "pvq.h"

enum {
    QCPU_PVQ_GROUP = 4, /* blocks */
    QCPU_PVQ_GROUPS_PER_CHUNK = QMI_PVQ_CHUNK / QCPU_PVQ_GROUP,
    QCPU_PVQ_TOKENS = 32 /* tokens for which indices are decoded once */
};

bool qcpu_pvq_takes(const qmi_weight *w);
int64_t qcpu_pvq_tile_rows(const qmi_weight *w);

/* x in panels of up to QCPU_PVQ_TOKENS tokens; a panel is
 * [groups, tokens of the panel, columns of a group], zeros past n_cols. */
size_t qcpu_pvq_packed_bytes(const qmi_weight *w, int64_t n_tokens);
void qcpu_pvq_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens);
/* 32 f32 sums per token of a panel. */
size_t qcpu_pvq_tile_scratch(const qmi_weight *w, int64_t n_tokens);

static inline int64_t qcpu_pvq_n_groups(const qmi_pvq_shape *s)
{
    return (s->n_blocks + QCPU_PVQ_GROUP - 1) / QCPU_PVQ_GROUP;
}

/* Bytes of a whole group of a tile. */
static inline size_t qcpu_pvq_group_bytes(int n)
{
    return n == 16 ? 4 * QMI_PVQ_TILE : 3 * QMI_PVQ_TILE;
}

/* sums f32 [n_tokens, 32] of one tile of codes (scales not applied) over one
 * panel of x. */
typedef void (*qcpu_pvq_tile_fn)(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int64_t n_tokens);
/* The run slot of a kernel made of such a function. */
void qcpu_pvq_run(
    float *y, const qcpu_tile *tile, void *scratch, qcpu_pvq_tile_fn fn);

/* ---- row form: x transposed, a pulse adds a row of tokens ---- */

enum { QCPU_PVQ_LANES = 16 };

/* x in panels of `lanes` tokens (1 or QCPU_PVQ_LANES), each
 * [blocks of whole groups, x then -x: 2 n, lanes]; missing tokens are zeros. */
size_t qcpu_pvq_rows_bytes(const qmi_weight *w, int64_t n_tokens, int lanes);
void qcpu_pvq_rows_pack(float *dst, const qmi_weight *w, const float *x,
    int64_t n_tokens, int lanes);

/* sums f32 [32, lanes] of one tile over one panel of `lanes` tokens. */
typedef void (*qcpu_pvq_rows_fn)(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int lanes);
void qcpu_pvq_rows_run(float *y, const qcpu_tile *tile, void *scratch,
    qcpu_pvq_rows_fn fn, int lanes);
enum { QCPU_PVQ_ROWS_SCRATCH = QMI_PVQ_TILE * QCPU_PVQ_LANES * 4 }; /* bytes */

/* Fewer tokens would leave most lanes of the row form empty. */
enum { QCPU_PVQ_MIN_TOKENS_FOR_ROWS = 4 };

/* The slots of a kernel that takes few tokens by `few` (a qcpu_pvq_tile_fn)
 * and more by `rows` (a qcpu_pvq_rows_fn). */
#define QCPU_PVQ_FEW_OR_ROWS(suffix, few, rows)                                \
    static size_t packed_bytes_##suffix(const qmi_weight *w, int64_t n)        \
    {                                                                          \
        return n < QCPU_PVQ_MIN_TOKENS_FOR_ROWS                                \
                   ? qcpu_pvq_packed_bytes(w, n)                               \
                   : qcpu_pvq_rows_bytes(w, n, QCPU_PVQ_LANES);                \
    }                                                                          \
    static void pack_##suffix(void *dst, const qmi_weight *w, int64_t mat,     \
        const float *x, int64_t n)                                             \
    {                                                                          \
        if (n < QCPU_PVQ_MIN_TOKENS_FOR_ROWS)                                  \
            qcpu_pvq_pack(dst, w, mat, x, n);                                  \
        else                                                                   \
            qcpu_pvq_rows_pack(dst, w, x, n, QCPU_PVQ_LANES);                  \
    }                                                                          \
    static size_t tile_scratch_##suffix(const qmi_weight *w, int64_t n)        \
    {                                                                          \
        return n < QCPU_PVQ_MIN_TOKENS_FOR_ROWS                                \
                   ? qcpu_pvq_tile_scratch(w, n)                               \
                   : (size_t)QCPU_PVQ_ROWS_SCRATCH;                            \
    }                                                                          \
    static void run_##suffix(float *y, const qcpu_tile *tile, void *scratch)   \
    {                                                                          \
        if (tile->n_tokens < QCPU_PVQ_MIN_TOKENS_FOR_ROWS)                     \
            qcpu_pvq_run(y, tile, scratch, few);                               \
        else                                                                   \
            qcpu_pvq_rows_run(y, tile, scratch, rows, QCPU_PVQ_LANES);         \
    }

/* The row form without instruction-set extensions. */
void qcpu_pvq_rows_tile(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int lanes);

#endif
