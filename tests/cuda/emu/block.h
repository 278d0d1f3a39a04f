/* SPDX-License-Identifier: Apache-2.0
 * Runs a kernel's grid on the host. */
#ifndef QCUDA_EMU_BLOCK_H
#define QCUDA_EMU_BLOCK_H

#include "driver.h"

namespace emu
{

/* `reverse`: threads and blocks in descending order.  NULL, or a text (valid
 * until the next launch) that says what the kernel did wrong. */
const char *launch(const qcuda_entry *kernel, qcuda_grid grid, const void *args,
    uint32_t max_shared_bytes, bool reverse);

} // namespace emu

#endif
