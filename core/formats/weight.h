/* SPDX-License-Identifier: Apache-2.0
 * Weights and their formats.  A weight is a stack of n_mats equally shaped
 * matrices [n_rows, n_cols] (row = output feature) in one format; a plain
 * matrix is a stack of one, a vector a matrix of one row.  A format is a file
 * and a line of format_ids.h: what others must know of it are its traits. */
#ifndef QMI_WEIGHT_H
#define QMI_WEIGHT_H

#include <stdatomic.h>

#include "dtype.h"
#include "error.h"
#include "format_ids.h"

enum { QMI_MAX_PARTS = 4 };

typedef struct qmi_format qmi_format;

/* One array of a format's storage, over all matrices of the stack. */
typedef struct qmi_part {
    const void *data; /* in the file map, any alignment */
    uint64_t n_bytes;
} qmi_part;

typedef struct qmi_weight {
    const qmi_format *format;
    const char *name; /* owned by the model; for errors and inspect */
    qmoe_role role;
    int64_t n_mats, n_rows, n_cols;
    qmi_part parts[QMI_MAX_PARTS];
    /* Dense stacks whose matrices are scattered over files (one pointer per
     * matrix); NULL when part 0 holds them back to back. */
    const void **mats;
    /* Parameters of the stack, which its format reads from config.json
     * (`configure`; docs/format.md). */
    void *codebook; /* the format's own; NULL: its standard one, or none */
    /* Columns per block of the Hadamard rotation under which rows are stored;
     * 0 = none.  Plain decode undoes it; kernels rotate activations. */
    int32_t rotation;
    uint32_t rotation_seed; /* of the signs before the transform */
    /* One byte per matrix: payload validated.  NULL when the format needs no
     * payload check.  Written by qmi_weight_check only. */
    _Atomic(uint8_t) *checked;
    /* Dense weights of which some matrix lies in another order in its file:
     * makes `n_bytes` at `data` ready to be read, on the file `owner`; called by
     * qmi_weight_check.  NULL: the data are there. */
    qmoe_status (*fetch)(
        const void *owner, const void *data, uint64_t n_bytes, qmi_error *err);
    const void *owner;
    /* Of a stack: the pattern of its matrices' names in an uncompressed
     * checkpoint (expert_names.h), owned by the model. */
    const char *source;
    /* The name of the tensor of this checkpoint that holds all its matrices,
     * and perhaps those of another stack; NULL: each has its own.  Borrowed. */
    const char *fused;
} qmi_weight;

/* How one stored array of a format is laid out. */
typedef struct qmi_part_spec {
    const char *suffix; /* tensor name = weight name + "." + suffix */
    qmi_dtype dtype;
    /* Writes the shape for the stack; -1 = set by the data.  Returns rank. */
    int (*shape)(
        int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols);
} qmi_part_spec;

/* The members of a stack's entry of config.json beside format and shape, as a
 * format reads them: what holds them is no matter of formats. */
typedef struct qmi_parameters qmi_parameters;
struct qmi_parameters {
    const char *file; /* for errors, which begin with it */
    const void *entry;
    /* *value stays when there is no such member.  E_FORMAT: it is no number;
     * no whole number of least..most. */
    qmoe_status (*number)(const qmi_parameters *p, double *value,
        const char *key, qmi_error *err);
    qmoe_status (*integer)(const qmi_parameters *p, int64_t *value,
        const char *key, int64_t least, int64_t most, qmi_error *err);
    /* Weights of the model that were configured before: parameters may be
     * shared with them. */
    const qmi_weight *others;
    size_t n_others;
};
/* Adds a member to such an entry; false: out of memory. */
typedef bool qmi_put_parameter(void *entry, const char *key, double value);

