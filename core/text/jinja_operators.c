/* SPDX-License-Identifier: Apache-2.0
 * In: two values.  Out: what Python's operators make of them.  Integers that
 * do not fit into 64 bits are refused, never wrapped. */
#include <math.h>

#include "jinja_functions.h"
#include "jinja_string.h"
#include "jinja_tree.h"

static qmoe_status too_large(qmi_jrun *run)
{
    return qmi_jfail(run, QMOE_E_UNSUPPORTED,
        "integers of more than 64 bits are not supported");
}

static qmoe_status by_zero(qmi_jrun *run)
{
    return qmi_jfail(run, QMOE_E_FORMAT, "a division by zero");
}

/* ---- integers ---- */

static bool multiply(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static bool power(int64_t base, int64_t exponent, int64_t *out)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) != 0 && !multiply(result, base, &result))
            return false;
        exponent >>= 1;
        if (exponent > 0 && !multiply(base, base, &base))
            return false;
    }
    *out = result;
    return true;
}

/* Rounds down; the remainder has the sign of b, which is not 0. */
static int64_t divide(int64_t a, int64_t b, int64_t *remainder)
{
    int64_t quotient = a / b, rest = a % b;
    bool down = rest != 0 && (rest < 0) != (b < 0);
    *remainder = down ? rest + b : rest;
    return down ? quotient - 1 : quotient;
}

static qmoe_status integers(
    qmi_jrun *run, uint16_t op, int64_t a, int64_t b, qmi_jvalue *out)
{
    int64_t result = 0, remainder = 0;
    bool fits = true;
    switch (op) {
    case '+':
        fits = !__builtin_add_overflow(a, b, &result);
        break;
    case '-':
        fits = !__builtin_sub_overflow(a, b, &result);
        break;
    case '*':
        fits = multiply(a, b, &result);
        break;
    case QMI_J_TWO('*', '*'):
        fits = power(a, b, &result);
        break;
    default:
        if (b == 0)
            return by_zero(run);
        fits = a != INT64_MIN || b != -1;
        if (fits)
            result = divide(a, b, &remainder);
        if (op == '%')
            result = remainder;
    }
    *out = qmi_jint(result);
    return fits ? QMOE_OK : too_large(run);
}

/* ---- floats ---- */

static double floor_divide(double a, double b, double *remainder)
{
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0 && (b < 0) != (rest < 0)) {
        rest += b;
        quotient -= 1;
    } else if (rest == 0)
        rest = copysign(0.0, b);
    *remainder = rest;
    if (quotient == 0)
        return copysign(0.0, a / b);
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1 : whole;
}

static qmoe_status power_of_reals(
    qmi_jrun *run, double a, double b, qmi_jvalue *out)
{
    if (a == 0 && b < 0)
        return by_zero(run);
    if (a < 0 && b != floor(b))
        return qmi_jfail(
            run, QMOE_E_UNSUPPORTED, "complex numbers are not supported");
    double result = pow(a, b);
    if (isinf(result) && isfinite(a) && isfinite(b))
        return qmi_jfail(run, QMOE_E_FORMAT, "a number is too large");
    *out = qmi_jfloat(result);
    return QMOE_OK;
}

static qmoe_status reals(
    qmi_jrun *run, uint16_t op, double a, double b, qmi_jvalue *out)
{
    double result = 0, remainder = 0;
    switch (op) {
    case '+':
        result = a + b;
        break;
    case '-':
        result = a - b;
        break;
    case '*':
        result = a * b;
        break;
    case QMI_J_TWO('*', '*'):
        return power_of_reals(run, a, b, out);
    default:
        if (b == 0)
            return by_zero(run);
        result = op == '/' ? a / b : floor_divide(a, b, &remainder);
        if (op == '%')
            result = remainder;
    }
    *out = qmi_jfloat(result);
    return QMOE_OK;
}

/* ---- strings and lists ---- */

/* Markup has the string beside it escaped, and the sum is markup. */
static qmoe_status add_strings(
    qmi_jrun *run, const qmi_jstring *a, const qmi_jstring *b, qmi_jvalue *out)
{
    bool markup = a->is_markup || b->is_markup;
    const qmi_jstring *sum = NULL;
    if (markup) {
        QMI_TRY(qmi_jescape(run, a, &a));
        QMI_TRY(qmi_jescape(run, b, &b));
    }
    size_t start = run->n_bytes;
    QMI_TRY(qmi_jwrite(run, a));
    QMI_TRY(qmi_jwrite(run, b));
    QMI_TRY(qmi_jtake_text(run, start, &sum));
    if (markup)
        QMI_TRY(qmi_jmark_safe(run, sum, &sum));
    *out = qmi_jof_string(sum);
    return QMOE_OK;
}

