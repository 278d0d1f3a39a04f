/* SPDX-License-Identifier: Apache-2.0
 * What tests may change of the emulated device. */
#ifndef QCUDA_EMU_EMU_LIMITS_H
#define QCUDA_EMU_EMU_LIMITS_H

#include <stdint.h>

namespace emu
{

/* The number behind `name` ("memory=") in QMOE_CUDA_EMU_LIMITS. */
uint64_t limit(const char *name, uint64_t normal);

} // namespace emu

#endif
