/* SPDX-License-Identifier: Apache-2.0
 * The sign hash of the rotation (docs/format.md "Rotation"), for C and for the
 * kernels of CUDA and OpenCL, which have neither types nor functions in
 * common: macros alone, no includes. */
#ifndef QMI_ROTATION_HASH_H
#define QMI_ROTATION_HASH_H

/* Added to a seed before it is mixed: seed 0 must not map column 0 to 0. */
#define QMI_ROTATION_SEED 0x9e3779b9u

/* Mixes the unsigned 32-bit variable x in place, so that every bit reaches the
 * top one: xor-shifts and odd multipliers (the first 32 bits of the fractions
 * of sqrt(2) and sqrt(3)). */
#define QMI_ROTATION_MIX(x)                                                    \
    ((x) ^= (x) >> 16, (x) *= 0x6a09e667u, (x) ^= (x) >> 15,                   \
        (x) *= 0xbb67ae85u, (x) ^= (x) >> 16)

#endif
