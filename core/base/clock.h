/* SPDX-License-Identifier: Apache-2.0
 * Clocks, in seconds from some point on. */
#ifndef QMI_CLOCK_H
#define QMI_CLOCK_H

#include <stdint.h>

/* That always goes forward. */
double qmi_seconds(void);
/* Processor time of the calling thread: what others do does not count. */
double qmi_thread_seconds(void);
/* Since 1970, as the system's clock is set: for dates, not for durations. */
int64_t qmi_unix_seconds(void);

#endif
