/* SPDX-License-Identifier: Apache-2.0
 * Pieces of a matrix on their way through the column walk: 32 rows of a block
 * of columns, transposed, so that every step is a loop over rows next to each
 * other. */
#ifndef QMI_SWEEP_TILE_H
#define QMI_SWEEP_TILE_H

#include <stdint.h>

enum {
    QMI_SWEEP_ROWS = 32,   /* rows of a tile */
    QMI_SWEEP_BLOCK = 128, /* columns between matrix products */
    QMI_SWEEP_STEP = 4     /* columns brought up to date together */
};

/* A tile: [column][row]. */
typedef float qmi_tile[QMI_SWEEP_BLOCK][QMI_SWEEP_ROWS];
typedef uint8_t qmi_code_tile[QMI_SWEEP_BLOCK][QMI_SWEEP_ROWS];

/* Matrix pieces of n_rows <= QMI_SWEEP_ROWS rows, `stride` elements apart, and
 * n_cols <= QMI_SWEEP_BLOCK columns.  Loading sets missing rows to zero. */
void qmi_tile_load(
    qmi_tile dst, const float *src, int64_t stride, int n_rows, int n_cols);
void qmi_tile_store(
    float *dst, int64_t stride, const qmi_tile src, int n_rows, int n_cols);
void qmi_tile_store_codes(uint8_t *dst, int64_t stride, const qmi_code_tile src,
    int n_rows, int n_cols);

/* c[i][r] += sum over j < n of d[j][r] * f[j * QMI_SWEEP_BLOCK + i] for the
 * QMI_SWEEP_STEP columns from c, in order of j: bits do not depend on which
 * variant runs. */
typedef void (*qmi_tile_update_fn)(float (*c)[QMI_SWEEP_ROWS],
    const float (*d)[QMI_SWEEP_ROWS], const float *f, int n);
/* The fastest one for the instruction sets in use (cpu_features.h). */
qmi_tile_update_fn qmi_tile_update(void);

#endif
