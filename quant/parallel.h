/* SPDX-License-Identifier: Apache-2.0
 * Parallel loops over independent iterations. */
#ifndef QMI_PARALLEL_H
#define QMI_PARALLEL_H

#ifdef _OPENMP
#define QMI_PRAGMA(x) _Pragma(#x)
#define QMI_PARALLEL_FOR(n)                                                    \
    QMI_PRAGMA(omp parallel for schedule(dynamic, 16) num_threads(n))
#else
#define QMI_PARALLEL_FOR(n) (void)(n);
#endif

#endif
