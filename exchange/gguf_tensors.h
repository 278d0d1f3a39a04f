/* SPDX-License-Identifier: Apache-2.0
 * The tensors of a checkpoint, and where each is in a GGUF file. */
#ifndef QMI_GGUF_TENSORS_H
#define QMI_GGUF_TENSORS_H

#include "gguf_model.h"
#include "safetensors_writer.h"

/* One tensor to write: a tensor of the file, or matrix `slice` of one that
 * holds one matrix or two for each expert. */
typedef struct qmi_gguf_entry {
    char name[96];
    const qmi_tensor *tensor;
    int rank;
    int64_t shape[2];
    int64_t slice;
    int64_t n_heads; /* whose rows are put back in order; 0: rows stay */
    qmi_dtype dtype; /* to write */
} qmi_gguf_entry;

typedef struct qmi_gguf_entries {
    qmi_gguf_entry *list; /* [n], qmi_free */
    size_t n, capacity;
} qmi_gguf_entries;

/* Lists what a model of these sizes has, and notes every tensor as used.
 * `dtype`: of every entry; QMI_DTYPE_COUNT: plain numbers keep theirs, others
 * become F32.  E_FORMAT names a tensor that is missing or has another shape;
 * E_UNSUPPORTED one that is left over. */
qmoe_status qmi_gguf_list(qmi_gguf_entries *out, const qmi_gguf_model *model,
    qmi_gguf_source *source, qmi_dtype dtype);
/* Elements of an entry. */
int64_t qmi_gguf_entry_elements(const qmi_gguf_entry *entry);
/* Reads, decodes and writes one entry as tensor `index` of the writer.  Memory
 * is a piece, not the tensor.  E_FORMAT: a number that is not finite; E_IO,
 * E_NO_SPACE, E_CANCELLED. */
qmoe_status qmi_gguf_write_entry(const qmi_gguf_entry *entry,
    const qmi_gguf_source *source, qmi_st_writer *writer, size_t index);

#endif
