/* SPDX-License-Identifier: Apache-2.0
 * Names and texts of the statuses, from the list in qmoe.h; the library's
 * version.  Numbers outside the list come from callers with a newer header, and
 * get a text as well. */
#include "qmoe/qmoe.h"

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

const char *qmoe_status_name(qmoe_status status)
{
    switch (status) {
#define X(name, value, text)                                                   \
    case QMOE_##name:                                                          \
        return #name;
        QMOE_STATUS_MAP(X)
#undef X
    }
    return "E_INTERNAL";
}

const char *qmoe_status_text(qmoe_status status)
{
    switch (status) {
#define X(name, value, text)                                                   \
    case QMOE_##name:                                                          \
        return text;
        QMOE_STATUS_MAP(X)
#undef X
    }
    return "internal error";
}

const char *qmoe_version(void)
{
    return TEXT(QMOE_VERSION_MAJOR) "." TEXT(QMOE_VERSION_MINOR) "." TEXT(
        QMOE_VERSION_PATCH);
}
