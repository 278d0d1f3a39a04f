/* SPDX-License-Identifier: Apache-2.0
 * Lists of texts, [n] of const char *. */
#ifndef QMI_TEXTS_H
#define QMI_TEXTS_H

#include <stddef.h>

/* For qsort and bsearch: by strcmp. */
int qmi_texts_compare(const void *a, const void *b);
/* A text that is there more than once, the least of them; NULL: there is none.
 * Sorts. */
const char *qmi_texts_repeated(const char **texts, size_t n);

#endif
