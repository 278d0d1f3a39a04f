/* SPDX-License-Identifier: Apache-2.0
 * Generators of the harness: a small random number generator and the kinds of
 * values operands are filled with.  Adding a kind is a line of VALUE_KIND_MAP
 * and a function in inputs.c. */
#ifndef QMOE_CHECK_INPUTS_H
#define QMOE_CHECK_INPUTS_H

#include <stddef.h>
#include <stdint.h>

typedef struct rng {
    uint64_t state;
} rng;

/* Streams of different names or seeds are unrelated. */
rng rng_of(const char *name, uint64_t seed);
uint64_t rng_next(rng *r);
/* Uniform in [0, 1), 24 random bits. */
float rng_unit(rng *r);
/* Uniform in [0, n), n >= 1. */
int64_t rng_below(rng *r, int64_t n);
/* A random order of 0 .. n-1. */
void rng_permutation(rng *r, int32_t *dst, int64_t n);

/* A choice among n that depends on `index` and `salt` alone: case lists use it
 * to vary attributes without enumerating all combinations. */
size_t choose(size_t index, unsigned salt, size_t n);

/* X(NAME, function, "text"). */
#define VALUE_KIND_MAP(X)                                                      \
    X(RANDOM, random, "random")       /* [-1, 1) */                            \
    X(LARGE, large, "large")          /* magnitudes 1 .. 2^50 */               \
    X(TINY, tiny, "tiny")             /* subnormal numbers */                  \
    X(ZEROS, zeros, "zeros")          /* mostly +0 and -0 */                   \
    X(MIXED, mixed, "mixed")          /* all of the above */                   \
    X(STRUCTURED, mixed, "patterns")  /* weights: rows of patterns */          \
    X(SPECIAL, special, "special")    /* some infinities and NaN */            \
    X(POSITIVE, positive, "positive") /* [1, 2): sums whose errors add up */   \
    X(OUTLIERS, outlier, "outliers")  /* random, few 50 times too large */     \
    X(BITS, bits, "bits")             /* any bit pattern */

typedef enum value_kind {
#define X(name, function, text) VALUES_##name,
    VALUE_KIND_MAP(X)
#undef X
        VALUES_COUNT
} value_kind;

const char *value_kind_name(value_kind kind);
float draw_value(rng *r, value_kind kind);
void fill_values(float *dst, int64_t n, rng *r, value_kind kind);

#endif
