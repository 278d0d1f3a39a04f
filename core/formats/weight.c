/* SPDX-License-Identifier: Apache-2.0
 * What all weight formats share: how they are found, sizes, the bytes of a
 * matrix, validation on first use, decoding.  In: a weight whose format has
 * opened it.  Out: what is asked about it, by the traits and functions of its
 * format; no format is named here. */
#include "weight.h"

#include <inttypes.h>
#include <math.h>

#include "alloc.h"

/* Counted, since the table's length is known to its own file only
 * (format_table.c). */
const qmi_format *qmi_format_at(size_t index)
{
    for (size_t i = 0; qmi_formats[i] != NULL; i++)
        if (i == index)
            return qmi_formats[i];
    return NULL;
}

const qmi_format *qmi_format_find(const char *name)
{
    for (size_t i = 0; qmi_formats[i] != NULL; i++)
        if (strcmp(qmi_formats[i]->name, name) == 0)
            return qmi_formats[i];
    return NULL;
}

const qmi_format *qmi_format_dense(qmi_dtype dtype)
{
    for (size_t i = 0; qmi_formats[i] != NULL; i++)
        if (qmi_formats[i]->dense && qmi_formats[i]->dtype == dtype)
            return qmi_formats[i];
    return NULL;
}

uint64_t qmi_stack_size(const qmi_format *format, int64_t n_mats,
    int64_t n_rows, int64_t n_cols, double variable_bits)
{
    /* An estimate, so double: the product may not fit 64 bits. */
    double weights = (double)n_mats * (double)n_rows * (double)n_cols;
    uint64_t total = 0;
    for (int i = 0; i < format->n_parts; i++) {
        int64_t shape[3];
        int rank = format->parts[i].shape(shape, n_mats, n_rows, n_cols);
        uint64_t n = qmi_dtype_bits(format->parts[i].dtype) / 8;
        bool fits = true;
        if (format->variable && i == format->variable_part) {
            /* At most 2^63: the conversion of more than uint64_t holds is
             * undefined. */
            n = (uint64_t)fmin(weights * variable_bits / 8, 0x1p63);
        } else {
            for (int j = 0; j < rank; j++)
                fits = fits && qmi_mul_u64(n, (uint64_t)shape[j], &n);
        }
        if (!fits || !qmi_add_u64(total, n, &total))
            return UINT64_MAX;
    }
    return total;
}

uint64_t qmi_dense_bytes(const qmi_weight *w)
{
    return (uint64_t)w->n_rows * (uint64_t)w->n_cols *
           (qmi_dtype_bits(w->format->dtype) / 8);
}

/* First element of matrix `mat` in the variable part. */
static uint64_t offset_of(const qmi_weight *w, int64_t mat)
{
    const uint8_t *offsets = w->parts[w->format->offsets_part].data;
    return qmi_load_u64(offsets + 8 * mat);
}

/* Offsets are trusted: `open` has checked that they rise and end inside of the
 * variable part. */
qmi_part qmi_matrix_range(const qmi_weight *w, int part, int64_t mat, int64_t n)
{
    const qmi_format *format = w->format;
    const uint8_t *data = w->parts[part].data;
    if (format->variable && part == format->offsets_part)
        return (qmi_part){data, 0};
    if (format->variable && part == format->variable_part) {
        const uint64_t size = qmi_dtype_bits(format->parts[part].dtype) / 8;
        const uint64_t begin = offset_of(w, mat);
        return (qmi_part){
            data + size * begin, size * (offset_of(w, mat + n) - begin)};
    }
    const uint64_t each = format->dense
                              ? qmi_dense_bytes(w)
                              : w->parts[part].n_bytes / (uint64_t)w->n_mats;
    /* Scattered matrices have no common range. */
    if (w->mats != NULL)
        return (qmi_part){n == 1 ? w->mats[mat] : NULL, (uint64_t)n * each};
    return (qmi_part){data + (uint64_t)mat * each, (uint64_t)n * each};
}

qmoe_status qmi_weight_check(const qmi_weight *w, int64_t mat, qmi_error *err)
{
    if (mat < 0 || mat >= w->n_mats)
        return qmi_fail(err, QMOE_E_INVALID,
            "'%s': no matrix %" PRId64 " among %" PRId64, w->name, mat,
            w->n_mats);
    /* Before the check below: what is checked must be what is used. */
    if (w->fetch != NULL)
        QMI_TRY(w->fetch(
            w->owner, qmi_weight_dense(w, mat), qmi_dense_bytes(w), err));
    if (w->format->check == NULL)
        return QMOE_OK;
    /* Two threads may both check: the result is the same. */
    if (w->checked != NULL &&
        atomic_load_explicit(&w->checked[mat], memory_order_acquire) != 0)
        return QMOE_OK;
    qmoe_status status = w->format->check(w, mat, err);
    if (status != QMOE_OK)
        return qmi_error_prefix(
            err, status, "'%s', matrix %" PRId64, w->name, mat);
    if (w->checked != NULL)
        /* Release: who sees the mark sees what `fetch` wrote, too.  A failure
         * leaves no mark, so every use tells it again. */
        atomic_store_explicit(&w->checked[mat], 1, memory_order_release);
    return QMOE_OK;
}

void qmi_weight_release(qmi_weight *w)
{
    if (w->format != NULL && w->format->release != NULL)
        w->format->release(w);
}

bool qmi_weight_record(const qmi_weight *w, qmi_put_parameter *put, void *entry)
{
    return w->format->record == NULL || w->format->record(w, put, entry);
}

uint64_t qmi_weight_bytes(const qmi_weight *w)
{
    uint64_t n_bytes = 0;
    for (int i = 0; i < w->format->n_parts; i++)
        n_bytes += w->parts[i].n_bytes;
    return n_bytes;
}

void qmi_weight_decode(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    w->format->decode(w, mat, row, n, dst);
}

qmoe_status qmi_weight_check_size(
    const qmi_weight *w, int part, bool fits, uint64_t expected, qmi_error *err)
{
    if (fits && w->parts[part].n_bytes == expected)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "tensor '%s.%s': %" PRIu64 " bytes do not fit a stack of "
        "[%" PRId64 ", %" PRId64 ", %" PRId64 "]",
        w->name, w->format->parts[part].suffix, w->parts[part].n_bytes,
        w->n_mats, w->n_rows, w->n_cols);
}

qmoe_status qmi_weight_check_sizes(const qmi_weight *w, qmi_error *err)
{
    for (int part = 0; part < w->format->n_parts; part++) {
        const qmi_part_spec *spec = &w->format->parts[part];
        int64_t shape[3];
        uint64_t n = qmi_dtype_bits(spec->dtype) / 8;
        bool fits = true;
        /* In 64 bits with overflow checks: dimensions come from config.json and
         * may be anything. */
        const int rank = spec->shape(shape, w->n_mats, w->n_rows, w->n_cols);
        for (int i = 0; i < rank; i++)
            fits =
                fits && shape[i] > 0 && qmi_mul_u64(n, (uint64_t)shape[i], &n);
        QMI_TRY(qmi_weight_check_size(w, part, fits, n, err));
    }
    return QMOE_OK;
}
