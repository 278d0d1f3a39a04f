/* SPDX-License-Identifier: Apache-2.0
 * The wish that a long call ends early.  Whoever works for it, on whatever
 * thread, finds it through the qmi_error it fails into, and looks at it at
 * least every 50 ms of its work. */
#ifndef QMI_CANCEL_H
#define QMI_CANCEL_H

#include <stdatomic.h>

#include "error.h"

struct qmi_cancel {
    atomic_bool wanted; /* by qmoe_context_cancel; stays until withdrawn */
    atomic_bool ending; /* the call at hand ends, by its progress hook's wish */
};

/* False when `err` is NULL or knows of no wish. */
bool qmi_cancelled(const qmi_error *err);
/* E_CANCELLED, with a text, when that is true. */
qmoe_status qmi_check_cancel(qmi_error *err);
/* An empty one, for a thread or a trial of its own, that knows of the same
 * wish. */
qmi_error qmi_error_beside(const qmi_error *err);

#endif
