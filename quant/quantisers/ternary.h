/* SPDX-License-Identifier: Apache-2.0
 * Ternary rounding of one row with the paper's grid {min, 0, max}
 * (docs/format.md "Rounding to nearest").  Pure: arrays in, arrays out. */
#ifndef QMI_TERNARY_H
#define QMI_TERNARY_H

#include "error.h"

/* Rounds row f32 [n_cols] to codes [n_cols] (QMI_CODE_*) and levels: bf16 low
 * and high, low <= 0 <= high, both finite.  A weight above half the largest
 * one is HIGH, below half the smallest LOW, else ZERO; the comparisons are
 * strict and use the levels before they are rounded to bf16.  Equal decoded
 * values have equal codes: nothing is coded as a level that is zero.
 * E_FORMAT: "non-finite weight"; codes and levels are then all zero. */
qmoe_status qmi_ternary_rtn_row(uint8_t *codes, uint16_t levels[2],
    const float *row, int64_t n_cols, qmi_error *err);

#endif
