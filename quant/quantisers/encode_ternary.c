/* SPDX-License-Identifier: Apache-2.0
 * In: ternary codes and levels of a matrix.  Out: the bytes of "ternary-dict"
 * (docs/format.md, section 4), and counts for the report.  The codes decide the
 * bytes: each row is cut greedily into the longest codewords, so two runs with
 * the same codes give the same bytes. */
#include "encode_ternary.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "ternary_dict.h"

qmoe_status qmi_ternary_matrix_alloc(
    qmi_ternary_matrix *out, int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    static const char what[] = "a ternary matrix";
    *out = (qmi_ternary_matrix){
        .n_rows = n_rows,
        .n_cols = n_cols,
        .codes = qmi_calloc((size_t)(n_rows * n_cols), 1, what, err),
        .levels = qmi_calloc(2 * (size_t)n_rows, sizeof(uint16_t), what, err),
    };
    if (out->codes != NULL && out->levels != NULL)
        return QMOE_OK;
    qmi_ternary_matrix_free(out);
    return QMOE_E_NOMEM;
}

void qmi_ternary_matrix_free(qmi_ternary_matrix *matrix)
{
    qmi_free(matrix->codes);
    qmi_free(matrix->levels);
    *matrix = (qmi_ternary_matrix){0};
}

/* All rows' codewords into part CODES, their places into ROW_OFFSETS. */
static void encode_rows(
    qmi_encoded *out, const qmi_ternary_matrix *matrix, const qmi_dict *dict)
{
    uint16_t *codes = (uint16_t *)(void *)out->parts[QMI_TD_CODES];
    uint32_t *offsets = (uint32_t *)(void *)out->parts[QMI_TD_ROW_OFFSETS];
    size_t n = 0;
    for (int64_t r = 0; r < matrix->n_rows; r++) {
        n += qmi_dict_encode_row(dict, codes + n,
            matrix->codes + r * matrix->n_cols, matrix->n_cols);
        offsets[r + 1] = (uint32_t)n;
    }
    out->part_bytes[QMI_TD_CODES] = n * sizeof *codes;
}

qmoe_status qmi_encode_ternary(qmi_encoded *out,
    const qmi_ternary_matrix *matrix, const void *codebook, qmi_error *err)
{
    static const char what[] = "a compressed matrix";
    const qmi_dict *dict = codebook != NULL ? codebook : qmi_dict_generic();
    size_t n_rows = (size_t)matrix->n_rows;
    size_t widest = (size_t)((matrix->n_cols + 1) / 2);
    *out = (qmi_encoded){.format = &qmi_format_ternary_dict,
        .n_rows = matrix->n_rows,
        .n_cols = matrix->n_cols};
    if (dict == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: the dictionary");
    /* Row offsets are 32 bits; the worst case is a codeword per pair of
     * weights. */
    if (n_rows * widest > UINT32_MAX)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "a matrix of %lld x %lld could need 2^32 codewords",
            (long long)matrix->n_rows, (long long)matrix->n_cols);
    size_t sizes[QMI_MAX_PARTS] = {0};
    sizes[QMI_TD_ROW_OFFSETS] = (n_rows + 1) * sizeof(uint32_t);
    sizes[QMI_TD_LEVELS] = 2 * n_rows * sizeof(uint16_t);
    /* Room for the worst case; what is not used is given back below. */
    sizes[QMI_TD_CODES] = n_rows * widest * sizeof(uint16_t);
    for (int i = 0; i < QMI_MAX_PARTS; i++) {
        if (sizes[i] == 0)
            continue;
        out->parts[i] = qmi_calloc(sizes[i], 1, what, err);
        out->part_bytes[i] = sizes[i];
        if (out->parts[i] == NULL) {
            qmi_encoded_free(out);
            return QMOE_E_NOMEM;
        }
    }
    memcpy(out->parts[QMI_TD_LEVELS], matrix->levels, sizes[QMI_TD_LEVELS]);
    encode_rows(out, matrix, dict);
    /* Matrices wait for their group: not in buffers ten times their size. */
    size_t n = out->part_bytes[QMI_TD_CODES];
    void *fitting = qmi_regrow(out->parts[QMI_TD_CODES], n, n, 1, what, err);
    if (fitting == NULL) {
        qmi_encoded_free(out);
        return QMOE_E_NOMEM;
    }
    out->parts[QMI_TD_CODES] = fitting;
    return QMOE_OK;
}

void qmi_ternary_count(
    qmi_quant_result *result, const qmi_ternary_matrix *matrix)
{
    uint64_t counts[3] = {0};
    int64_t n = matrix->n_rows * matrix->n_cols;
    for (int64_t i = 0; i < n; i++)
        counts[matrix->codes[i]]++;
    result->n_zeros = counts[QMI_CODE_ZERO];
    result->entropy_bits = 0;
    /* Entropy of the three codes, in bits per weight: what a perfect coder of
     * independent weights would need. */
    for (int i = 0; i < 3; i++)
        if (counts[i] != 0)
            result->entropy_bits -= (double)counts[i] / (double)n *
                                    log2((double)counts[i] / (double)n);
}
