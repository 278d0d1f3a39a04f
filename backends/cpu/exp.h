/* SPDX-License-Identifier: Apache-2.0
 * Constants of exp_template.h, and vectors of 128 bits for its form without a
 * target attribute. */
#ifndef QCPU_EXP_H
#define QCPU_EXP_H

#include <stdint.h>

#include "matmul.h"

/* ln 2 in two parts, the first short enough for exact multiples; a polynomial
 * for (e^r - 1 - r) / r^2 where |r| <= ln 2 / 2. */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f
#define LN2_LOW (-2.12194440e-4f)
#define ROUNDING 12582912.0f /* 1.5 * 2^23: what is added loses its fraction */
#define EXP_LEAST (-88.0f)   /* e^x is 0 from there */
enum { N_EXP_TERMS = 6 };
static const float exp_terms[N_EXP_TERMS] = {1.9875691500e-4f, 1.3981999507e-3f,
    8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

/* The compiler's vectors: 128 bits exist everywhere. */
typedef float four __attribute__((vector_size(16)));

/* A comparison gives all ones or zeros, which select the bits. */
static inline four larger(four a, four b)
{
    typedef int32_t mask __attribute__((vector_size(16)));
    const mask first = a > b;
    return (four)((first & (mask)a) | (~first & (mask)b));
}

#endif
