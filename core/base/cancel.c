/* SPDX-License-Identifier: Apache-2.0
 * In: an error, which points to the wish of its context.  Out: whether to end
 * early.  A caller without an error cannot be cancelled. */
#include "cancel.h"

bool qmi_cancelled(const qmi_error *err)
{
    const struct qmi_cancel *cancel = err != NULL ? err->cancel : NULL;
    /* Relaxed: the flag carries no data, and a look may be late. */
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

/* For a thread of its own: its text is apart, its wish to end the same. */
qmi_error qmi_error_beside(const qmi_error *err)
{
    return (qmi_error){.cancel = err != NULL ? err->cancel : NULL};
}
