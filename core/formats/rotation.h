/* SPDX-License-Identifier: Apache-2.0
 * Blockwise randomised Hadamard rotation of the columns of a matrix: columns
 * are cut into blocks of `block` (a power of two; a shorter last block uses
 * the largest powers of two that fit, largest first), each element is
 * multiplied by a pseudo-random sign, then each block by the orthonormal
 * Walsh-Hadamard matrix.  The rotation R is orthogonal: W x = (W R^T)(R x). */
#ifndef QMI_ROTATION_H
#define QMI_ROTATION_H

#include <stddef.h>
#include <stdint.h>

enum { QMI_ROTATION_MAX_BLOCK = 1024, QMI_ROTATION_DEFAULT = 64 };

/* The block for rows of n_cols: the largest power of two up to
 * QMI_ROTATION_DEFAULT that divides n_cols, so that all blocks are alike; 0
 * for an odd width. */
int32_t qmi_rotation_for(int64_t n_cols);
/* Sign of column c: +1 or -1, a fixed hash of (seed, c). */
float qmi_rotation_sign(uint32_t seed, int64_t column);
/* x = R x in place, n elements. */
void qmi_rotate(float *x, int64_t n, int32_t block, uint32_t seed);
/* x = R^T x in place: undoes qmi_rotate up to rounding. */
void qmi_unrotate(float *x, int64_t n, int32_t block, uint32_t seed);

#endif
