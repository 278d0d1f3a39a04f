/* SPDX-License-Identifier: Apache-2.0
 * In: a file of the published layout and a stack it should hold.  Out: one
 * matrix as a ternary-dict weight that passed all checks.  The layout's int32
 * row offsets and int16 codewords have the bytes of ternary-dict's u32 and u16,
 * so pointers into the file suffice, and that format's own check does the
 * rest. */
#include "published.h"

#include <stdio.h>
#include <string.h>

#include "expert_names.h"
#include "ternary_dict.h"
#include "torch_file.h"

const qmi_format *const qmi_published_format = &qmi_format_ternary_dict;

/* By QMI_PUB_*; "weight" is the empty dummy. */
const char *const qmi_published_suffix[QMI_PUB_PARTS] = {
    "w_comp", "row_off", "ter_minmax", "weight"};

qmi_dtype qmi_published_dtype(int part)
{
    static const qmi_dtype dtypes[QMI_PUB_PARTS] = {
        [QMI_PUB_CODES] = QMI_I16,
        [QMI_PUB_ROWS] = QMI_I32,
        [QMI_PUB_LEVELS] = QMI_BF16,
        [QMI_PUB_DUMMY] = QMI_BF16,
    };
    return dtypes[part];
}

qmoe_status qmi_published_check_shape(const qmi_weight *stack, qmi_error *err)
{
    /* A codeword holds pairs of weights, and the layout has no rule for half of
     * one. */
    if (stack->n_cols % 2 != 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "'%s': the published layout holds rows of even width only, not "
            "%lld",
            stack->name, (long long)stack->n_cols);
    /* The most codewords a matrix can need: one per pair. */
    if (stack->n_rows * (stack->n_cols / 2) > INT32_MAX)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "'%s': %lld x %lld could need more codewords than the published "
            "layout's 32-bit offsets count",
            stack->name, (long long)stack->n_rows, (long long)stack->n_cols);
    return QMOE_OK;
}

static qmoe_status bad(const qmi_tensor_file *file, const char *name, int part,
    const char *rule, qmi_error *err)
{
    return qmi_fail(err, QMOE_E_FORMAT, "%s: tensor '%s.%s': %s",
        qmi_tensor_file_path(file), name, qmi_published_suffix[part], rule);
}

/* Length of a vector of the part's dtype.  The data is fetched here, so that a
 * disk that fails is an error and no signal. */
static qmoe_status find_part(qmi_published_matrix *m, int part,
    const qmi_tensor_file *file, uint64_t *length, qmi_error *err)
{
    char name[640], rule[96];
    snprintf(name, sizeof name, "%s.%s", m->name, qmi_published_suffix[part]);
    const qmi_tensor *t = qmi_tensor_file_find(file, name);
    *length = 0;
    if (t == NULL)
        /* Dummies are not in all files. */
        return part == QMI_PUB_DUMMY
                   ? QMOE_OK
                   : bad(file, m->name, part, "is missing", err);
    qmi_dtype dtype = qmi_published_dtype(part);
    snprintf(rule, sizeof rule, "%s of rank %d, expected a vector of %s",
        qmi_dtype_name(t->dtype), t->rank, qmi_dtype_name(dtype));
    if (t->dtype != dtype || t->rank != 1)
        return bad(file, m->name, part, rule, err);
    m->parts[part] = t;
    /* Safe: the rank was compared just before. */
    *length = (uint64_t)t->shape[0];
    return qmi_tensor_file_fetch(file, t->data, t->n_bytes, err);
}

/* Lengths first: `check` of the format is given parts of exactly these
 * sizes. */
static qmoe_status check_length(const qmi_published_matrix *m, int part,
    uint64_t length, uint64_t expected, const qmi_tensor_file *file,
    qmi_error *err)
{
    char rule[96];
    if (length == expected)
        return QMOE_OK;
    snprintf(rule, sizeof rule, "%llu elements, expected %llu",
        (unsigned long long)length, (unsigned long long)expected);
    return bad(file, m->name, part, rule, err);
}

