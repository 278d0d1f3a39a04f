/* SPDX-License-Identifier: Apache-2.0
 * Mersenne Twister as NumPy's legacy RandomState uses it, so that a seed gives
 * the same span masks as the reference (numpy mtrand.pyx, distributions.c). */
#ifndef QMI_MT19937_H
#define QMI_MT19937_H

#include <stddef.h>
#include <stdint.h>

typedef struct qmi_mt19937 {
    uint32_t state[624];
    int next;
} qmi_mt19937;

void qmi_mt19937_seed(qmi_mt19937 *rng, uint32_t seed);
uint32_t qmi_mt19937_u32(qmi_mt19937 *rng);
/* Uniform in [0, 1) with 53 bits (NumPy random_sample). */
double qmi_mt19937_double(qmi_mt19937 *rng);
/* Uniform in 0..max by masked rejection (NumPy legacy interval). */
uint32_t qmi_mt19937_interval(qmi_mt19937 *rng, uint32_t max);
/* Fisher-Yates from the end, as numpy.random.shuffle on 1-byte elements. */
void qmi_mt19937_shuffle_bytes(qmi_mt19937 *rng, uint8_t *values, size_t n);

#endif
