/* SPDX-License-Identifier: Apache-2.0
 * Whether the system would refuse what a library is about to take: some spin
 * or end the process when it does. */
#ifndef QMI_ROOM_H
#define QMI_ROOM_H

#include <stdbool.h>
#include <stddef.h>

/* How many threads, the calling one included, can run now: `wanted` or, where
 * the system refuses more, fewer. */
int qmi_startable_threads(int wanted);
/* Processors this process may use (its affinity mask, which container limits
 * set), at least 1. */
int qmi_usable_processors(void);
/* Is there so much address space (ulimit -v)? */
bool qmi_has_address_space(size_t n_mib);

#endif
