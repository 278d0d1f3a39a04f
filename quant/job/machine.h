/* SPDX-License-Identifier: Apache-2.0
 * What this machine has and how fast it is, for plans. */
#ifndef QMI_MACHINE_H
#define QMI_MACHINE_H

#include <stdint.h>

#include "error.h"

/* Free bytes of the file system where `path` is or will be; 0 when unknown. */
uint64_t qmi_free_disk(const char *path);
/* Bytes per second that n_threads read from memory, from a short pass over
 * 64 MiB each; 0 when it cannot be measured. */
double qmi_measure_memory(int n_threads);

#endif
