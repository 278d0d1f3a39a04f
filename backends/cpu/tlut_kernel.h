/* SPDX-License-Identifier: Apache-2.0
 * What the kernels for the formats "tlut-*" share: how x is packed and how a
 * tile of 64 rows is walked.
 *
 * x times the columns' scales is written in digits of 8 bits: with the largest
 * magnitude m of a token,  x = m / 127 (a1 + a2 / 254 + a3 / 254^2 + rest),
 * each digit rounded to nearest, so in [-127, 127].  The digits of a token are
 * its planes, and a product is one of integers per plane, without any rounding.
 * How many digits: docs/numerics.md. */
#ifndef QCPU_TLUT_KERNEL_H
#define QCPU_TLUT_KERNEL_H

#include "matmul.h"
#include "tlut.h"

enum {
    QCPU_TLUT_DIGITS = 3, /* most of a token */
    /* Planes for which a tile is decoded once. */
    QCPU_TLUT_PANEL = 64,
    /* Added to what tables hold, so that weights are unsigned. */
    QCPU_TLUT_OFFSET = 64,
    /* Sums of products of a weight below 128 and a digit fit 32 bits. */
    QCPU_TLUT_MAX_COLS = 1 << 17
};

/* Packed input: planes in panels of QCPU_TLUT_PANEL, each
 * [groups, stride] of four digits, zeros past n_cols. */
typedef struct qcpu_tlut_input {
    int64_t n_planes, stride;
    int64_t *token; /* of each plane */
    float *factor;  /* by which its sums count */
    int32_t *start; /* where they begin: minus the offset of the weights */
    int32_t *digits;
} qcpu_tlut_input;

/* X(name, k, v): the rates as constants for the compiler. */
#define QCPU_TLUT_RATES(X)                                                     \
    X(025, 1, 4)                                                               \
    X(05, 2, 4)                                                                \
    X(075, 3, 4)                                                               \
    X(1, 2, 2)                                                                 \
    X(15, 3, 2)                                                                \
    X(2, 2, 1)                                                                 \
    X(3, 3, 1)                                                                 \
    X(4, 4, 1)

/* How a row of x becomes digits, by an instruction set.  n: a multiple of 16
 * but for `scale`. */
typedef struct qcpu_tlut_digits {
    /* z = x * scales; the bits of the largest magnitude. */
    uint32_t (*scale)(
        float *z, const float *x, const uint8_t *col_scales, int64_t n);
    /* z *= lift * factor; the sum of the squares. */
    float (*fit)(float *z, int64_t n, float lift, float factor);
    /* digit = round(z), z = 254 (z - digit); the sum of the digits. */
    int32_t (*next)(int8_t *digit, float *z, int64_t n);
    /* out[g, i] = four digits of group g of digit i, n_digits <= 3. */
    void (*interleave)(
        int32_t *out, const int32_t *const *digits, int n_digits, int64_t n);
} qcpu_tlut_digits;

/* Takes the weight, and by its rate inputs of such a precision: coarse digits
 * are little beside the error of a coarse code. */
bool qcpu_tlut_takes_int8(const qmi_weight *w);  /* below one bit */
bool qcpu_tlut_takes_int16(const qmi_weight *w); /* one or two bits */
bool qcpu_tlut_takes(const qmi_weight *w);
int64_t qcpu_tlut_tile_rows(const qmi_weight *w);
size_t qcpu_tlut_packed_bytes(const qmi_weight *w, int64_t n_tokens);
void qcpu_tlut_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens, const qcpu_tlut_digits *digits, qmi_inputs inputs);

/* Planes of one panel. */
typedef struct qcpu_tlut_planes {
    const int32_t *digits; /* [groups, stride] */
    const int32_t *start;
    int64_t stride;
    int n;
} qcpu_tlut_planes;

/* sums i32 [planes, 64] of one tile of codes, rows in their order.  decoded:
 * QCPU_TLUT_DECODED bytes, 64-byte aligned. */
typedef void (*qcpu_tlut_tile_fn)(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded);
/* The run slot of a kernel made of such a function. */
void qcpu_tlut_run(
    float *y, const qcpu_tile *tile, void *scratch, qcpu_tlut_tile_fn fn);
size_t qcpu_tlut_tile_scratch(const qmi_weight *w, int64_t n_tokens);

