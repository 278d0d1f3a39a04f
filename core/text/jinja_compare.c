/* SPDX-License-Identifier: Apache-2.0
 * In: two values.  Out: Python's equality and order of them.  Values may be
 * nested deeper than a stack should be, so recursion is counted. */
#include <string.h>

#include "jinja_run.h"
#include "jinja_string.h"

/* ---- equality ---- */

static qmoe_status equal_lists(
    qmi_jrun *run, const qmi_jlist *a, const qmi_jlist *b, bool *out)
{
    *out = a == b;
    if (a == b || a->flavor != b->flavor || a->n != b->n)
        return QMOE_OK;
    if (a->flavor == QMI_J_ITERATOR || a->flavor == QMI_J_VIEW)
        return a->flavor == QMI_J_ITERATOR
                   ? QMOE_OK
                   : qmi_jfail(run, QMOE_E_UNSUPPORTED,
                         "comparing views of dicts is not supported");
    for (size_t i = 0; i < a->n; i++) {
        QMI_TRY(qmi_jequal(run, a->items[i], b->items[i], out));
        if (!*out)
            return QMOE_OK;
    }
    *out = true;
    return QMOE_OK;
}

static qmoe_status equal_dicts(
    qmi_jrun *run, const qmi_jdict *a, const qmi_jdict *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n)
        return QMOE_OK;
    for (size_t i = 0; i < a->n; i++) {
        qmi_jvalue *other = NULL;
        QMI_TRY(qmi_jdict_find(run, b, a->entries[i].key, &other));
        if (other == NULL)
            return QMOE_OK;
        QMI_TRY(qmi_jequal(run, a->entries[i].value, *other, out));
        if (!*out)
            return QMOE_OK;
    }
    *out = true;
    return QMOE_OK;
}

static qmoe_status equal_containers(
    qmi_jrun *run, qmi_jvalue a, qmi_jvalue b, bool *out)
{
    QMI_TRY(qmi_jenter(run));
    qmoe_status status = a.kind == QMI_J_LIST
                             ? equal_lists(run, a.as.list, b.as.list, out)
                             : equal_dicts(run, a.as.dict, b.as.dict, out);
    qmi_jleave(run);
    return status;
}

qmoe_status qmi_jequal(qmi_jrun *run, qmi_jvalue a, qmi_jvalue b, bool *out)
{
    *out = false;
    if (qmi_jis_integer(a) && qmi_jis_integer(b)) {
        *out = qmi_jinteger(a) == qmi_jinteger(b);
        return QMOE_OK;
    }
    if (qmi_jis_number(a) && qmi_jis_number(b)) {
        *out = qmi_jreal(a) == qmi_jreal(b);
        return QMOE_OK;
    }
    if (a.kind != b.kind)
        return QMOE_OK;
    switch (a.kind) {
    case QMI_J_UNDEFINED:
    case QMI_J_NONE:
        *out = true;
        return QMOE_OK;
    case QMI_J_STRING:
        QMI_TRY(qmi_jspend(run, a.as.string->n_bytes / 64));
        *out = qmi_jname_same(a.as.string, b.as.string);
        return QMOE_OK;
    case QMI_J_LIST:
    case QMI_J_DICT:
        return equal_containers(run, a, b, out);
    case QMI_J_METHOD:
        return qmi_jfail(
            run, QMOE_E_UNSUPPORTED, "comparing methods is not supported");
    default:
        /* Everything else is equal to itself only. */
        *out = a.as.dict == b.as.dict;
        return QMOE_OK;
    }
}

/* ---- order ---- */

static int order_strings(const qmi_jstring *a, const qmi_jstring *b)
{
    /* The order of UTF-8 is that of its code points. */
    size_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
    int order = n == 0 ? 0 : memcmp(a->bytes, b->bytes, n);
    if (order != 0)
        return order;
    return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

static qmoe_status order_lists(
    qmi_jrun *run, const qmi_jlist *a, const qmi_jlist *b, int *out)
{
    *out = (a->n > b->n) - (a->n < b->n);
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same = false;
        QMI_TRY(qmi_jequal(run, a->items[i], b->items[i], &same));
        if (!same)
            return qmi_jorder(run, a->items[i], b->items[i], out);
    }
    return QMOE_OK;
}

qmoe_status qmi_jorder(qmi_jrun *run, qmi_jvalue a, qmi_jvalue b, int *out)
{
    *out = 0;
    if (qmi_jis_integer(a) && qmi_jis_integer(b)) {
        int64_t x = qmi_jinteger(a), y = qmi_jinteger(b);
        *out = (x > y) - (x < y);
        return QMOE_OK;
    }
    if (qmi_jis_number(a) && qmi_jis_number(b)) {
        double x = qmi_jreal(a), y = qmi_jreal(b);
        if (x != x || y != y)
            return qmi_jfail(run, QMOE_E_UNSUPPORTED,
                "the order of what is not a number is not supported");
        *out = (x > y) - (x < y);
        return QMOE_OK;
    }
    if (a.kind == QMI_J_STRING && b.kind == QMI_J_STRING) {
        QMI_TRY(qmi_jspend(run, a.as.string->n_bytes / 64));
        *out = order_strings(a.as.string, b.as.string);
        return QMOE_OK;
    }
    if (a.kind == QMI_J_LIST && b.kind == QMI_J_LIST &&
        a.as.list->flavor == b.as.list->flavor &&
        a.as.list->flavor <= QMI_J_TUPLE) {
        QMI_TRY(qmi_jenter(run));
        qmoe_status status = order_lists(run, a.as.list, b.as.list, out);
        qmi_jleave(run);
        return status;
    }
    return qmi_jfail(run, QMOE_E_FORMAT, "a %s and a %s have no order",
        qmi_jtype(a), qmi_jtype(b));
}

qmoe_status qmi_jcontains(
    qmi_jrun *run, qmi_jvalue item, qmi_jvalue container, bool *out)
{
    *out = false;
    if (container.kind == QMI_J_STRING) {
        size_t at = 0;
        if (item.kind != QMI_J_STRING)
            return qmi_jfail(run, QMOE_E_FORMAT, "a string cannot contain a %s",
                qmi_jtype(item));
        return qmi_jfind(run, container.as.string, item.as.string, 0, out, &at);
    }
    if (container.kind == QMI_J_DICT) {
        qmi_jvalue *value = NULL;
        QMI_TRY(qmi_jdict_find(run, container.as.dict, item, &value));
        *out = value != NULL;
        return QMOE_OK;
    }
    const qmi_jlist *list = NULL;
    QMI_TRY(qmi_jiterate(run, container, &list));
    QMI_TRY(qmi_jspend(run, list->n / 8));
    for (size_t i = 0; i < list->n && !*out; i++)
        QMI_TRY(qmi_jequal(run, list->items[i], item, out));
    return QMOE_OK;
}
