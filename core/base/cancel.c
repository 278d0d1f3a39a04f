/* SPDX-License-Identifier: Apache-2.0
 * Looking at the wish to end early. */
#include "cancel.h"

bool qmi_cancelled(const qmi_error *err)
{
    const struct qmi_cancel *cancel = err != NULL ? err->cancel : NULL;
    return cancel != NULL &&
           (atomic_load_explicit(&cancel->wanted, memory_order_relaxed) ||
               atomic_load_explicit(&cancel->ending, memory_order_relaxed));
}

qmoe_status qmi_check_cancel(qmi_error *err)
{
    if (!qmi_cancelled(err))
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_CANCELLED, "cancelled");
}

qmi_error qmi_error_beside(const qmi_error *err)
{
    return (qmi_error){.cancel = err != NULL ? err->cancel : NULL};
}
