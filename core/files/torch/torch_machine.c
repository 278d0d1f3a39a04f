/* SPDX-License-Identifier: Apache-2.0
 * Errors and memory of the pickle machine.  Every list of the machine grows
 * here, so that one limit bounds them all together, whatever a hostile pickle
 * repeats. */
#include "torch_machine.h"

#include <stdarg.h>
#include <stdio.h>

#include "alloc.h"

qmoe_status qmi_pickle_fail(
    const qmi_pickle_machine *m, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    /* With the byte of the instruction: the text is for whoever made the
     * file. */
    return qmi_fail(m->err, QMOE_E_FORMAT, "byte %zu: %s", m->op, text);
}

void *qmi_pickle_room(
    qmi_pickle_machine *m, void *items, size_t n, size_t *capacity, size_t size)
{
    if (n < *capacity)
        return items;
    size_t wanted = *capacity == 0 ? 16 : 2 * *capacity;
    /* Cannot underflow: allocated never exceeds the limit. */
    uint64_t more = (uint64_t)(wanted - *capacity) * size;
    if (more > m->limit - m->allocated) {
        qmi_pickle_fail(m,
            "the pickle needs more than the %llu bytes of "
            "memory its size allows",
            (unsigned long long)m->limit);
        return NULL;
    }
    void *grown =
        qmi_regrow(items, *capacity, wanted, size, "a pickle", m->err);
    if (grown == NULL)
        return NULL;
    m->allocated += more;
    *capacity = wanted;
    return grown;
}
