/* SPDX-License-Identifier: Apache-2.0
 * Parallel loops over independent iterations. */
#ifndef QMI_PARALLEL_H
#define QMI_PARALLEL_H

#ifdef _OPENMP
#include <omp.h>

#include "room.h"

#define QMI_PRAGMA(x) _Pragma(#x)
/* OpenMP ends the process when the system refuses it a thread. */
#define QMI_PARALLEL_FOR(n)                                                    \
    QMI_PRAGMA(omp parallel for schedule(dynamic, 1)                           \
            num_threads(qmi_startable_threads(n)))
/* Index of the calling thread within the loop, below n. */
static inline int qmi_thread(void)
{
    return omp_get_thread_num();
}
#else
#define QMI_PARALLEL_FOR(n) (void)(n);
static inline int qmi_thread(void)
{
    return 0;
}
#endif

#endif
