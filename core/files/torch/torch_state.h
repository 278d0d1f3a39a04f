/* SPDX-License-Identifier: Apache-2.0
 * What is left of a pickled state dict when its pickle has run. */
#ifndef QMI_TORCH_STATE_H
#define QMI_TORCH_STATE_H

#include "dtype.h"
#include "error.h"

enum { QMI_PICKLE_MAX_RANK = 8, QMI_PICKLE_MAX_STRING = 4096 };

/* A piece of the pickle's text; not NUL-terminated. */
typedef struct qmi_slice {
    const char *text;
    uint32_t n_bytes;
} qmi_slice;

typedef struct qmi_pickle_storage {
    qmi_slice key; /* the member "data/<key>" */
    qmi_dtype dtype;
    bool untyped;        /* n_elements counts bytes; the tensor has a dtype */
    uint64_t n_elements; /* as claimed */
} qmi_pickle_storage;

typedef struct qmi_pickle_tensor {
    uint32_t storage;
    qmi_dtype dtype;
    int rank;
    uint64_t offset;                       /* elements */
    uint64_t shape[QMI_PICKLE_MAX_RANK];   /* elements */
    uint64_t strides[QMI_PICKLE_MAX_RANK]; /* elements */
} qmi_pickle_tensor;

/* One item of the dict: a tensor, or (tensor NULL) an integer. */
typedef struct qmi_pickle_item {
    qmi_slice name;
    const qmi_pickle_tensor *tensor;
    int64_t integer;
} qmi_pickle_item;

typedef struct qmi_pickle {
    qmi_pickle_item *items; /* in order of appearance */
    size_t n_items;
    qmi_pickle_storage *storages;
    size_t n_storages;
    qmi_pickle_tensor *tensors;
    size_t n_tensors;
} qmi_pickle;

#endif
