/* SPDX-License-Identifier: Apache-2.0
 * Error texts. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

qmoe_status qmi_fail(
    qmi_error *err, qmoe_status status, const char *format, ...)
{
    if (err == NULL)
        return status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    err->status = status;
    return status;
}

static qmoe_status status_of_errno(int code)
{
    switch (code) {
    case ENOSPC:
    case EDQUOT:
        return QMOE_E_NO_SPACE;
    case ENOENT:
        return QMOE_E_NOT_FOUND;
    case ENOMEM:
        return QMOE_E_NOMEM;
    default:
        return QMOE_E_IO;
    }
}

qmoe_status qmi_fail_errno(qmi_error *err, const char *format, ...)
{
    int code = errno;
    char what[768];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return qmi_fail(err, status_of_errno(code), "%s: %s", what, strerror(code));
}

qmoe_status qmi_error_prefix(qmi_error *err, const char *format, ...)
{
    if (err == NULL)
        return QMOE_E_INTERNAL;
    char rest[sizeof err->text];
    memcpy(rest, err->text, sizeof rest);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", rest);
    return err->status;
}
