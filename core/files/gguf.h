/* SPDX-License-Identifier: Apache-2.0
 * Reader of one GGUF file (versions 2 and 3, little endian): named values and
 * tensors.  Every rule of the format is checked when the file is opened; behind
 * that door counts, offsets and sizes are trusted. */
#ifndef QMI_GGUF_H
#define QMI_GGUF_H

#include "gguf_types.h"
#include "tensor_file.h"

/* Kinds of values, numbered as in the file. */
typedef enum qmi_gguf_kind {
    QMI_GGUF_U8,
    QMI_GGUF_I8,
    QMI_GGUF_U16,
    QMI_GGUF_I16,
    QMI_GGUF_U32,
    QMI_GGUF_I32,
    QMI_GGUF_F32,
    QMI_GGUF_BOOL,
    QMI_GGUF_STRING,
    QMI_GGUF_ARRAY,
    QMI_GGUF_U64,
    QMI_GGUF_I64,
    QMI_GGUF_F64,
    QMI_GGUF_N_KINDS
} qmi_gguf_kind;

/* A value of the file, or the items of an array.  Borrowed. */
typedef struct qmi_gguf_value {
    const char *key;
    bool is_array;
    qmi_gguf_kind kind; /* of the value or of each item; never ARRAY */
    uint64_t n;         /* items; 1 for a value that is no array */
    const uint8_t *data;
} qmi_gguf_value;

/* Bytes of a text in the file, not NUL-terminated; any bytes. */
typedef struct qmi_gguf_text {
    const char *bytes;
    uint64_t n;
} qmi_gguf_text;

/* Opens and validates `path`.  Tensors have C order (the file lists dimensions
 * from the fastest on).  One of plain numbers has its dtype and shape; another
 * one has dtype U8, and the last dimension counts the bytes of a row.
 * E_FORMAT names file, key or tensor and the rule broken: not GGUF, big endian
 * or of another version; a count, text or array that goes beyond the file; an
 * unknown kind of value; a key or tensor name that is empty, not UTF-8 or has a
 * NUL, or is there twice; more than 4 dimensions; rows that are not whole
 * blocks; general.alignment that is no power of two; tensors that do not follow
 * each other, each at the next multiple of it; more than padding behind the
 * last.  E_UNSUPPORTED names a type of numbers without a decoder, an array of
 * arrays.  Memory use is proportional to the number of values and tensors that
 * the file has room for. */
qmoe_status qmi_gguf_open(
    qmi_tensor_file **out, const char *path, qmi_error *err);
/* For files that qmi_gguf_open opened. */
const qmi_gguf_type *qmi_gguf_type_of(
    const qmi_tensor_file *file, const qmi_tensor *tensor);
size_t qmi_gguf_count(const qmi_tensor_file *file);
/* In order of their keys.  index < count. */
const qmi_gguf_value *qmi_gguf_at(const qmi_tensor_file *file, size_t index);
/* NULL when there is none.  O(log n). */
const qmi_gguf_value *qmi_gguf_find(
    const qmi_tensor_file *file, const char *key);

/* Item i < n as a number; false when it is none of that sort: an integer of any
 * kind in the range, F32 or F64, BOOL. */
bool qmi_gguf_int(const qmi_gguf_value *value, uint64_t i, int64_t *out);
bool qmi_gguf_real(const qmi_gguf_value *value, uint64_t i, double *out);
bool qmi_gguf_bool(const qmi_gguf_value *value, uint64_t i, bool *out);
/* Walks the texts of a value of kind STRING: begin with *at = value->data, call
 * n times. */
qmi_gguf_text qmi_gguf_next_text(const uint8_t **at);

#endif
