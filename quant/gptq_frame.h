/* SPDX-License-Identifier: Apache-2.0
 * The column sweep of GPTQ with error feedback, for any rule that rounds one
 * weight (paper section 3.2; qmoe's source of the method: Frantar et al.,
 * "GPTQ", algorithm 1). */
#ifndef QMI_GPTQ_FRAME_H
#define QMI_GPTQ_FRAME_H

#include "quantiser.h"

/* Rounds weight `value` of row `row`, column `col`, and returns what it
 * decodes to; the rule remembers the code. */
typedef float (*qmi_round_fn)(
    void *rule, int64_t row, int64_t col, float value);

/* Sweeps columns left to right in blocks of 128: each error is fed forward to
 * the columns that follow by U f32 [n_cols, n_cols] (qmi_gptq_factor).
 * w f32 [n_rows, n_cols] is used up. */
qmoe_status qmi_gptq_sweep(float *w, int64_t n_rows, int64_t n_cols,
    const float *u, qmi_round_fn round, void *rule, qmi_error *err);

#endif
