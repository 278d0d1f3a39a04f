/* SPDX-License-Identifier: Apache-2.0
 * In: a value and a name, key or slice.  Out: the attribute, item or part, or
 * undefined where there is none.  a.b looks for methods first, a['b'] for items
 * first. */
#include <string.h>

#include "jinja_functions.h"
#include "jinja_string.h"

/* ---- attributes ---- */

static qmoe_status loop_attribute(qmi_jrun *run, const qmi_jloop *loop,
    const qmi_jstring *name, qmi_jvalue *out)
{
    int64_t index = (int64_t)loop->index, n = (int64_t)loop->list->n;
    const struct {
        const char *name;
        qmi_jvalue value;
    } all[] = {{"index", qmi_jint(index + 1)}, {"index0", qmi_jint(index)},
        {"revindex", qmi_jint(n - index)},
        {"revindex0", qmi_jint(n - index - 1)},
        {"first", qmi_jbool(index == 0)}, {"last", qmi_jbool(index + 1 == n)},
        {"length", qmi_jint(n)}, {"depth", qmi_jint(1)},
        {"depth0", qmi_jint(0)},
        {"previtem",
            index > 0 ? loop->list->items[index - 1] : qmi_jundefined(name)},
        {"nextitem", index + 1 < n ? loop->list->items[index + 1]
                                   : qmi_jundefined(name)}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (qmi_jname_is(name, all[i].name)) {
            *out = all[i].value;
            return QMOE_OK;
        }
    return qmi_jfail(run, QMOE_E_UNSUPPORTED, "loop.%.*s is not supported",
        QMI_J_SHOWN(name));
}

/* Attributes that are no methods. */
static qmoe_status own_attribute(
    qmi_jrun *run, qmi_jvalue object, const qmi_jstring *name, qmi_jvalue *out)
{
    qmi_jvalue *value = NULL;
    *out = qmi_jundefined(name);
    switch (object.kind) {
    case QMI_J_DICT:
    case QMI_J_NAMESPACE:
        QMI_TRY(
            qmi_jdict_find(run, object.as.dict, qmi_jof_string(name), &value));
        if (value != NULL)
            *out = *value;
        return QMOE_OK;
    case QMI_J_LOOP:
        return loop_attribute(run, object.as.loop, name, out);
    case QMI_J_MACRO:
    case QMI_J_FUNCTION:
    case QMI_J_METHOD:
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "attributes of a %s are not supported", qmi_jtype(object));
    default:
        return QMOE_OK;
    }
}

static qmoe_status check_object(
    qmi_jrun *run, qmi_jvalue object, const qmi_jstring *name)
{
    if (object.kind == QMI_J_UNDEFINED && object.as.name != NULL)
        return qmi_jfail(run, QMOE_E_FORMAT,
            "'%.*s' is undefined and has no attributes",
            QMI_J_SHOWN(object.as.name));
    if (object.kind == QMI_J_UNDEFINED)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "an undefined value has no attributes");
    if (name != NULL && name->n_bytes >= 2 && name->bytes[0] == '_' &&
        name->bytes[1] == '_')
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the attribute '%.*s' is not supported", QMI_J_SHOWN(name));
    return QMOE_OK;
}

static qmoe_status bind_method(qmi_jrun *run, qmi_jvalue object,
    const qmi_jfunction *function, qmi_jvalue *out)
{
    qmi_jmethod *method = NULL;
    QMI_TRY(qmi_jtake(run, &method, 1, sizeof *method));
    *method = (qmi_jmethod){object, function};
    *out = (qmi_jvalue){QMI_J_METHOD, {.method = method}};
    return QMOE_OK;
}

qmoe_status qmi_jattribute(
    qmi_jrun *run, qmi_jvalue object, const qmi_jstring *name, qmi_jvalue *out)
{
    QMI_TRY(check_object(run, object, name));
    const qmi_jfunction *function = qmi_jfind_method(object, name);
    return function != NULL ? bind_method(run, object, function, out)
                            : own_attribute(run, object, name, out);
}

/* ---- items ---- */

/* Bytes before the n-th character. */
static size_t offset_of(const qmi_jstring *string, size_t n)
{
    size_t at = 0;
    for (; n > 0; n--) {
        at++;
        while (at < string->n_bytes && (string->bytes[at] & 0xc0) == 0x80)
            at++;
    }
    return at;
}

static qmoe_status item_at(
    qmi_jrun *run, qmi_jvalue object, int64_t index, qmi_jvalue *out)
{
    size_t n = 0;
    const qmi_jstring *part = NULL;
    QMI_TRY(qmi_jlength(run, object, &n));
    if (index < 0)
        index += (int64_t)n;
    *out = qmi_jundefined(NULL);
    if (index < 0 || index >= (int64_t)n)
        return QMOE_OK;
    if (object.kind == QMI_J_LIST) {
        *out = object.as.list->items[index];
        return QMOE_OK;
    }
    const qmi_jstring *string = object.as.string;
    QMI_TRY(qmi_jspend(run, string->n_bytes / 64));
    size_t from = offset_of(string, (size_t)index), length = 0;
    qmi_jcode_point(string->bytes, from, &length);
    QMI_TRY(qmi_jsubstring(run, string, from, from + length, &part));
    *out = qmi_jof_string(part);
    return QMOE_OK;
}

