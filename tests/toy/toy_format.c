/* SPDX-License-Identifier: Apache-2.0
 * A weight format that only tests have: a signed byte per weight, times a step
 * that is one for the stack and stands in config.json.  One part, "codes" i8
 * [n_mats, n_rows, n_cols]; -128 is no code.  Together with a line of a table
 * (format_table.c) it is all that models in this format need. */
#include "toy_format.h"

#include <inttypes.h>

#include "alloc.h"

static int shape_codes(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = n_cols;
    return 3;
}

/* 1 unless it was configured: a stack that was not gives other weights. */
static float step_of(const qmi_weight *w)
{
    const double *step = w->codebook;
    return step != NULL ? (float)*step : 1;
}

static qmoe_status configure(
    qmi_weight *w, const qmi_parameters *from, qmi_error *err)
{
    double step = 1;
    QMI_TRY(from->number(from, &step, "step", err));
    if (!(step > 0 && step < 1e6))
        return qmi_fail(err, QMOE_E_FORMAT, "%s: step of '%s' is not positive",
            from->file, w->name);
    double *kept = qmi_calloc(1, sizeof *kept, "a step", err);
    if (kept == NULL)
        return QMOE_E_NOMEM;
    *kept = step;
    w->codebook = kept;
    return QMOE_OK;
}

static void release(qmi_weight *w)
{
    qmi_free(w->codebook);
    w->codebook = NULL;
}

static bool record(const qmi_weight *w, qmi_put_parameter *put, void *entry)
{
    (void)w;
    return put(entry, "step", TOY_STEP);
}

static const int8_t *codes_of(const qmi_weight *w, int64_t mat)
{
    return qmi_matrix_range(w, 0, mat, 1).data;
}

static qmoe_status open_stack(const qmi_weight *w, qmi_error *err)
{
    uint64_t n = 0;
    if (qmi_mul_u64((uint64_t)w->n_mats, (uint64_t)w->n_rows, &n) &&
        qmi_mul_u64(n, (uint64_t)w->n_cols, &n) && w->parts[0].n_bytes == n)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "tensor '%s.codes': %" PRIu64 " bytes do not fit the stack", w->name,
        w->parts[0].n_bytes);
}

static qmoe_status check(const qmi_weight *w, int64_t mat, qmi_error *err)
{
    const int8_t *codes = codes_of(w, mat);
    for (int64_t i = 0; i < w->n_rows * w->n_cols; i++)
        if (codes[i] == INT8_MIN)
            return qmi_fail(err, QMOE_E_FORMAT,
                "codes: row %" PRId64 " holds -128", i / w->n_cols);
    return QMOE_OK;
}

static void decode(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const int8_t *codes = codes_of(w, mat) + row * w->n_cols;
    const float step = step_of(w);
    for (int64_t i = 0; i < n * w->n_cols; i++)
        dst[i] = step * codes[i];
}

const qmi_format qmi_format_toy = {
    .id = QMI_N_FORMATS,
    .name = "toy",
    .summary = "a signed byte per weight",
    .n_parts = 1,
    .parts = {{"codes", QMI_I8, shape_codes}},
    .configure = configure,
    .release = release,
    .record = record,
    .open = open_stack,
    .check = check,
    .decode = decode,
};
