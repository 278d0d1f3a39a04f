/* SPDX-License-Identifier: Apache-2.0
 * The weights of a Hugging Face checkpoint: shards
 * "model-0000k-of-0000n.safetensors" and their index. */
#ifndef QMI_SHARDS_H
#define QMI_SHARDS_H

#include "output_directory.h"
#include "safetensors_writer.h"
#include "tensor_file.h"

/* A tensor to write.  `name` may point to `text`. */
typedef struct qmi_shard_tensor {
    const char *name;
    char text[640];
    qmi_dtype dtype;
    int rank;
    int64_t shape[QMI_MAX_RANK];
} qmi_shard_tensor;

/* Tensors 0 to n - 1, written in this order. */
typedef struct qmi_shard_list {
    size_t n;
    uint64_t shard_bytes; /* of data in a shard at most; 0: 5 GB */
    void (*describe)(const void *user, size_t i, qmi_shard_tensor *out);
    /* Writes the data of tensors [first, last), which are 0, 1, ... of
     * `writer`. */
    qmoe_status (*write)(
        void *user, size_t first, size_t last, qmi_st_writer *writer);
    void *user;
} qmi_shard_list;

typedef struct qmi_shard_report {
    uint64_t n_files, n_bytes;
} qmi_shard_report;

/* E_NO_SPACE, E_IO, those of `write`. */
qmoe_status qmi_shards_write(const qmi_shard_list *list, qmi_output *output,
    qmi_shard_report *report, qmi_error *err);

#endif