static bool is_indexed(qmi_jvalue object)
{
    return object.kind == QMI_J_STRING ||
           qmi_jis_list(object,
               1u << QMI_J_PLAIN | 1u << QMI_J_TUPLE | 1u << QMI_J_RANGE);
}

qmoe_status qmi_jitem(
    qmi_jrun *run, qmi_jvalue object, qmi_jvalue key, qmi_jvalue *out)
{
    const qmi_jstring *name = key.kind == QMI_J_STRING ? key.as.string : NULL;
    qmi_jvalue *value = NULL;
    QMI_TRY(check_object(run, object, name));
    *out = qmi_jundefined(name);
    if (is_indexed(object) && qmi_jis_integer(key))
        return item_at(run, object, qmi_jinteger(key), out);
    if (object.kind == QMI_J_DICT && key.kind != QMI_J_LIST &&
        key.kind != QMI_J_DICT)
        QMI_TRY(qmi_jdict_find(run, object.as.dict, key, &value));
    if (value != NULL) {
        *out = *value;
        return QMOE_OK;
    }
    if (name == NULL)
        return QMOE_OK;
    const qmi_jfunction *function = qmi_jfind_method(object, name);
    return function != NULL ? bind_method(run, object, function, out)
                            : own_attribute(run, object, name, out);
}

/* ---- slices ---- */

/* A bound within [low, high], counted from the end when negative. */
static qmoe_status bound(qmi_jrun *run, qmi_jvalue value, int64_t n,
    int64_t low, int64_t high, int64_t *out)
{
    if (value.kind == QMI_J_ABSENT || value.kind == QMI_J_NONE)
        return QMOE_OK; /* *out is the default */
    QMI_TRY(qmi_jneed_int(run, value, "the bound of a slice", out));
    if (*out < 0)
        *out += n;
    *out = *out < low ? low : *out > high ? high : *out;
    return QMOE_OK;
}

static qmoe_status slice_string(qmi_jrun *run, const qmi_jstring *string,
    int64_t start, int64_t n, int64_t step, qmi_jvalue *out)
{
    const qmi_jstring *part = NULL;
    if (step == 1) {
        QMI_TRY(qmi_jspend(run, string->n_bytes / 64));
        size_t from = n == 0 ? 0 : offset_of(string, (size_t)start);
        size_t to = n == 0 ? 0 : offset_of(string, (size_t)(start + n));
        QMI_TRY(qmi_jsubstring(run, string, from, to, &part));
        *out = qmi_jof_string(part);
        return QMOE_OK;
    }
    const qmi_jlist *characters = NULL;
    size_t begin = run->n_bytes;
    QMI_TRY(qmi_jno_markup(run, string));
    QMI_TRY(qmi_jiterate(run, qmi_jof_string(string), &characters));
    for (int64_t i = 0; i < n; i++)
        QMI_TRY(qmi_jwrite(run, characters->items[start + i * step].as.string));
    QMI_TRY(qmi_jtake_text(run, begin, &part));
    *out = qmi_jof_string(part);
    return QMOE_OK;
}

/* The n items from `start` on, each `step` after the last. */
static qmoe_status slice_items(qmi_jrun *run, qmi_jvalue object, int64_t start,
    int64_t n, int64_t step, qmi_jvalue *out)
{
    if (object.kind == QMI_J_STRING)
        return slice_string(run, object.as.string, start, n, step, out);
    qmi_jlist *list = NULL;
    QMI_TRY(qmi_jnew_list(run, object.as.list->flavor, (size_t)n, &list));
    for (int64_t i = 0; i < n; i++)
        list->items[i] = object.as.list->items[start + i * step];
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

qmoe_status qmi_jslice(qmi_jrun *run, qmi_jvalue object,
    const qmi_jvalue bounds[3], qmi_jvalue *out)
{
    size_t length = 0;
    int64_t step = 1;
    if (!is_indexed(object))
        return qmi_jfail(run,
            object.kind == QMI_J_LIST ? QMOE_E_UNSUPPORTED : QMOE_E_FORMAT,
            "a %s cannot be sliced", qmi_jtype(object));
    QMI_TRY(qmi_jlength(run, object, &length));
    if (bounds[2].kind != QMI_J_ABSENT && bounds[2].kind != QMI_J_NONE)
        QMI_TRY(qmi_jneed_int(run, bounds[2], "the step of a slice", &step));
    if (step == 0)
        return qmi_jfail(run, QMOE_E_FORMAT, "the step of a slice is 0");
    int64_t n = (int64_t)length, low = step < 0 ? -1 : 0;
    int64_t high = step < 0 ? n - 1 : n;
    int64_t start = step < 0 ? high : low, stop = step < 0 ? low : high;
    QMI_TRY(bound(run, bounds[0], n, low, high, &start));
    QMI_TRY(bound(run, bounds[1], n, low, high, &stop));
    /* Further steps would leave the object, and could overflow. */
    if (step > n + 1 || step < -n - 1)
        step = step < 0 ? -n - 1 : n + 1;
    int64_t distance = step < 0 ? start - stop : stop - start;
    int64_t size = step < 0 ? -step : step;
    int64_t n_items = distance <= 0 ? 0 : (distance - 1) / size + 1;
    return slice_items(run, object, start, n_items, step, out);
}
