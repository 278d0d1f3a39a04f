/* SPDX-License-Identifier: Apache-2.0
 * A file of tensors, whatever its container: what a checkpoint is made of.
 * A container (safetensors.h, ...) checks every rule of its format when the
 * file is opened; behind that door offsets and sizes are trusted. */
#ifndef QMI_TENSOR_FILE_H
#define QMI_TENSOR_FILE_H

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
    /* The file holds it in another order, or not at all: `data` is there only
     * once it was fetched. */
    bool is_view;
    uint32_t file; /* index within the checkpoint that holds the file */
} qmi_tensor;

typedef struct qmi_tensor_file qmi_tensor_file;

/* What containers differ in once a file is open. */
typedef struct qmi_container {
    /* qmi_tensor_file_fetch on what is not in `views` of the file. */
    qmoe_status (*fetch)(const qmi_tensor_file *file, const void *data,
        uint64_t n_bytes, qmi_error *err);
    /* qmi_tensor_file_release; NULL: a paging hint is all. */
    void (*release)(
        const qmi_tensor_file *file, const void *data, uint64_t n_bytes);
    /* Whether the address lies in a tensor with is_view that is not in `views`;
     * NULL: there is no such tensor. */
    bool (*holds_view)(const qmi_tensor_file *file, const void *data);
    /* Frees `own`; NULL when there is nothing. */
    void (*close)(qmi_tensor_file *file);
    /* There is no data before it is fetched. */
    bool is_generated;
} qmi_container;

typedef struct qmi_string_pair {
    const char *key, *value;
} qmi_string_pair;

/* Filled by the container that opens the file; everybody else reads it by the
 * functions below. */
struct qmi_tensor_file {
    const qmi_container *container;
    char *path;
    qmi_map map;         /* holds the data of every tensor but views */
    qmi_tensor *tensors; /* [n_tensors], qmi_calloc, in order of their data */
    size_t n_tensors;
    qmi_string_pair *metadata; /* [n_metadata], qmi_calloc */
    size_t n_metadata;
    uint64_t header_hash;    /* of all that is not tensor data */
    void *own;               /* the container's */
    struct qmi_views *views; /* tensors and cuts of other order (views.h) */
    struct qmi_text_block *texts;
    const qmi_tensor **by_name;
};

/* ---- for containers ---- */

qmoe_status qmi_tensor_file_create(qmi_tensor_file **out,
    const qmi_container *container, const char *path, qmi_error *err);
/* A copy of `text` that lives as long as the file; NULL: out of memory. */
const char *qmi_tensor_file_keep(
    qmi_tensor_file *file, const char *text, qmi_error *err);
/* Once tensors and metadata are complete: makes find and metadata work.
 * E_FORMAT: a name or a key occurs twice. */
qmoe_status qmi_tensor_file_index(qmi_tensor_file *file, qmi_error *err);
/* Adds an empty list of views, which the file owns; only for containers whose
 * map is the file itself. */
qmoe_status qmi_tensor_file_add_views(
    qmi_tensor_file *file, struct qmi_views **out, qmi_error *err);
/* The `fetch` of containers whose map is the file itself: reads the range by
 * system calls. */
qmoe_status qmi_tensor_file_read(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_error *err);

/* ---- for everybody ---- */

void qmi_tensor_file_close(qmi_tensor_file *file);
const char *qmi_tensor_file_path(const qmi_tensor_file *file);
size_t qmi_tensor_file_count(const qmi_tensor_file *file);
/* In file order (by offset).  index < count. */
const qmi_tensor *qmi_tensor_file_at(const qmi_tensor_file *file, size_t index);
/* NULL when there is none of that name.  O(log n). */
const qmi_tensor *qmi_tensor_file_find(
    const qmi_tensor_file *file, const char *name);
/* Value of a metadata key; NULL when absent.  O(log n). */
const char *qmi_tensor_file_metadata(
    const qmi_tensor_file *file, const char *key);
/* Identifies everything but the data: for safetensors XXH3-64 over the 8
 * length bytes and the header text as stored. */
uint64_t qmi_tensor_file_header_hash(const qmi_tensor_file *file);
uint64_t qmi_tensor_file_bytes(const qmi_tensor_file *file);
/* Makes the mapped range [data, data + n_bytes) of the file ready for use
 * without page faults: read by system calls, so that a disk error or a file
 * cut short since it was opened is an error (E_IO) and not a signal.  Puts a
 * view in order, all of it; must precede any reading of one.  Any thread.
 * E_INVALID: not a range of this file. */
qmoe_status qmi_tensor_file_fetch(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_error *err);
bool qmi_tensor_file_holds(const qmi_tensor_file *file, const void *data);
bool qmi_tensor_file_holds_view(const qmi_tensor_file *file, const void *data);
/* The range will not be needed soon.  A view must be fetched again then, and
 * nobody may be reading it. */
void qmi_tensor_file_release(
    const qmi_tensor_file *file, const void *data, uint64_t n_bytes);

/* Shows the range to `visit` from front to back in pieces, read as by fetch but
 * through a small buffer: no page of the map becomes resident.  Any thread.
 * Ends with the first failure of `visit`. */
typedef qmoe_status (*qmi_piece_fn)(
    void *user, const void *piece, size_t n_bytes);
qmoe_status qmi_tensor_file_stream(const qmi_tensor_file *file,
    const void *data, uint64_t n_bytes, qmi_piece_fn visit, void *user,
    qmi_error *err);
/* The same for the whole file as it is on disk, whatever its container; not
 * for one that is generated. */
qmoe_status qmi_tensor_file_stream_all(const qmi_tensor_file *file,
    qmi_piece_fn visit, void *user, qmi_error *err);
/* As release; and what the system keeps of the file in its cache goes, too. */
void qmi_tensor_file_forget(
    const qmi_tensor_file *file, const void *data, uint64_t n_bytes);

/* Matrices that lie side by side in a tensor of three dimensions, one for each
 * index of the first. */
typedef struct qmi_cut {
    int64_t n_rows, n_cols; /* of a matrix */
    int64_t row;            /* its first among the rows stored */
    bool is_transposed;     /* stored as columns of rows */
} qmi_cut;
/* Fills out[shape[0]] with the matrices of `t`, a tensor of this file, no view,
 * of whole bytes per element and shape [n, rows, n_cols] or, transposed,
 * [n, n_cols, rows], where rows >= row + n_rows.  Each matrix is a tensor in C
 * order with the name of `t`: in the map where it lies so there, else a view.
 * Not while another thread uses the file. */
qmoe_status qmi_tensor_file_cut(qmi_tensor_file *file, qmi_tensor *out,
    const qmi_tensor *t, const qmi_cut *cut, qmi_error *err);

/* Sets `file` of every tensor; for the checkpoint that owns `file`. */
void qmi_tensor_file_set_index(qmi_tensor_file *file, uint32_t index);

#endif
