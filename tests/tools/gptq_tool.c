/* SPDX-License-Identifier: Apache-2.0
 * Quantises one matrix from a raw file, for tests/interop/test_gptq.py and for
 * timing.  Files hold float32, row-major. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc.h"
#include "blas.h"
#include "hessian.h"
#include "quantiser.h"

typedef struct request {
    const qmi_quantiser *quantiser;
    qmi_quant_options options;
    int64_t n_rows, n_cols;
    const char *weights, *inputs, *output; /* inputs NULL: none */
} request;

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "gptq_tool: %s: %s\n", what, why);
    return 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All floats of a file; NULL: cannot be read. */
static float *read_floats(const char *path, int64_t *n)
{
    float *data = NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) >= 0) {
        *n = ftell(file) / (int64_t)sizeof *data;
        rewind(file);
        data = malloc((size_t)*n * sizeof *data + 1);
    }
    if (data != NULL &&
        fread(data, sizeof *data, (size_t)*n, file) != (size_t)*n) {
        free(data);
        data = NULL;
    }
    fclose(file);
    return data;
}

static qmoe_status sum_inputs(
    qmi_hessian *hessian, const request *r, qmi_error *err)
{
    int64_t n = 0;
    float *x = read_floats(r->inputs, &n);
    if (x == NULL)
        return qmi_fail(err, QMOE_E_IO, "%s: cannot be read", r->inputs);
    qmoe_status status = qmi_hessian_create(hessian, r->n_cols, err);
    if (status == QMOE_OK)
        status = qmi_hessian_add(hessian, x, n / r->n_cols, err);
    if (status == QMOE_OK)
        status = qmi_hessian_finish(hessian, err);
    free(x);
    return status;
}

/* What the encoded matrix decodes to, as a stack of one. */
static qmoe_status decode(
    float *dst, const qmi_encoded *encoded, qmi_error *err)
{
    const qmi_format *format = encoded->format;
    uint64_t offsets[2] = {0, 0};
    qmi_weight w = {
        .format = format,
        .name = "matrix",
        .n_mats = 1,
        .n_rows = encoded->n_rows,
        .n_cols = encoded->n_cols,
    };
    for (int i = 0; i < format->n_parts; i++)
        w.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
    if (format->variable) {
        const qmi_part_spec *part = &format->parts[format->variable_part];
        offsets[1] = encoded->part_bytes[format->variable_part] /
                     (qmi_dtype_bits(part->dtype) / 8);
        w.parts[format->offsets_part] = (qmi_part){offsets, sizeof offsets};
    }
    QMI_TRY(format->open != NULL ? format->open(&w, err) : QMOE_OK);
    QMI_TRY(qmi_weight_check(&w, 0, err));
    qmi_weight_decode(&w, 0, 0, w.n_rows, dst);
    return QMOE_OK;
}

static qmoe_status write_decoded(
    const request *r, const qmi_encoded *encoded, qmi_error *err)
{
    const size_t n = (size_t)(r->n_rows * r->n_cols);
    float *decoded = malloc(n * sizeof *decoded);
    FILE *file = fopen(r->output, "wb");
    qmoe_status status =
        qmi_fail(err, QMOE_E_IO, "%s: cannot write", r->output);
    if (decoded != NULL && file != NULL) {
        status = decode(decoded, encoded, err);
        if (fwrite(decoded, sizeof *decoded, n, file) != n)
            status = qmi_fail(err, QMOE_E_IO, "%s: cannot write", r->output);
    }
    if (file != NULL && fclose(file) != 0)
        status = qmi_fail(err, QMOE_E_IO, "%s: cannot write", r->output);
    free(decoded);
    return status;
}

static void print(const qmi_encoded *encoded, const qmi_quant_result *q,
    const qmi_hessian *hessian, const double seconds[2])
{
    size_t n_bytes = 0;
    for (int i = 0; i < QMI_MAX_PARTS; i++)
        n_bytes += encoded->part_bytes[i];
    printf("{\"error\": %.9g, \"energy\": %.9g, \"zeros\": %.6f, "
           "\"entropy\": %.6f, \"bits\": %.6f, \"fell_back\": %s, "
           "\"tokens\": %lld, \"hessian_s\": %.6f, \"quantise_s\": %.6f}\n",
        q->error, q->energy,
        (double)q->n_zeros / (double)(encoded->n_rows * encoded->n_cols),
        q->entropy_bits,
        8 * (double)n_bytes / (double)(encoded->n_rows * encoded->n_cols),
        q->fell_back ? "true" : "false", (long long)hessian->n_tokens,
        seconds[0], seconds[1]);
}

static qmoe_status run(const request *r, const float *w, qmi_error *err)
{
    qmi_hessian hessian = {0};
    qmi_encoded encoded = {0};
    qmi_quant_result result;
    double begin = now(), seconds[2];
    qmoe_status status =
        r->inputs != NULL ? sum_inputs(&hessian, r, err) : QMOE_OK;
    seconds[0] = now() - begin;
    begin = now();
    if (status == QMOE_OK)
        status = r->quantiser->run(&encoded, &result, w, r->n_rows, r->n_cols,
            r->inputs != NULL ? &hessian : NULL, &r->options, err);
    seconds[1] = now() - begin;
    if (status == QMOE_OK)
        status = write_decoded(r, &encoded, err);
    if (status == QMOE_OK)
        print(&encoded, &result, &hessian, seconds);
    qmi_encoded_free(&encoded);
    qmi_hessian_destroy(&hessian);
    return status;
}

int main(int argc, char **argv)
{
    qmi_error err = {0};
    int64_t n = 0;
    if (argc != 10)
        return fail("usage",
            "METHOD FORMAT minmax|fit PASSES ROWS COLS WEIGHTS "
            "INPUTS|- OUTPUT");
    const request r = {
        .quantiser = qmi_quantiser_find(argv[1], argv[2]),
        .options = {.fit_levels = strcmp(argv[3], "fit") == 0,
            .passes = atoi(argv[4])},
        .n_rows = atoll(argv[5]),
        .n_cols = atoll(argv[6]),
        .weights = argv[7],
        .inputs = strcmp(argv[8], "-") != 0 ? argv[8] : NULL,
        .output = argv[9],
    };
    if (qmi_blas_load(1, &err) != QMOE_OK)
        return fail("OpenBLAS", err.text);
    if (r.quantiser == NULL)
        return fail(argv[1], "no such method and format");
    float *w = read_floats(r.weights, &n);
    if (w == NULL || n != r.n_rows * r.n_cols) {
        free(w);
        return fail(r.weights, "is not a matrix of that size");
    }
    qmoe_status status = run(&r, w, &err);
    free(w);
    return status == QMOE_OK ? 0 : fail(qmoe_status_name(status), err.text);
}