/* Groups that are decoded at a time for many planes. */
enum {
    QCPU_TLUT_BLOCK = 128,
    QCPU_TLUT_GROUP_WEIGHTS = QMI_TLUT_TILE * QMI_TLUT_GROUP,
    QCPU_TLUT_DECODED = QCPU_TLUT_BLOCK * QCPU_TLUT_GROUP_WEIGHTS
};

/* ---- decoded block by block ---- */

/* Decodes n groups of codes: weights in bytes, QCPU_TLUT_OFFSET added, by
 * places; how columns lie is the kernel's own. */
typedef void (*qcpu_tlut_decode_fn)(uint8_t *decoded, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups);
/* sums i32 [64] += decoded weights times one plane's digits, which are `stride`
 * apart. */
typedef void (*qcpu_tlut_multiply_fn)(int32_t *sums, const uint8_t *decoded,
    int64_t n_groups, const int32_t *digits, int64_t stride);
/* A qcpu_tlut_tile_fn of both. */
void qcpu_tlut_blocks(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded, qcpu_tlut_decode_fn decode,
    qcpu_tlut_multiply_fn multiply);

/* The place of the row of value j of a step: four steps, a unit, lie side by
 * side for each j. */
static inline int qcpu_tlut_place(int step, int j, int v)
{
    return 4 * (step / 4 * v + j) + step % 4;
}

enum { QCPU_TLUT_MAX_UNITS = 16 };

/* How units are taken from a group.  A pair of steps lies in two bytes of a
 * string; those of four columns and two pairs, from two words that follow each
 * other, are eight 16-bit lanes. */
typedef struct qcpu_tlut_units {
    int n_units;
    uint8_t values[4][64];                  /* of row j; the offset added */
    int word[QCPU_TLUT_MAX_UNITS];          /* the first of the two */
    uint8_t pairs[QCPU_TLUT_MAX_UNITS][16]; /* which bytes of both */
    /* By lane: the bit of the pair's first window. */
    int16_t bit[QCPU_TLUT_MAX_UNITS][8];
} qcpu_tlut_units;

void qcpu_tlut_units_make(qcpu_tlut_units *out, const qmi_tlut_rate *rate);

/* The slots of a kernel. */
#define QCPU_TLUT_KERNEL(                                                      \
    symbol, features, per_ns, takes_it, digits, precision, fn)                 \
    static void pack_##symbol(void *dst, const qmi_weight *w, int64_t mat,     \
        const float *x, int64_t n_tokens)                                      \
    {                                                                          \
        qcpu_tlut_pack(dst, w, mat, x, n_tokens, digits, precision);           \
    }                                                                          \
    static void run_##symbol(float *y, const qcpu_tile *tile, void *scratch)   \
    {                                                                          \
        qcpu_tlut_run(y, tile, scratch, fn);                                   \
    }                                                                          \
    const qcpu_matmul qcpu_matmul_##symbol = {                                 \
        .needs = features,                                                     \
        .takes = takes_it,                                                     \
        .max_tokens = QCPU_ANY_TOKENS,                                         \
        .inputs = precision,                                                   \
        .speed = per_ns,                                                       \
        .tile_rows = qcpu_tlut_tile_rows,                                      \
        .packed_bytes = qcpu_tlut_packed_bytes,                                \
        .pack = pack_##symbol,                                                 \
        .tile_scratch = qcpu_tlut_tile_scratch,                                \
        .run = run_##symbol,                                                   \
    }

/* The kernels tlut_int8_<isa>, tlut_int16_<isa> and tlut_<isa>. */
#define QCPU_TLUT_KERNELS(isa, features, per_ns, fn)                           \
    QCPU_TLUT_KERNEL(tlut_int8_##isa, features, per_ns, qcpu_tlut_takes_int8,  \
        &digits_##isa, QMI_INPUTS_INT8, fn);                                   \
    QCPU_TLUT_KERNEL(tlut_int16_##isa, features, per_ns,                       \
        qcpu_tlut_takes_int16, &digits_##isa, QMI_INPUTS_INT16, fn);           \
    QCPU_TLUT_KERNEL(tlut_##isa, features, per_ns, qcpu_tlut_takes,            \
        &digits_##isa, QMI_INPUTS_INT24, fn)

#endif
