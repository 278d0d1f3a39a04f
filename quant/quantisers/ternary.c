/* SPDX-License-Identifier: Apache-2.0
 * In: one row of weights.  Out: its codes and two levels by the paper's rule,
 * {min, 0, max}.  Pure: the same row gives the same bytes. */
#include "ternary.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "dtype.h"
#include "ternary_dict.h"

/* The stored form of a level.  Levels must be finite, so one above the largest
 * bf16 becomes that; a zero has no sign. */
static uint16_t store_level(float level)
{
    uint16_t h = qmi_f32_to_bf16(level);
    if ((h & 0x7fff) == 0x7f80)
        return (uint16_t)(h - 1);
    return (h & 0x7fff) == 0 ? 0 : h;
}

static qmoe_status fail_non_finite(
    uint8_t *codes, const float *row, int64_t n_cols, qmi_error *err)
{
    /* Runs only when there is one. */
    int64_t col = 0;
    while (isfinite(row[col]))
        col++;
    memset(codes, 0, (size_t)n_cols);
    return qmi_fail(
        err, QMOE_E_FORMAT, "column %" PRId64 ": non-finite weight", col);
}

qmoe_status qmi_ternary_rtn_row(uint8_t *codes, uint16_t levels[2],
    const float *row, int64_t n_cols, qmi_error *err)
{
    float low = 0, high = 0;
    bool finite = true;
    for (int64_t c = 0; c < n_cols; c++) {
        low = row[c] < low ? row[c] : low;
        high = row[c] > high ? row[c] : high;
        finite &= isfinite(row[c]) != 0;
    }
    /* Set before the check, so that a failure leaves zeros. */
    levels[0] = levels[1] = 0;
    if (!finite)
        return fail_non_finite(codes, row, n_cols, err);
    levels[0] = store_level(low);
    levels[1] = store_level(high);
    /* A level that is stored as zero is never chosen: its value would be
     * ZERO's. */
    const float below = levels[0] != 0 ? low / 2 : -INFINITY;
    const float above = levels[1] != 0 ? high / 2 : INFINITY;
    for (int64_t c = 0; c < n_cols; c++) {
        const uint8_t code = row[c] < below ? QMI_CODE_LOW : QMI_CODE_ZERO;
        codes[c] = row[c] > above ? QMI_CODE_HIGH : code;
    }
    return QMOE_OK;
}
