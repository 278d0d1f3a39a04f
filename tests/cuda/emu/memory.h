/* SPDX-License-Identifier: Apache-2.0
 * Memory that ends at a page nobody may touch (or in the address sanitizer's
 * red zone), poisoned: every f32 of it is a NaN. */
#ifndef QCUDA_EMU_MEMORY_H
#define QCUDA_EMU_MEMORY_H

#include <stdint.h>

namespace emu
{

/* Aligned to 16 bytes; up to 15 bytes behind the end are not guarded.  NULL:
 * no memory. */
void *memory_alloc(uint64_t n_bytes);
void memory_free(void *data);

} // namespace emu

#endif
