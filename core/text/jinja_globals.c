/* SPDX-License-Identifier: Apache-2.0
 * In: arguments.  Out: what a template's global functions return: those of
 * jinja2 and the two that transformers adds. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "jinja_functions.h"
#include "jinja_string.h"

/* jinja2's sandbox has the same limit. */
enum { MAX_RANGE = 100 * 1000 };

static qmoe_status range(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    int64_t bounds[3] = {0, 0, 1};
    qmi_jlist *list = NULL;
    bool one = arguments[1].kind == QMI_J_ABSENT;
    (void)self;
    for (int i = 0; i < 3; i++)
        if (arguments[i].kind != QMI_J_ABSENT)
            QMI_TRY(qmi_jneed_int(run, arguments[i], "an argument of range",
                &bounds[one ? 1 : i]));
    int64_t step = bounds[2], distance = 0;
    if (step == 0 || step == INT64_MIN)
        return qmi_jfail(run, QMOE_E_FORMAT, "range: the step is not usable");
    bool overflow = __builtin_sub_overflow(
        bounds[step < 0 ? 0 : 1], bounds[step < 0 ? 1 : 0], &distance);
    int64_t size = step < 0 ? -step : step;
    int64_t n = distance <= 0 ? 0 : (distance - 1) / size + 1;
    if (overflow || n > MAX_RANGE)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "range: more than %d numbers", MAX_RANGE);
    QMI_TRY(qmi_jnew_list(run, QMI_J_RANGE, (size_t)n, &list));
    for (int64_t i = 0; i < n; i++)
        list->items[i] = qmi_jint(bounds[0] + i * step);
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

/* dict(a=1), namespace(a=1), either of another dict with more. */
static qmoe_status make_dict(
    qmi_jrun *run, qmi_jvalue self, const qmi_jcall *call, qmi_jvalue *out)
{
    qmi_jdict *dict = NULL;
    (void)self;
    QMI_TRY(qmi_jnew_dict(run, call->n_named, &dict));
    if (call->n > 1 || (call->n == 1 && call->values[0].kind != QMI_J_DICT))
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "dict and namespace of anything but a dict and names are not "
            "supported");
    const qmi_jdict *first = call->n == 1 ? call->values[0].as.dict : NULL;
    for (size_t i = 0; first != NULL && i < first->n; i++)
        QMI_TRY(qmi_jdict_set(
            run, dict, first->entries[i].key, first->entries[i].value));
    for (size_t i = 0; i < call->n_named; i++)
        QMI_TRY(qmi_jdict_set(
            run, dict, qmi_jof_string(call->names[i]), call->named[i]));
    *out = qmi_jof_dict(dict);
    return QMOE_OK;
}

static qmoe_status make_namespace(
    qmi_jrun *run, qmi_jvalue self, const qmi_jcall *call, qmi_jvalue *out)
{
    QMI_TRY(make_dict(run, self, call, out));
    out->kind = QMI_J_NAMESPACE;
    return QMOE_OK;
}

static qmoe_status raise_exception(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    const qmi_jstring *text = NULL;
    (void)self;
    (void)out;
    QMI_TRY(qmi_jto_string(run, arguments[0], &text));
    return qmi_jfail(run, QMOE_E_INVALID, "the template refuses: %.*s",
        text->n_bytes > 400 ? 400 : (int)text->n_bytes, text->bytes);
}

/* Only what C and Python write alike. */
static bool is_safe_format(const char *format)
{
    static const char known[] = "aAbBcdDeFHIjmMnpSTuUwWxXyYZz%";
    for (const char *p = strchr(format, '%'); p != NULL;
         p = strchr(p + 1, '%')) {
        p += p[1] == '-' ? 2 : 1;
        if (*p == '\0' || strchr(known, *p) == NULL)
            return false;
    }
    return true;
}

static qmoe_status strftime_now(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    char format[128], text[1024];
    const qmi_jstring *string = NULL;
    struct tm now;
    time_t seconds = (time_t)run->now;
    (void)self;
    QMI_TRY(qmi_jneed_string(
        run, arguments[0], "the argument of strftime_now", &string));
    if (string->n_bytes < sizeof format && string->n_bytes > 0)
        memcpy(format, string->bytes, string->n_bytes);
    format[string->n_bytes < sizeof format ? string->n_bytes : 0] = '\0';
    if (strlen(format) != string->n_bytes || !is_safe_format(format) ||
        localtime_r(&seconds, &now) == NULL)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "strftime_now: this format is not supported");
    /* 0 for an empty text, too. */
    text[strftime(text, sizeof text, format, &now)] = '\0';
    QMI_TRY(qmi_jmake_string(run, text, &string));
    *out = qmi_jof_string(string);
    return QMOE_OK;
}

static const qmi_jfunction globals[] = {
    {.name = "range", .n_required = 1, .n_parameters = 3, .body = range},
    {.name = "dict", .open_body = make_dict},
    {.name = "namespace", .open_body = make_namespace},
    {.name = "raise_exception",
        .n_required = 1,
        .n_parameters = 1,
        .body = raise_exception,
        .parameters = {"message"}},
    {.name = "strftime_now",
        .n_required = 1,
        .n_parameters = 1,
        .body = strftime_now,
        .parameters = {"format"}},
    {.name = "cycler"},
    {.name = "joiner"},
    {.name = "lipsum"},
};

const qmi_jfunction *qmi_jfind_global(const qmi_jstring *name)
{
    return qmi_jfind_function(
        globals, sizeof globals / sizeof globals[0], name);
}
