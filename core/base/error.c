/* SPDX-License-Identifier: Apache-2.0
 * In: a status and what happened.  Out: one line of text in the caller's error.
 * The text of the failure is written where it is found; later callers only put
 * more in front.  A NULL error drops the text and keeps the status. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Names from hostile files must not break the one line of an error. */
static void keep_one_line(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

qmoe_status qmi_fail(
    qmi_error *err, qmoe_status status, const char *format, ...)
{
    if (err == NULL)
        return status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    /* Names in the text come from files. */
    keep_one_line(err->text);
    err->status = status;
    return status;
}

static qmoe_status status_of_errno(int code)
{
    switch (code) {
    /* What a user can do about: space, a path, memory.  Everything else is a
     * failing device or file system. */
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
    /* Before anything else can change it. */
    int code = errno;
    char what[768];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return qmi_fail(err, status_of_errno(code), "%s: %s", what, strerror(code));
}

qmoe_status qmi_error_prefix(
    qmi_error *err, qmoe_status status, const char *format, ...)
{
    if (err == NULL)
        return status;
    /* The text is source and target at once. */
    char rest[sizeof err->text];
    memcpy(rest, err->text, sizeof rest);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t room = n > 0 && (size_t)n < sizeof err->text
                      ? sizeof err->text - (size_t)n
                      : 0;
    /* ": " and at least one character. */
    if (room > 2)
        snprintf(err->text + n, room, ": %.*s", (int)(room - 3), rest);
    keep_one_line(err->text);
    return status;
}
