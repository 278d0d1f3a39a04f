/* SPDX-License-Identifier: Apache-2.0
 * The kind of processor that OpenBLAS takes this one for.  Versions older than
 * the processor may fall back to the oldest they know, and are several times
 * slower then.  They read OPENBLAS_CORETYPE while they are loaded, so only
 * whoever starts the program can correct that. */
#ifndef QCPU_BLAS_CORE_H
#define QCPU_BLAS_CORE_H

#include <stddef.h>

/* The value OPENBLAS_CORETYPE should have had; NULL when all is well. */
const char *qcpu_blas_core_wanted(void);
/* One line: the core type, and whether it is wrong or was corrected. */
void qcpu_blas_core_describe(char *text, size_t capacity);

#endif
