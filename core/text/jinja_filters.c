/* SPDX-License-Identifier: Apache-2.0
 * In: a value and arguments.  Out: what the filter of that name makes of it.
 * Filters over lists are in jinja_list_filters.c. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja_functions.h"
#include "jinja_json.h"
#include "jinja_string.h"

#define BODY(name)                                                             \
    static qmoe_status name(qmi_jrun *run, qmi_jvalue self,                    \
        const qmi_jvalue *arguments, qmi_jvalue *out)

static bool given(qmi_jvalue value)
{
    return value.kind != QMI_J_ABSENT && value.kind != QMI_J_NONE;
}

/* ---- strings ---- */

BODY(trim)
{
    const qmi_jstring *string = NULL, *set = NULL;
    QMI_TRY(qmi_jto_string(run, self, &string));
    if (given(arguments[0]))
        QMI_TRY(
            qmi_jneed_string(run, arguments[0], "the argument of trim", &set));
    QMI_TRY(qmi_jstrip(run, string, set, QMI_J_LEFT | QMI_J_RIGHT, &string));
    *out = qmi_jof_string(string);
    return QMOE_OK;
}

static qmoe_status change_case(
    qmi_jrun *run, qmi_jvalue self, qmi_jcase change, qmi_jvalue *out)
{
    const qmi_jstring *string = NULL;
    QMI_TRY(qmi_jto_string(run, self, &string));
    return qmi_jchange_case(run, string, change, out);
}

BODY(upper)
{
    (void)arguments;
    return change_case(run, self, QMI_J_UPPER, out);
}

BODY(lower)
{
    (void)arguments;
    return change_case(run, self, QMI_J_LOWER, out);
}

BODY(capitalize)
{
    (void)arguments;
    return change_case(run, self, QMI_J_CAPITALIZE, out);
}

BODY(title)
{
    (void)arguments;
    return change_case(run, self, QMI_J_TITLE_WORDS, out);
}

BODY(replace)
{
    const qmi_jstring *string = NULL, *old = NULL, *with = NULL;
    int64_t max_count = -1;
    QMI_TRY(qmi_jto_string(run, self, &string));
    QMI_TRY(qmi_jto_string(run, arguments[0], &old));
    QMI_TRY(qmi_jto_string(run, arguments[1], &with));
    if (given(arguments[2]))
        QMI_TRY(qmi_jneed_int(
            run, arguments[2], "the third argument of replace", &max_count));
    QMI_TRY(qmi_jreplace(run, string, old, with, max_count, &string));
    *out = qmi_jof_string(string);
    return QMOE_OK;
}