static qmoe_status add_lists(
    qmi_jrun *run, const qmi_jlist *a, const qmi_jlist *b, qmi_jvalue *out)
{
    qmi_jlist *list = NULL;
    QMI_TRY(qmi_jnew_list(run, a->flavor, a->n + b->n, &list));
    for (size_t i = 0; i < a->n; i++)
        list->items[i] = a->items[i];
    for (size_t i = 0; i < b->n; i++)
        list->items[a->n + i] = b->items[i];
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

/* A string or list, n times. */
static qmoe_status repeat(
    qmi_jrun *run, qmi_jvalue value, int64_t n, qmi_jvalue *out)
{
    size_t start = run->n_bytes;
    const qmi_jstring *string = NULL;
    if (n < 0)
        n = 0;
    if (value.kind == QMI_J_STRING) {
        QMI_TRY(qmi_jno_markup(run, value.as.string));
        if (value.as.string->n_bytes == 0)
            n = 0;
        for (int64_t i = 0; i < n; i++) {
            QMI_TRY(qmi_jspend(run, 1));
            QMI_TRY(qmi_jwrite(run, value.as.string));
        }
        QMI_TRY(qmi_jtake_text(run, start, &string));
        *out = qmi_jof_string(string);
        return QMOE_OK;
    }
    const qmi_jlist *list = value.as.list;
    qmi_jlist *result = NULL;
    int64_t total = 0;
    if (!multiply((int64_t)list->n, n, &total))
        total = INT64_MAX / 64;
    QMI_TRY(qmi_jnew_list(run, list->flavor, (size_t)total, &result));
    for (size_t i = 0; i < result->n; i++)
        result->items[i] = list->items[i % list->n];
    *out = qmi_jof_list(result);
    return QMOE_OK;
}

static bool is_sequence(qmi_jvalue value)
{
    return value.kind == QMI_J_STRING ||
           qmi_jis_list(value, 1u << QMI_J_PLAIN | 1u << QMI_J_TUPLE);
}

static qmoe_status refuse_operands(
    qmi_jrun *run, uint16_t op, qmi_jvalue a, qmi_jvalue b)
{
    qmi_jvalue undefined = a.kind == QMI_J_UNDEFINED ? a : b;
    if (undefined.kind == QMI_J_UNDEFINED && undefined.as.name != NULL)
        return qmi_jfail(run, QMOE_E_FORMAT, "'%.*s' is undefined",
            QMI_J_SHOWN(undefined.as.name));
    if (op == '%' && a.kind == QMI_J_STRING)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "formatting by the operator %% is not supported");
    return qmi_jfail(run, QMOE_E_FORMAT,
        "the operator '%c' does not take a %s and a %s", (char)(op & 0xff),
        qmi_jtype(a), qmi_jtype(b));
}

qmoe_status qmi_jbinary(
    qmi_jrun *run, uint16_t op, qmi_jvalue a, qmi_jvalue b, qmi_jvalue *out)
{
    if (qmi_jis_integer(a) && qmi_jis_integer(b) && op != '/' &&
        (op != QMI_J_TWO('*', '*') || qmi_jinteger(b) >= 0))
        return integers(run, op, qmi_jinteger(a), qmi_jinteger(b), out);
    if (qmi_jis_number(a) && qmi_jis_number(b))
        return reals(run, op, qmi_jreal(a), qmi_jreal(b), out);
    if (op == '*' && is_sequence(a) && qmi_jis_integer(b))
        return repeat(run, a, qmi_jinteger(b), out);
    if (op == '*' && is_sequence(b) && qmi_jis_integer(a))
        return repeat(run, b, qmi_jinteger(a), out);
    if (op == '+' && a.kind == QMI_J_STRING && b.kind == QMI_J_STRING)
        return add_strings(run, a.as.string, b.as.string, out);
    if (op == '+' && is_sequence(a) && is_sequence(b) && a.kind == QMI_J_LIST &&
        b.kind == QMI_J_LIST && a.as.list->flavor == b.as.list->flavor)
        return add_lists(run, a.as.list, b.as.list, out);
    return refuse_operands(run, op, a, b);
}

qmoe_status qmi_jnegative(qmi_jrun *run, qmi_jvalue a, qmi_jvalue *out)
{
    if (a.kind == QMI_J_FLOAT)
        *out = qmi_jfloat(-a.as.real);
    else if (!qmi_jis_integer(a))
        return qmi_jfail(run, QMOE_E_FORMAT, "a %s has no sign", qmi_jtype(a));
    else if (qmi_jinteger(a) == INT64_MIN)
        return too_large(run);
    else
        *out = qmi_jint(-qmi_jinteger(a));
    return QMOE_OK;
}

qmoe_status qmi_jconcat(qmi_jrun *run, const qmi_jlist *items, qmi_jvalue *out)
{
    size_t start = run->n_bytes;
    const qmi_jstring *string = NULL;
    for (size_t i = 0; i < items->n; i++)
        QMI_TRY(qmi_jwrite_value(run, items->items[i]));
    QMI_TRY(qmi_jtake_text(run, start, &string));
    *out = qmi_jof_string(string);
    return QMOE_OK;
}

qmoe_status qmi_jcompare(
    qmi_jrun *run, uint16_t op, qmi_jvalue a, qmi_jvalue b, bool *out)
{
    int order = 0;
    if (op == QMI_J_TWO('=', '=') || op == QMI_J_TWO('!', '=')) {
        QMI_TRY(qmi_jequal(run, a, b, out));
        *out = *out == (op == QMI_J_TWO('=', '='));
        return QMOE_OK;
    }
    if (op == 'i' || op == 'n') {
        QMI_TRY(qmi_jcontains(run, a, b, out));
        *out = *out == (op == 'i');
        return QMOE_OK;
    }
    QMI_TRY(qmi_jorder(run, a, b, &order));
    *out = op == '<'                   ? order < 0
           : op == '>'                 ? order > 0
           : op == QMI_J_TWO('<', '=') ? order <= 0
                                       : order >= 0;
    return QMOE_OK;
}
