/* SPDX-License-Identifier: Apache-2.0
 * A directory of weights: config.json plus one file or shards with their
 * index, safetensors or PyTorch's.  The same reader serves Hugging Face
 * checkpoints and compressed directories. */
#ifndef QMI_CHECKPOINT_H
#define QMI_CHECKPOINT_H

#include "json.h"
#include "safetensors.h"

typedef struct qmi_checkpoint qmi_checkpoint;

/* Opens config.json and all weight files.  Of model.safetensors, model.safetensors.index.json,
 * pytorch_model.bin and pytorch_model.bin.index.json the first there is counts;
 * others are not looked at.  E_NOT_FOUND names what is missing;
 * E_FORMAT: a broken file, an index that names a missing tensor or shard, a
 * shard name with a path separator, a tensor present in two files. */
qmoe_status qmi_checkpoint_open(
    qmi_checkpoint **out, const char *directory, qmi_error *err);
/* A checkpoint that is in no directory: `file` holds its weights.  `name` stands
 * in errors for the directory and for config.json; `beside` is the directory of
 * the small files.  Takes `config` and `file`, in case of failure too. */
qmoe_status qmi_checkpoint_assemble(qmi_checkpoint **out, const char *name,
    const char *beside, cJSON *config, qmi_tensor_file *file, qmi_error *err);
void qmi_checkpoint_close(qmi_checkpoint *checkpoint);

const char *qmi_checkpoint_directory(const qmi_checkpoint *checkpoint);
/* config.json's path (for error texts) and content. */
const char *qmi_checkpoint_config_path(const qmi_checkpoint *checkpoint);
const cJSON *qmi_checkpoint_config(const qmi_checkpoint *checkpoint);

size_t qmi_checkpoint_file_count(const qmi_checkpoint *checkpoint);
const qmi_tensor_file *qmi_checkpoint_file(
    const qmi_checkpoint *checkpoint, size_t index);

/* NULL when there is none (or no checkpoint).  O(log n). */
const qmi_tensor *qmi_checkpoint_find(
    const qmi_checkpoint *checkpoint, const char *name);
/* Like find; absent is E_FORMAT "<directory>: tensor '<name>' is missing". */
qmoe_status qmi_checkpoint_require(const qmi_checkpoint *checkpoint,
    const qmi_tensor **out, const char *name, qmi_error *err);
/* qmi_tensor_file_fetch and _release on the file that holds the range. */
qmoe_status qmi_checkpoint_fetch(const qmi_checkpoint *checkpoint,
    const void *data, uint64_t n_bytes, qmi_error *err);
void qmi_checkpoint_release(
    const qmi_checkpoint *checkpoint, const void *data, uint64_t n_bytes);
/* Its weights are made up when they are fetched (a file of its kind says so). */
bool qmi_checkpoint_is_generated(const qmi_checkpoint *checkpoint);
/* Path of a file beside the weights, there or not; release with qmi_free.
 * NULL: out of memory. */
const char *qmi_checkpoint_side_directory(const qmi_checkpoint *checkpoint);
char *qmi_checkpoint_beside(
    const qmi_checkpoint *checkpoint, const char *name, qmi_error *err);
/* As fetch, but does nothing for data that can be read where they lie. */
qmoe_status qmi_checkpoint_fetch_view(const qmi_checkpoint *checkpoint,
    const void *data, uint64_t n_bytes, qmi_error *err);
/* Names in files come from anywhere: one that is not plain may lead out of the
 * directory. */
bool qmi_is_plain_name(const char *name);
/* "file.safetensors: tensor 'name'" into text, for error messages. */
void qmi_tensor_where(const qmi_checkpoint *checkpoint, const qmi_tensor *t,
    char *text, size_t capacity);
/* qmi_tensor_file_cut on the file that holds the tensor. */
qmoe_status qmi_checkpoint_cut(qmi_checkpoint *checkpoint, qmi_tensor *out,
    const qmi_tensor *t, const qmi_cut *cut, qmi_error *err);
/* "[2, 3]" into text, which is returned. */
const char *qmi_shape_text(
    char *text, size_t capacity, const int64_t *shape, int rank);
/* E_FORMAT: "file.safetensors: tensor 'name': BF16 [2, 3], expected ...". */
qmoe_status qmi_tensor_wrong(const qmi_checkpoint *checkpoint,
    const qmi_tensor *t, const char *expected, qmi_error *err);

#endif
