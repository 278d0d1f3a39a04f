/* SPDX-License-Identifier: Apache-2.0
 * Comparing texts for qsort and bsearch, and the first text that occurs twice
 * in a list, which it sorts. */
#include "texts.h"

#include <stdlib.h>
#include <string.h>

int qmi_texts_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *qmi_texts_repeated(const char **texts, size_t n)
{
    if (n > 1)
        qsort(texts, n, sizeof *texts, qmi_texts_compare);
    for (size_t i = 1; i < n; i++)
        if (strcmp(texts[i - 1], texts[i]) == 0)
            return texts[i];
    return NULL;
}