struct qmi_format {
    qmi_format_id id; /* index of backends' tables; QMI_N_FORMATS: in none */
    const char *name; /* as in config.json and on the command line */
    /* A few words for help texts on what is stored; NULL for dense formats. */
    const char *summary;
    bool dense;      /* bf16, f16, f32: one element per weight */
    qmi_dtype dtype; /* of dense formats */
    bool ternary;    /* rows hold at most three values {low, 0, high} */
    /* Variable length: one part holds n_mats + 1 running counts of elements of
     * another, whose size they set. */
    bool variable;
    int offsets_part, variable_part; /* when variable */
    bool rotates;          /* rows may be stored rotated (rotation.h) */
    bool needs_dictionary; /* decodes by qmi_weight.codebook */
    /* Makes one for weights of which the share p0 is zero.  Release with
     * qmi_free.  NULL when !needs_dictionary. */
    qmoe_status (*make_codebook)(void **out, double p0, qmi_error *err);
    int n_parts; /* 1 for dense formats, whose part has no suffix */
    qmi_part_spec parts[QMI_MAX_PARTS];
    /* Reads the parameters of a stack whose name and shape are set, before its
     * parts are; `release` frees what it kept, after failure too.  `record` adds
     * what `configure` will read.  All NULL: there are no parameters. */
    qmoe_status (*configure)(
        qmi_weight *w, const qmi_parameters *from, qmi_error *err);
    void (*release)(qmi_weight *w); /* NULL: nothing is kept */
    bool (*record)(const qmi_weight *w, qmi_put_parameter *put, void *entry);
    /* Checks what concerns the whole stack and costs O(n_mats) at most (sizes
     * of variable parts, offsets between matrices).  Run when opened. */
    qmoe_status (*open)(const qmi_weight *w, qmi_error *err);
    /* Checks the untrusted payload of one matrix so that every decoder of the
     * format is memory-safe on it afterwards, and gives finite weights.  NULL:
     * any payload is valid. */
    qmoe_status (*check)(const qmi_weight *w, int64_t mat, qmi_error *err);
    /* Plain decode of rows [row, row + n) of a checked matrix to f32
     * dst [n, n_cols]. */
    void (*decode)(
        const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst);
};

/* All formats in the order of format_ids.h, NULL at the end (format_table.c). */
extern const qmi_format *const qmi_formats[];
/* NULL when unknown. */
const qmi_format *qmi_format_find(const char *name);
const qmi_format *qmi_format_dense(qmi_dtype dtype);
/* Table order; NULL past the end. */
const qmi_format *qmi_format_at(size_t index);

/* Bytes that a stack of these dimensions takes in a format, saturating at
 * UINT64_MAX; exact but for the variable part of variable formats, which counts
 * `variable_bits` per weight. */
uint64_t qmi_stack_size(const qmi_format *format, int64_t n_mats,
    int64_t n_rows, int64_t n_cols, double variable_bits);

/* Bytes of part `part` that belong to matrices [mat, mat + n) of an open stack.
 * Empty for the offsets of a variable format, which belong to the stack.  Data
 * NULL: the matrices are scattered, and n is not 1. */
qmi_part qmi_matrix_range(
    const qmi_weight *w, int part, int64_t mat, int64_t n);
/* Of one matrix of a dense weight. */
uint64_t qmi_dense_bytes(const qmi_weight *w);

/* Pointer to dense matrix `mat`: n_rows * n_cols elements, any alignment. */
const void *qmi_weight_dense(const qmi_weight *w, int64_t mat);

/* Validates the payload of `mat` unless that was done before, and has it put
 * in order where its file holds it otherwise: must precede every use of the
 * data.  Thread-safe; cheap when already done.  The error names weight and matrix. */
qmoe_status qmi_weight_check(const qmi_weight *w, int64_t mat, qmi_error *err);
/* For `open` of a format: part `part` must have `expected` bytes.  `fits` false:
 * that does not fit 64 bits, so no file can have it.  E_FORMAT names the tensor
 * and the shape. */
qmoe_status qmi_weight_check_size(const qmi_weight *w, int part, bool fits,
    uint64_t expected, qmi_error *err);
/* `open` of a format whose parts have the sizes of their specs: all of them. */
qmoe_status qmi_weight_check_sizes(const qmi_weight *w, qmi_error *err);

/* Frees what the format keeps for the stack (`configure`). */
void qmi_weight_release(qmi_weight *w);
/* Adds the parameters of a stack to its entry; false: out of memory. */
bool qmi_weight_record(
    const qmi_weight *w, qmi_put_parameter *put, void *entry);

/* Bytes of all parts. */
uint64_t qmi_weight_bytes(const qmi_weight *w);

/* Decodes rows to f32 (check first). */
void qmi_weight_decode(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst);

#endif
