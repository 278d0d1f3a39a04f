/* SPDX-License-Identifier: Apache-2.0
 * Error reporting inside the library: a status says what kind, the text says
 * which file, tensor and rule.  See CONTRIBUTING.md "Errors". */
#ifndef QMI_ERROR_H
#define QMI_ERROR_H

#include "qmoe/qmoe.h"

/* The text of the first failure of a call chain, and where that chain learns
 * that it is to end early (cancel.h).  Owned by the caller of the outermost
 * function, who begins with all zeros; one per thread of control.  May be NULL
 * everywhere. */
typedef struct qmi_error {
    qmoe_status status;
    char text[1024];
    struct qmi_cancel *cancel; /* the context's; NULL: it runs to its end */
} qmi_error;

#if defined(__GNUC__)
#define QMI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define QMI_PRINTF(f, a)
#endif

/* Stores status and formatted text in `err` (when not NULL) and returns
 * `status`, so that `return qmi_fail(...)` is the normal way to fail. */
qmoe_status qmi_fail(qmi_error *err, qmoe_status status, const char *format,
    ...) QMI_PRINTF(3, 4);

/* Like qmi_fail, with strerror(errno) appended and the status chosen from
 * errno: ENOSPC/EDQUOT -> QMOE_E_NO_SPACE, ENOENT -> QMOE_E_NOT_FOUND,
 * ENOMEM -> QMOE_E_NOMEM, else QMOE_E_IO. */
qmoe_status qmi_fail_errno(qmi_error *err, const char *format, ...)
    QMI_PRINTF(2, 3);

/* Puts "prefix: " before the text already in `err`; returns `status`. */
qmoe_status qmi_error_prefix(qmi_error *err, qmoe_status status,
    const char *format, ...) QMI_PRINTF(3, 4);

/* Returns from the calling function when `expr` is not QMOE_OK. */
#define QMI_TRY(expr)                                                          \
    do {                                                                       \
        qmoe_status qmi_try_status_ = (expr);                                  \
        if (qmi_try_status_ != QMOE_OK)                                        \
            return qmi_try_status_;                                            \
    } while (0)

#endif
