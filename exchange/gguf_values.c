/* SPDX-License-Identifier: Apache-2.0
 * In: a tensor of a GGUF file.  Out: its numbers in the writer's dtype, in the
 * order of a checkpoint.  Elements pass through a buffer in runs that lie
 * behind each other in the file: the whole tensor, or a row where rows change
 * places.  A run begins and ends with whole blocks. */
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "gguf_tensors.h"

/* Elements of the buffer; a multiple of every block. */
enum { PIECE = 1 << 16 };

typedef struct feed {
    const qmi_gguf_entry *entry;
    const qmi_gguf_type *type;
    const uint8_t *data; /* of the entry */
    float *wide;         /* [PIECE] */
    uint8_t *out;        /* [PIECE] of the dtype to write */
    size_t n_out;        /* elements */
    qmi_st_writer *writer;
    size_t index;
    qmi_error *err;
} feed;

static qmoe_status flush(feed *f)
{
    const qmi_dtype dtype = f->entry->dtype;
    /* After rounding, for a number can become infinite by it. */
    if (qmi_first_non_finite(f->out, dtype, f->n_out) != f->n_out)
        return qmi_fail(f->err, QMOE_E_FORMAT,
            "tensor '%s': holds a number that is not finite, or that %s "
            "cannot hold",
            f->entry->tensor->name, qmi_dtype_name(dtype));
    QMI_TRY(qmi_st_writer_write(f->writer, f->index, f->out,
        f->n_out * (qmi_dtype_bits(dtype) / 8), f->err));
    f->n_out = 0;
    return qmi_check_cancel(f->err);
}

/* n elements from element `begin` of the entry on. */
static qmoe_status put_run(feed *f, int64_t begin, int64_t n)
{
    const qmi_dtype dtype = f->entry->dtype;
    const size_t size = qmi_dtype_bits(dtype) / 8;
    while (n != 0) {
        const size_t room = PIECE - f->n_out;
        const size_t some = (uint64_t)n < room ? (size_t)n : room;
        const uint8_t *from =
            f->data + (uint64_t)begin / f->type->n_elements * f->type->n_bytes;
        uint8_t *to = f->out + f->n_out * size;
        if (f->type->dtype == dtype) {
            memcpy(to, from, some * size);
        } else {
            qmi_gguf_decode(f->type, f->wide, from, some);
            qmi_narrow(to, f->wide, dtype, some);
        }
        f->n_out += some;
        begin += (int64_t)some;
        n -= (int64_t)some;
        if (f->n_out == PIECE)
            QMI_TRY(flush(f));
    }
    return QMOE_OK;
}

/* Row r of a head of n rows is in the first half or in the second; in the file
 * the rows of both alternate. */
static int64_t row_in_file(int64_t r, int64_t n)
{
    const int64_t half = n / 2;
    return r < half ? 2 * r : 2 * (r - half) + 1;
}

static qmoe_status put_all(feed *f)
{
    const qmi_gguf_entry *e = f->entry;
    const int64_t n_elements = qmi_gguf_entry_elements(e);
    if (e->n_heads == 0) {
        QMI_TRY(put_run(f, 0, n_elements));
    } else {
        const int64_t n_cols = n_elements / e->shape[0];
        const int64_t n_rows = e->shape[0] / e->n_heads;
        if (n_cols % f->type->n_elements != 0)
            return qmi_fail(f->err, QMOE_E_UNSUPPORTED,
                "tensor '%s': type %s is not supported for it", e->tensor->name,
                f->type->name);
        for (int64_t head = 0; head < e->n_heads; head++)
            for (int64_t row = 0; row < n_rows; row++)
                QMI_TRY(put_run(f,
                    (head * n_rows + row_in_file(row, n_rows)) * n_cols,
                    n_cols));
    }
    return flush(f);
}

qmoe_status qmi_gguf_write_entry(const qmi_gguf_entry *entry,
    const qmi_gguf_source *source, qmi_st_writer *writer, size_t index)
{
    qmi_error *err = source->err;
    const qmi_tensor_file *file = source->files[entry->tensor->file];
    feed f = {.entry = entry,
        .type = qmi_gguf_type_of(file, entry->tensor),
        .writer = writer,
        .index = index,
        .err = err};
    const uint64_t n_bytes = (uint64_t)qmi_gguf_entry_elements(entry) /
                             f.type->n_elements * f.type->n_bytes;
    f.data = entry->tensor->data + (uint64_t)entry->slice * n_bytes;
    QMI_TRY(qmi_tensor_file_fetch(file, f.data, n_bytes, err));
    f.wide = qmi_calloc(PIECE, sizeof *f.wide, "a piece of a tensor", err);
    f.out = qmi_calloc(PIECE, sizeof *f.wide, "a piece of a tensor", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (f.wide != NULL && f.out != NULL) {
        status = put_all(&f);
        if (status == QMOE_E_FORMAT || status == QMOE_E_UNSUPPORTED)
            qmi_error_prefix(err, status, "%s", qmi_tensor_file_path(file));
    }
    qmi_free(f.wide);
    qmi_free(f.out);
    qmi_tensor_file_release(file, f.data, n_bytes);
    return status;
}
