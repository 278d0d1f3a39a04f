/* SPDX-License-Identifier: Apache-2.0
 * A model in GGUF: one file, or the parts of a split one.  Values are those of
 * the first part.  Errors name file and key. */
#ifndef QMI_GGUF_SOURCE_H
#define QMI_GGUF_SOURCE_H

#include "gguf.h"

typedef struct qmi_gguf_source {
    qmi_tensor_file **files; /* [n_files]; qmi_tensor.file is the index */
    size_t n_files;
    bool **is_used; /* [n_files][tensors of the file] */
    char *arch;     /* general.architecture */
    qmi_error *err;
} qmi_gguf_source;

/* Opens the file or, if it is the first part of a split one
 * ("-00001-of-00003.gguf", split.count), all parts.  Close it in any case.
 * Errors of qmi_gguf_open; E_FORMAT: parts that do not belong together. */
qmoe_status qmi_gguf_source_open(
    qmi_gguf_source *out, const char *path, qmi_error *err);
void qmi_gguf_source_close(qmi_gguf_source *source);
const char *qmi_gguf_source_path(const qmi_gguf_source *source);

/* NULL when there is none. */
const qmi_tensor *qmi_gguf_source_find(
    const qmi_gguf_source *source, const char *name);
/* Notes that the tensor becomes part of the result. */
void qmi_gguf_source_use(qmi_gguf_source *source, const qmi_tensor *tensor);
/* E_UNSUPPORTED names a tensor that was not used. */
qmoe_status qmi_gguf_source_check_used(const qmi_gguf_source *source);
/* The tensor's shape in elements, C order. */
void qmi_gguf_source_shape(const qmi_gguf_source *source,
    const qmi_tensor *tensor, int64_t shape[QMI_MAX_RANK]);

/* Values by key; "*.x" stands for "<architecture>.x".  A key that is not there
 * leaves *out as it is.  E_FORMAT: another kind of value, or out of range.  An
 * array counts as one number when all its items are equal; E_UNSUPPORTED when
 * they are not. */
const qmi_gguf_value *qmi_gguf_source_value(
    const qmi_gguf_source *source, const char *key);
qmoe_status qmi_gguf_source_int(const qmi_gguf_source *source, const char *key,
    int64_t low, int64_t high, int64_t *out);
/* Like int, but the key must be there. */
qmoe_status qmi_gguf_source_require_int(const qmi_gguf_source *source,
    const char *key, int64_t low, int64_t high, int64_t *out);
/* Finite.  Of an f32 it is the shortest decimal that stands for it. */
qmoe_status qmi_gguf_source_real(
    const qmi_gguf_source *source, const char *key, double *out);
qmoe_status qmi_gguf_source_bool(
    const qmi_gguf_source *source, const char *key, bool *out);
/* *out: a text without NUL in UTF-8 (qmi_free), or NULL: no such key. */
qmoe_status qmi_gguf_source_text(
    const qmi_gguf_source *source, const char *key, char **out);
/* An array of n items of the kind, or NULL: no such key.  E_FORMAT. */
qmoe_status qmi_gguf_source_array(
    const qmi_gguf_source *source, const char *key, const qmi_gguf_value **out);
/* A copy of the bytes as a text (qmi_free). E_FORMAT: a NUL, not UTF-8. */
qmoe_status qmi_gguf_source_copy(const qmi_gguf_source *source,
    const char *what, qmi_gguf_text text, char **out);

#endif
