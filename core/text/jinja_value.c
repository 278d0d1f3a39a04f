/* SPDX-License-Identifier: Apache-2.0
 * In: a value.  Out: what can be said of it by itself. */
#include "jinja_value.h"

#include <string.h>

bool qmi_jname_is(const qmi_jstring *name, const char *text)
{
    size_t n = strlen(text);
    return name->n_bytes == n && memcmp(name->bytes, text, n) == 0;
}

bool qmi_jname_same(const qmi_jstring *a, const qmi_jstring *b)
{
    return a->n_bytes == b->n_bytes &&
           (a->n_bytes == 0 || memcmp(a->bytes, b->bytes, a->n_bytes) == 0);
}

bool qmi_jtruth(qmi_jvalue value)
{
    switch (value.kind) {
    case QMI_J_UNDEFINED:
    case QMI_J_ABSENT:
    case QMI_J_NONE:
        return false;
    case QMI_J_BOOL:
        return value.as.boolean;
    case QMI_J_INT:
        return value.as.integer != 0;
    case QMI_J_FLOAT:
        return value.as.real != 0;
    case QMI_J_STRING:
        return value.as.string->n_bytes != 0;
    case QMI_J_LIST:
        return value.as.list->flavor == QMI_J_ITERATOR || value.as.list->n != 0;
    case QMI_J_DICT:
        return value.as.dict->n != 0;
    default:
        return true;
    }
}

const char *qmi_jtype(qmi_jvalue value)
{
    static const char *const names[] = {[QMI_J_UNDEFINED] = "undefined value",
        [QMI_J_ABSENT] = "missing argument",
        [QMI_J_NONE] = "none",
        [QMI_J_BOOL] = "bool",
        [QMI_J_INT] = "int",
        [QMI_J_FLOAT] = "float",
        [QMI_J_STRING] = "string",
        [QMI_J_LIST] = "list",
        [QMI_J_DICT] = "dict",
        [QMI_J_NAMESPACE] = "namespace",
        [QMI_J_LOOP] = "loop",
        [QMI_J_MACRO] = "macro",
        [QMI_J_FUNCTION] = "function",
        [QMI_J_METHOD] = "method"};
    static const char *const flavors[] = {[QMI_J_PLAIN] = "list",
        [QMI_J_TUPLE] = "tuple",
        [QMI_J_RANGE] = "range",
        [QMI_J_VIEW] = "view of a dict",
        [QMI_J_ITERATOR] = "generator"};
    return value.kind == QMI_J_LIST ? flavors[value.as.list->flavor]
                                    : names[value.kind];
}