/* sizes.pt says the number once more: a difference tells of files that do not
 * belong together. */
static qmoe_status check_size(
    const qmi_published_matrix *m, const qmi_tensor_file *sizes, qmi_error *err)
{
    int64_t recorded = 0;
    if (!qmi_torch_integer(sizes, m->name, &recorded))
        return qmi_fail(err, QMOE_E_FORMAT, "%s: has no entry '%s'",
            qmi_tensor_file_path(sizes), m->name);
    if ((uint64_t)recorded != m->n_codes)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: entry '%s' says %lld codewords, there are %llu",
            qmi_tensor_file_path(sizes), m->name, (long long)recorded,
            (unsigned long long)m->n_codes);
    return QMOE_OK;
}

qmoe_status qmi_published_find(qmi_published_matrix *out,
    const qmi_tensor_file *file, const qmi_tensor_file *sizes,
    const qmi_weight *stack, int64_t expert, qmi_error *err)
{
    uint64_t n[QMI_PUB_PARTS] = {0};
    *out = (qmi_published_matrix){.n_codes = 0};
    qmi_expert_name(out->name, sizeof out->name, stack, expert);
    for (int part = 0; part < QMI_PUB_PARTS; part++)
        QMI_TRY(find_part(out, part, file, &n[part], err));
    out->n_codes = n[QMI_PUB_CODES];
    uint64_t n_rows = (uint64_t)stack->n_rows;
    QMI_TRY(check_length(
        out, QMI_PUB_ROWS, n[QMI_PUB_ROWS], n_rows + 1, file, err));
    QMI_TRY(check_length(
        out, QMI_PUB_LEVELS, n[QMI_PUB_LEVELS], 2 * n_rows, file, err));
    QMI_TRY(check_length(out, QMI_PUB_DUMMY, n[QMI_PUB_DUMMY], 0, file, err));
    return check_size(out, sizes, err);
}

qmoe_status qmi_published_check(qmi_weight *out, uint64_t offsets[2],
    const qmi_published_matrix *m, const qmi_tensor_file *file,
    const qmi_weight *stack, qmi_error *err)
{
    /* A stack of one matrix. */
    offsets[0] = 0;
    offsets[1] = m->n_codes;
    *out = (qmi_weight){
        .format = qmi_published_format,
        .name = m->name,
        .n_mats = 1,
        .n_rows = stack->n_rows,
        .n_cols = stack->n_cols,
    };
    const qmi_tensor *rows = m->parts[QMI_PUB_ROWS];
    const qmi_tensor *levels = m->parts[QMI_PUB_LEVELS];
    const qmi_tensor *codes = m->parts[QMI_PUB_CODES];
    out->parts[QMI_TD_EXPERT_OFFSETS] =
        (qmi_part){offsets, 2 * sizeof *offsets};
    out->parts[QMI_TD_ROW_OFFSETS] = (qmi_part){rows->data, rows->n_bytes};
    out->parts[QMI_TD_LEVELS] = (qmi_part){levels->data, levels->n_bytes};
    out->parts[QMI_TD_CODES] = (qmi_part){codes->data, codes->n_bytes};
    /* open checks sizes, check every codeword and offset: from here on the
     * bytes are trusted. */
    qmoe_status status = out->format->open(out, err);
    if (status == QMOE_OK)
        status = out->format->check(out, 0, err);
    if (status != QMOE_OK)
        return qmi_error_prefix(
            err, status, "%s: '%s'", qmi_tensor_file_path(file), m->name);
    return QMOE_OK;
}

void qmi_published_release(
    const qmi_published_matrix *matrix, const qmi_tensor_file *file)
{
    for (int part = 0; part < QMI_PUB_PARTS; part++)
        if (matrix->parts[part] != NULL)
            qmi_tensor_file_release(
                file, matrix->parts[part]->data, matrix->parts[part]->n_bytes);
}
