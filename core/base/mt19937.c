/* SPDX-License-Identifier: Apache-2.0
 * Mersenne Twister MT19937 (Matsumoto and Nishimura 1998): the recurrence and
 * tempering of the paper, with the seeding and the derived draws of NumPy's
 * legacy generator.  docs/evaluation.md has the test vectors. */
#include "mt19937.h"

/* n and m of the paper's MT19937. */
enum { N_STATE = 624, SHIFT_SIZE = 397 };

void qmi_mt19937_seed(qmi_mt19937 *rng, uint32_t seed)
{
    uint32_t word = seed;
    for (int i = 0; i < N_STATE; i++) {
        rng->state[i] = word;
        word = 1812433253u * (word ^ (word >> 30)) + (uint32_t)i + 1u;
    }
    rng->next = N_STATE;
}

/* All words at once, in order: each new one uses the word 397 further on, which
 * near the end is a new one already. */
static void refill(qmi_mt19937 *rng)
{
    uint32_t *x = rng->state;
    for (int i = 0; i < N_STATE; i++) {
        uint32_t joined =
            (x[i] & 0x80000000u) | (x[(i + 1) % N_STATE] & 0x7fffffffu);
        uint32_t twist = (joined & 1u) != 0 ? 0x9908b0dfu : 0u;
        x[i] = x[(i + SHIFT_SIZE) % N_STATE] ^ (joined >> 1) ^ twist;
    }
    rng->next = 0;
}

uint32_t qmi_mt19937_u32(qmi_mt19937 *rng)
{
    if (rng->next >= N_STATE)
        refill(rng);
    uint32_t y = rng->state[rng->next++];
    /* Tempering: shifts and masks of the paper. */
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

double qmi_mt19937_double(qmi_mt19937 *rng)
{
    /* 27 and 26 bits of two words: a double in [0, 1) with 53 random bits, as
     * NumPy makes it. */
    uint32_t high = qmi_mt19937_u32(rng) >> 5;
    uint32_t low = qmi_mt19937_u32(rng) >> 6;
    return ((double)high * 0x1p26 + (double)low) * 0x1p-53;
}

uint32_t qmi_mt19937_interval(qmi_mt19937 *rng, uint32_t max)
{
    if (max == 0)
        return 0; /* nothing drawn, as in NumPy */
    /* The smallest mask of ones that covers max; what is above max is drawn
     * again, so all values are equally likely. */
    uint32_t mask = max;
    for (int shift = 1; shift < 32; shift *= 2)
        mask |= mask >> shift;
    uint32_t value;
    do {
        value = qmi_mt19937_u32(rng) & mask;
    } while (value > max);
    return value;
}

void qmi_mt19937_shuffle_bytes(qmi_mt19937 *rng, uint8_t *values, size_t n)
{
    /* Fisher-Yates from the end, in NumPy's order: the numbers that are drawn
     * must match. */
    for (size_t i = n; i-- > 1;) {
        uint32_t j = qmi_mt19937_interval(rng, (uint32_t)i);
        uint8_t kept = values[i];
        values[i] = values[j];
        values[j] = kept;
    }
}
