/* SPDX-License-Identifier: Apache-2.0
 * A quantiser that only tests have: round to nearest in the format of
 * toy_format.c.  With a line of a table (quantiser_table.c) `qmoe compress`
 * writes models in it. */
#include <math.h>

#include "alloc.h"
#include "quantiser.h"
#include "toy_format.h"

static int8_t code_of(float value)
{
    const double code = round((double)value / TOY_STEP);
    return (int8_t)fmax(-127, fmin(127, code));
}

static qmoe_status run(qmi_encoded *out, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    const int64_t n = n_rows * n_cols;
    (void)hessian;
    (void)options;
    *result = (qmi_quant_result){0};
    *out = (qmi_encoded){
        .format = &qmi_format_toy, .n_rows = n_rows, .n_cols = n_cols};
    uint8_t *codes = qmi_calloc((size_t)n, 1, "codes", err);
    if (codes == NULL)
        return QMOE_E_NOMEM;
    out->parts[0] = codes;
    out->part_bytes[0] = (size_t)n;
    for (int64_t i = 0; i < n; i++) {
        const int8_t code = code_of(w[i]);
        const double d = w[i] - TOY_STEP * code;
        codes[i] = (uint8_t)code;
        result->weight_error += d * d;
        result->weight_energy += (double)w[i] * w[i];
        result->n_zeros += code == 0;
    }
    result->error = result->weight_error;
    result->energy = result->weight_energy;
    return QMOE_OK;
}

static uint64_t work_bytes(int64_t n_rows, int64_t n_cols, bool moments,
    const qmi_quant_options *options)
{
    (void)moments;
    (void)options;
    return (uint64_t)n_rows * (uint64_t)n_cols;
}

extern const qmi_quantiser qmi_quantiser_toy_rtn;
const qmi_quantiser qmi_quantiser_toy_rtn = {.method = "rtn",
    .format = &qmi_format_toy,
    .work_bytes = work_bytes,
    .run = run};
