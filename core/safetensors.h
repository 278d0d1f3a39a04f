/* SPDX-License-Identifier: Apache-2.0
 * Reader of one safetensors file.  Every rule of the format is checked when
 * the file is opened; behind that door offsets and sizes are trusted. */
#ifndef QMI_SAFETENSORS_H
#define QMI_SAFETENSORS_H

#include "dtype.h"
#include "error.h"
#include "map.h"

enum { QMI_MAX_RANK = 8 };

/* One tensor of an open file.  Borrowed: valid until the file is closed. */
typedef struct qmi_tensor {
    const char *name;
    qmi_dtype dtype;
    int rank;
    int64_t shape[QMI_MAX_RANK];
    const uint8_t *data; /* C order, little endian, any alignment */
    uint64_t n_bytes;
    uint32_t file; /* index within the checkpoint that holds the file */
} qmi_tensor;

typedef struct qmi_safetensors qmi_safetensors;

/* Opens and validates `path`.  Errors name file, tensor and the rule broken:
 * file shorter than 8 bytes; header length above 100,000,000 or beyond the
 * file; header not UTF-8, not a JSON object, duplicate names; an entry without
 * exactly {dtype, shape, data_offsets}; unknown dtype; rank above 8; a number
 * that is not a non-negative integer below 2^53; element count or byte count
 * overflowing or not a whole number of bytes; end < begin; size of the range
 * not the size of the shape; ranges that do not tile the data area from 0
 * without gap or overlap; file longer or shorter than the header says;
 * __metadata__ that is not a map of strings.  Memory use is proportional to
 * the number of tensors, whatever the header claims. */
qmoe_status qmi_safetensors_open(
    qmi_safetensors **out, const char *path, qmi_error *err);
void qmi_safetensors_close(qmi_safetensors *file);

const char *qmi_safetensors_path(const qmi_safetensors *file);
size_t qmi_safetensors_count(const qmi_safetensors *file);
/* In file order (by offset).  index < count. */
const qmi_tensor *qmi_safetensors_at(const qmi_safetensors *file, size_t index);
/* NULL when there is none of that name.  O(log n). */
const qmi_tensor *qmi_safetensors_find(
    const qmi_safetensors *file, const char *name);
/* Value of a __metadata__ key; NULL when absent.  O(log n). */
const char *qmi_safetensors_metadata(
    const qmi_safetensors *file, const char *key);
/* XXH3-64 over the 8 length bytes and the header text as stored. */
uint64_t qmi_safetensors_header_hash(const qmi_safetensors *file);
uint64_t qmi_safetensors_file_bytes(const qmi_safetensors *file);
/* Reads the mapped range [data, data + n_bytes) of the file by system calls,
 * so that a disk error or a file cut short since it was opened is an error
 * (E_IO) and not a signal, and so that the pages are in memory when they are
 * used.  E_INVALID: not a range of this file. */
qmoe_status qmi_safetensors_fetch(const qmi_safetensors *file, const void *data,
    uint64_t n_bytes, qmi_error *err);
/* The whole file, and whether it holds an address. */
const qmi_map *qmi_safetensors_map(const qmi_safetensors *file);
bool qmi_safetensors_holds(const qmi_safetensors *file, const void *data);

/* Sets `file` of every tensor; for the checkpoint that owns `file`. */
void qmi_safetensors_set_index(qmi_safetensors *file, uint32_t index);

#endif
