/* SPDX-License-Identifier: Apache-2.0
 * Token ids that grow in number. */
#ifndef QMI_ID_LIST_H
#define QMI_ID_LIST_H

#include <stdint.h>

#include "error.h"

/* Begin with zeros; release `ids` with qmi_free. */
typedef struct qmi_id_list {
    int32_t *ids; /* [n] */
    size_t n, capacity;
} qmi_id_list;

/* E_NOMEM. */
qmoe_status qmi_id_list_add(
    qmi_id_list *list, const int32_t *ids, size_t n, qmi_error *err);

#endif
