/* SPDX-License-Identifier: Apache-2.0
 * Generated weights: host storage of a format together with the values it
 * must decode to, which the generator knows without decoding.  Adding a format
 * is a line of the table in weights.c and a function that stores it. */
#ifndef QMOE_CHECK_WEIGHTS_H
#define QMOE_CHECK_WEIGHTS_H

#include "inputs.h"
#include "weight.h"

typedef enum weight_layout {
    LAYOUT_ALIGNED,
    LAYOUT_ODD,       /* every part starts at an odd address */
    LAYOUT_SCATTERED, /* dense: one block per matrix; else like ODD */
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
    void **blocks; /* storage to release */
    size_t n_blocks;
} gen_weight;

struct weight_kind {
    const char *name; /* as in the format table of core/weight.c */
    bool dense;
    /* Fills parts and values of a weight whose shape is set. */
    void (*store)(gen_weight *w, const weight_request *request, rng *r);
    /* Breaks the payload of matrix 0 as a damaged file might; NULL: the format
     * has no invalid payload. */
    void (*corrupt)(gen_weight *w);
};

/* Table order; NULL past the end. */
const weight_kind *weight_kind_at(size_t index);
size_t weight_kind_count(void);

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

/* Store functions of formats with a file of their own. */
void store_pvq(gen_weight *w, const weight_request *request, rng *r);
void store_pvq8(gen_weight *w, const weight_request *request, rng *r);
void corrupt_pvq(gen_weight *w);

/* Zeroed memory; ends the program when there is none. */
void *check_calloc(size_t n, size_t size);

#endif
