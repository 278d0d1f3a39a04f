/* SPDX-License-Identifier: Apache-2.0
 * In: ids, some at a time.  Out: one array of all. */
#include "id_list.h"

#include <string.h>

#include "alloc.h"

qmoe_status qmi_id_list_add(
    qmi_id_list *list, const int32_t *ids, size_t n, qmi_error *err)
{
    if (n > list->capacity - list->n) {
        const size_t capacity = 2 * list->capacity + n + 16;
        int32_t *grown = qmi_regrow(
            list->ids, list->n, capacity, sizeof *grown, "token ids", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        list->ids = grown;
        list->capacity = capacity;
    }
    if (n != 0)
        memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return QMOE_OK;
}