BODY(string)
{
    const qmi_jstring *text = NULL;
    (void)arguments;
    QMI_TRY(qmi_jto_string(run, self, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

BODY(safe)
{
    const qmi_jstring *text = NULL;
    (void)arguments;
    QMI_TRY(qmi_jto_string(run, self, &text));
    QMI_TRY(qmi_jmark_safe(run, text, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

BODY(escape)
{
    const qmi_jstring *text = NULL;
    (void)arguments;
    QMI_TRY(qmi_jto_string(run, self, &text));
    QMI_TRY(qmi_jescape(run, text, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

/* What a line is indented by: an int or a string. */
static qmoe_status indentation(
    qmi_jrun *run, qmi_jvalue width, int64_t fallback, const qmi_jstring **out)
{
    int64_t n = fallback;
    if (width.kind == QMI_J_STRING) {
        *out = width.as.string;
        return QMOE_OK;
    }
    if (width.kind != QMI_J_ABSENT)
        QMI_TRY(qmi_jneed_int(run, width, "a width", &n));
    size_t start = run->n_bytes;
    for (int64_t i = 0; i < n; i++) {
        QMI_TRY(qmi_jspend(run, 1));
        QMI_TRY(qmi_jwrite_text(run, " "));
    }
    return qmi_jtake_text(run, start, out);
}

BODY(indent)
{
    const qmi_jstring *space = NULL, *text = NULL;
    qmi_jlist *lines = NULL;
    bool first = qmi_jtruth(arguments[1]), blank = qmi_jtruth(arguments[2]);
    QMI_TRY(qmi_jneed_string(run, self, "what is indented", &text));
    QMI_TRY(qmi_jno_markup(run, text));
    QMI_TRY(indentation(run, arguments[0], 4, &space));
    size_t start = run->n_bytes;
    /* A text that ends with a line end has an empty line after it. */
    QMI_TRY(qmi_jwrite(run, text));
    QMI_TRY(qmi_jwrite_text(run, "\n"));
    QMI_TRY(qmi_jtake_text(run, start, &text));
    QMI_TRY(qmi_jsplit_lines(run, text, false, &lines));
    for (size_t i = 0; i < lines->n; i++) {
        const qmi_jstring *line = lines->items[i].as.string;
        bool indented = i == 0 ? first : blank || line->n_bytes > 0;
        if (i > 0)
            QMI_TRY(qmi_jwrite_text(run, "\n"));
        if (indented)
            QMI_TRY(qmi_jwrite(run, space));
        QMI_TRY(qmi_jwrite(run, line));
    }
    QMI_TRY(qmi_jtake_text(run, start, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

/* ---- JSON ---- */

static qmoe_status json_separators(
    qmi_jrun *run, qmi_jvalue separators, qmi_jjson_style *style)
{
    if (separators.kind != QMI_J_LIST || separators.as.list->n != 2)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "tojson: the separators are no pair");
    const qmi_jvalue *pair = separators.as.list->items;
    QMI_TRY(qmi_jneed_string(run, pair[0], "a separator", &style->between));
    return qmi_jneed_string(run, pair[1], "a separator", &style->after_key);
}

BODY(tojson)
{
    qmi_jjson_style style = {0};
    const qmi_jstring *text = NULL;
    style.only_ascii = qmi_jtruth(arguments[0]);
    if (qmi_jtruth(arguments[3]))
        return qmi_jfail(
            run, QMOE_E_UNSUPPORTED, "tojson: sort_keys is not supported");
    if (given(arguments[1]))
        QMI_TRY(indentation(run, arguments[1], 0, &style.indent));
    if (given(arguments[2]))
        QMI_TRY(json_separators(run, arguments[2], &style));
    else {
        QMI_TRY(qmi_jmake_string(
            run, style.indent == NULL ? ", " : ",", &style.between));
        QMI_TRY(qmi_jmake_string(run, ": ", &style.after_key));
    }
    size_t start = run->n_bytes;
    QMI_TRY(qmi_jwrite_json(run, self, &style));
    QMI_TRY(qmi_jtake_text(run, start, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

/* ---- numbers ---- */

/* The text of a number without white space around it and without underscores
 * between digits; false: no ASCII, too long, or an underscore elsewhere. */
static bool number_text(char text[400], const qmi_jstring *string)
{
    size_t from = 0, to = string->n_bytes, n = 0;
    const char *bytes = string->bytes;
    while (from < to && qmi_jis_space((uint8_t)bytes[from]))
        from++;
    while (from < to && qmi_jis_space((uint8_t)bytes[to - 1]))
        to--;
    for (size_t i = from; i < to; i++) {
        char c = bytes[i];
        bool between = i > from && i + 1 < to &&
                       isdigit((uint8_t)bytes[i - 1]) &&
                       isdigit((uint8_t)bytes[i + 1]);
        if ((uint8_t)c >= 0x80 || (c == '_' && !between) || n == 399)
            return false;
        if (c != '_')
            text[n++] = (char)tolower((uint8_t)c);
    }
    text[n] = '\0';
    return n > 0 && strlen(text) == n;
}

static bool parse_float(const qmi_jstring *string, double *out)
{
    char text[400], *end = NULL;
    if (!number_text(text, string))
        return false;
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    bool word = strcmp(digits, "inf") == 0 || strcmp(digits, "nan") == 0 ||
                strcmp(digits, "infinity") == 0;
    if (!word && strspn(text, "+-.0123456789e") != strlen(text))
        return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

/* 1: an integer; 0: none; -1: one that does not fit. */
static int parse_int(const qmi_jstring *string, int64_t *out)
{
    char text[400], *end = NULL;
    if (!number_text(text, string))
        return 0;
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    if (digits[0] == '\0' || strspn(digits, "0123456789") != strlen(digits))
        return 0;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return errno == ERANGE ? -1 : 1;
}

static qmoe_status int_of_real(qmi_jrun *run, double value, qmi_jvalue *out)
{
    if (fabs(value) >= 9.2e18)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "integers of more than 64 bits are not supported");
    *out = qmi_jint((int64_t)value);
    return QMOE_OK;
}

static qmoe_status undefined_number(qmi_jrun *run)
{
    return qmi_jfail(run, QMOE_E_FORMAT, "an undefined value is made a number");
}

BODY(to_int)
{
    double real = 0;
    int64_t integer = 0;
    if (arguments[1].kind != QMI_J_ABSENT)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "int: the argument 'base' is not supported");
    *out = arguments[0].kind == QMI_J_ABSENT ? qmi_jint(0) : arguments[0];
    if (self.kind == QMI_J_UNDEFINED)
        return undefined_number(run);
    if (qmi_jis_integer(self)) {
        *out = qmi_jint(qmi_jinteger(self));
        return QMOE_OK;
    }
    if (self.kind == QMI_J_STRING) {
        int is_int = parse_int(self.as.string, &integer);
        if (is_int > 0)
            *out = qmi_jint(integer);
        if (is_int < 0)
            return int_of_real(run, HUGE_VAL, out);
        if (is_int > 0 || !parse_float(self.as.string, &real) ||
            !isfinite(real))
            return QMOE_OK;
        return int_of_real(run, real, out);
    }
    if (self.kind != QMI_J_FLOAT || isnan(self.as.real))
        return QMOE_OK;
    if (isinf(self.as.real))
        return qmi_jfail(run, QMOE_E_FORMAT, "an infinite number as an int");
    return int_of_real(run, self.as.real, out);
}

BODY(to_float)
{
    double real = 0;
    *out = arguments[0].kind == QMI_J_ABSENT ? qmi_jfloat(0) : arguments[0];
    if (self.kind == QMI_J_UNDEFINED)
        return undefined_number(run);
    if (qmi_jis_number(self))
        *out = qmi_jfloat(qmi_jreal(self));
    else if (self.kind == QMI_J_STRING && parse_float(self.as.string, &real))
        *out = qmi_jfloat(real);
    return QMOE_OK;
}

BODY(absolute)
{
    (void)arguments;
    if (self.kind == QMI_J_FLOAT) {
        *out = qmi_jfloat(fabs(self.as.real));
        return QMOE_OK;
    }
    if (!qmi_jis_integer(self))
        return qmi_jfail(
            run, QMOE_E_FORMAT, "abs does not take a %s", qmi_jtype(self));
    *out = qmi_jint(qmi_jinteger(self));
    return qmi_jinteger(self) < 0 ? qmi_jnegative(run, self, out) : QMOE_OK;
}

/* round(value, precision): ties to the even digit, from the exact value. */
static double round_common(double value, int precision)
{
    char text[400];
    snprintf(text, sizeof text, "%.*f", precision, value);
    return strtod(text, NULL);
}

BODY(round_number)
{
    int64_t precision = 0;
    const qmi_jstring *method = NULL;
    if (arguments[0].kind != QMI_J_ABSENT)
        QMI_TRY(qmi_jneed_int(run, arguments[0], "a precision", &precision));
    if (arguments[1].kind != QMI_J_ABSENT)
        QMI_TRY(qmi_jneed_string(run, arguments[1], "a method", &method));
    if (!qmi_jis_number(self))
        return qmi_jfail(
            run, QMOE_E_FORMAT, "round does not take a %s", qmi_jtype(self));
    if (precision < 0 || precision > 15)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "round: a precision below 0 or above 15 is not supported");
    double value = qmi_jreal(self), scale = pow(10, (double)precision);
    bool common = method == NULL || qmi_jname_is(method, "common");
    if (common && qmi_jis_integer(self))
        *out = qmi_jint(qmi_jinteger(self));
    else if (!isfinite(value) && !common)
        return qmi_jfail(run, QMOE_E_FORMAT, "an infinite number is rounded");
    else if (common)
        *out = qmi_jfloat(
            isfinite(value) ? round_common(value, (int)precision) : value);
    else if (qmi_jname_is(method, "ceil"))
        *out = qmi_jfloat(ceil(value * scale) / scale + 0.0);
    else if (qmi_jname_is(method, "floor"))
        *out = qmi_jfloat(floor(value * scale) / scale + 0.0);
    else
        return qmi_jfail(run, QMOE_E_FORMAT, "round: the method is not known");
    return QMOE_OK;
}

/* ---- any value ---- */

BODY(fallback)
{
    bool use = self.kind == QMI_J_UNDEFINED ||
               (qmi_jtruth(arguments[1]) && !qmi_jtruth(self));
    *out = self;
    if (!use)
        return QMOE_OK;
    if (arguments[0].kind != QMI_J_ABSENT) {
        *out = arguments[0];
        return QMOE_OK;
    }
    const qmi_jstring *empty = NULL;
    QMI_TRY(qmi_jmake_string(run, "", &empty));
    *out = qmi_jof_string(empty);
    return QMOE_OK;
}

BODY(length)
{
    size_t n = 0;
    (void)arguments;
    QMI_TRY(qmi_jlength(run, self, &n));
    *out = qmi_jint((int64_t)n);
    return QMOE_OK;
}

static const qmi_jfunction filters[] = {
    {.name = "trim", .n_parameters = 1, .body = trim, .parameters = {"chars"}},
    {.name = "upper", .body = upper},
    {.name = "lower", .body = lower},
    {.name = "capitalize", .body = capitalize},
    {.name = "title", .body = title},
    {.name = "replace",
        .n_required = 2,
        .n_parameters = 3,
        .body = replace,
        .parameters = {"old", "new", "count"}},
    {.name = "string", .body = string},
    {.name = "safe", .body = safe},
    {.name = "escape", .body = escape},
    {.name = "e", .body = escape},
    {.name = "indent",
        .n_parameters = 3,
        .body = indent,
        .parameters = {"width", "first", "blank"}},
    {.name = "tojson",
        .n_parameters = 4,
        .body = tojson,
        .parameters = {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {.name = "int",
        .n_parameters = 2,
        .body = to_int,
        .parameters = {"default", "base"}},
    {.name = "float",
        .n_parameters = 1,
        .body = to_float,
        .parameters = {"default"}},
    {.name = "abs", .body = absolute},
    {.name = "round",
        .n_parameters = 2,
        .body = round_number,
        .parameters = {"precision", "method"}},
    {.name = "default",
        .n_parameters = 2,
        .body = fallback,
        .parameters = {"default_value", "boolean"}},
    {.name = "d",
        .n_parameters = 2,
        .body = fallback,
        .parameters = {"default_value", "boolean"}},
    {.name = "length", .body = length},
    {.name = "count", .body = length},
};

const qmi_jfunction *qmi_jfind_filter(const qmi_jstring *name)
{
    const qmi_jfunction *found =
        qmi_jfind_function(filters, sizeof filters / sizeof filters[0], name);
    if (found == NULL)
        found =
            qmi_jfind_function(qmi_jlist_filters, qmi_jn_list_filters, name);
    return found;
}
