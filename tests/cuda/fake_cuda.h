/* SPDX-License-Identifier: Apache-2.0
 * The functions of the CUDA runtime that the driver calls, on the host: one
 * device, one stream, kernels by the emulator.  Work is done at once or, to show
 * what may not be touched before it is done, as late as it may be.  A graph runs
 * what it held when it was instantiated, and updates; its nodes must be a
 * chain.  QMOE_CUDA_EMU_LIMITS: as the emulated driver's. */
#ifndef QMOE_FAKE_CUDA_H
#define QMOE_FAKE_CUDA_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

extern bool fake_cuda_is_late;
extern int fake_cuda_n_attributes; /* calls that change a kernel's */
extern int fake_cuda_n_waits;      /* calls that had work to wait for */

#ifdef __cplusplus
}
#endif

#endif
