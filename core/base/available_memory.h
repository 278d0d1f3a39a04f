/* SPDX-License-Identifier: Apache-2.0 */
#ifndef QMI_AVAILABLE_MEMORY_H
#define QMI_AVAILABLE_MEMORY_H

#include <stdint.h>

/* Bytes of memory that can be used without swapping; 0 when unknown. */
uint64_t qmi_available_memory(void);

#endif
