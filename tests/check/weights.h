/* SPDX-License-Identifier: Apache-2.0
 * Generated weights: host storage of a format together with the values it
 * must decode to, which the generator knows without decoding.  Adding a format
 * is a line of weight_kinds.c and a function that stores it. */
#ifndef QMOE_CHECK_WEIGHTS_H
#define QMOE_CHECK_WEIGHTS_H

#include "inputs.h"
#include "backend.h"
#include "weight.h"

typedef enum weight_layout {
    LAYOUT_ALIGNED,
    LAYOUT_ODD,       /* every part starts at an odd address */
    LAYOUT_SCATTERED, /* dense: one block per matrix; else like ODD */
    LAYOUT_SHARED,    /* dense: one block for all, equal matrices; else ODD */
    LAYOUT_COUNT
} weight_layout;

const char *weight_layout_name(weight_layout layout);

typedef struct weight_kind weight_kind;

typedef struct weight_request {
    const weight_kind *kind;
    weight_layout layout;
    value_kind values;
    int64_t n_mats, n_rows, n_cols;
} weight_request;

typedef struct gen_weight {
    qmi_weight host;
    float *values; /* [n_mats, n_rows, n_cols] */
    float *stored; /* the same as stored, when that is rotated; else NULL */
    float *cols;   /* [n_mats, n_cols] scales of columns, or NULL */
    void **blocks; /* storage to release */
    size_t n_blocks;
} gen_weight;

struct weight_kind {
    const char *name;
    const char *format; /* as in the table of formats */
    bool dense;
    int32_t rotation; /* 0: none */
    /* Fills parts and values of a weight whose shape is set. */
    void (*store)(gen_weight *w, const weight_request *request, rng *r);
    /* Breaks the payload of matrix 0 as a damaged file might; NULL: the format
     * has no invalid payload. */
    void (*corrupt)(gen_weight *w);
    unsigned traits;
};

/* Traits. */
enum {
    KIND_FEW = 1,      /* takes a part of the cases: weight_kind_takes */
    KIND_OPTIONAL = 2, /* a backend may have no kernels for the format */
    KIND_ROUNDED = 4   /* variants may round inputs (qmi_inputs) */
};

/* All of them, one without a name at the end (weight_kinds.c). */
extern const weight_kind weight_kinds[];
/* Table order; NULL past the end. */
const weight_kind *weight_kind_at(size_t index);
size_t weight_kind_count(void);
/* Whether the kind number `k` is to meet case `i` of an operation: those of
 * few cases share them. */
bool weight_kind_takes(size_t k, size_t i);

/* Generates, then makes sure that the library's own open, check and decode
 * agree with the generated values bit by bit.  Release with weight_destroy. */
gen_weight *weight_create(
    const weight_request *request, rng *r, qmi_error *err);
void weight_destroy(gen_weight *w);
/* The same weight in storage of its own, for timing. */
gen_weight *weight_clone(const gen_weight *w);

/* Of all stored bytes, to see whether someone wrote to them. */
uint64_t weight_hash(const gen_weight *w);
/* Forgets which matrices were validated: a backend must do that itself. */
void weight_forget_checks(gen_weight *w);

/* For the store functions: copies n_bytes into a block of exactly that size
 * (plus one byte before it when `odd`) owned by `w`. */
void *weight_place(gen_weight *w, const void *bytes, size_t n_bytes, bool odd);

/* What the lines of weight_kinds.c name. */
void store_bf16(gen_weight *w, const weight_request *request, rng *r);
void store_f16(gen_weight *w, const weight_request *request, rng *r);
void store_f32(gen_weight *w, const weight_request *request, rng *r);
void store_ternary_dict(gen_weight *w, const weight_request *request, rng *r);
void corrupt_ternary_dict(gen_weight *w);
void store_pvq(gen_weight *w, const weight_request *request, rng *r);
void store_pvq8(gen_weight *w, const weight_request *request, rng *r);
void corrupt_pvq(gen_weight *w);
void store_q2(gen_weight *w, const weight_request *request, rng *r);
void corrupt_q2(gen_weight *w);
void store_tlut(gen_weight *w, const weight_request *request, rng *r);
void corrupt_tlut(gen_weight *w);
void store_int8(gen_weight *w, const weight_request *request, rng *r);
void corrupt_int8(gen_weight *w);

/* ---- rotated weights (weights_rotation.c) ---- */

/* The row that the stored `row` of a rotated weight stands for, in place. */
void rotate_back(float *row, const qmi_weight *w);
/* x [n_tokens, n_cols] as stored rows meet it: rotated if they are.  To be
 * freed. */
float *stored_x(const gen_weight *w, const float *x, int64_t n_tokens);
/* Row `row` of all matrices as stored, but for the code. */
const float *stored_row(const gen_weight *w, int64_t row);

/* How far a product of row `row` with x [n_cols] may be off because the
 * variant rotates x and the reference rotates the row back, both in float32:
 * in units of the roundoff, and of the smallest normal number.  Zero when not
 * rotated (docs/numerics.md). */
typedef struct rotation_error {
    double roundings, flushed;
} rotation_error;
rotation_error rotation_error_of(
    const gen_weight *w, int64_t row, const float *x);
/* How far the product of row `row` with x [n_cols] as stored_x gives it may be
 * off because a variant takes x times the columns' scales as `inputs` says. */
double input_error_of(
    qmi_inputs inputs, const gen_weight *w, int64_t row, const float *x);
/* bound [n_cols] += how far two decoders may differ. */
void add_decode_bound(double *bound, const gen_weight *w, int64_t row);

/* Zeroed memory; ends the program when there is none. */
void *check_calloc(size_t n, size_t size);

#endif
