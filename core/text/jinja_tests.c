/* SPDX-License-Identifier: Apache-2.0
 * In: a value and arguments.  Out: whether `value is test(arguments)`. */
#include "jinja_functions.h"
#include "jinja_string.h"
#include "jinja_tree.h"

#define TEST(name, expression)                                                 \
    static qmoe_status name(qmi_jrun *run, qmi_jvalue self,                    \
        const qmi_jvalue *arguments, qmi_jvalue *out)                          \
    {                                                                          \
        (void)run;                                                             \
        (void)arguments;                                                       \
        *out = qmi_jbool(expression);                                          \
        return QMOE_OK;                                                        \
    }

TEST(defined, self.kind != QMI_J_UNDEFINED)
TEST(undefined, self.kind == QMI_J_UNDEFINED)
TEST(none, self.kind == QMI_J_NONE)
TEST(string, self.kind == QMI_J_STRING)
TEST(number, qmi_jis_number(self))
TEST(integer, self.kind == QMI_J_INT)
TEST(floating, self.kind == QMI_J_FLOAT)
TEST(boolean, self.kind == QMI_J_BOOL)
TEST(truth, self.kind == QMI_J_BOOL && self.as.boolean)
TEST(falsehood, self.kind == QMI_J_BOOL && !self.as.boolean)
TEST(mapping, self.kind == QMI_J_DICT)
TEST(callable, self.kind == QMI_J_MACRO || self.kind == QMI_J_FUNCTION ||
                   self.kind == QMI_J_METHOD || self.kind == QMI_J_UNDEFINED)
TEST(iterable, self.kind == QMI_J_STRING || self.kind == QMI_J_LIST ||
                   self.kind == QMI_J_DICT || self.kind == QMI_J_UNDEFINED ||
                   self.kind == QMI_J_LOOP)
TEST(sequence, self.kind == QMI_J_STRING || self.kind == QMI_J_DICT ||
                   self.kind == QMI_J_UNDEFINED ||
                   qmi_jis_list(self, 1u << QMI_J_PLAIN | 1u << QMI_J_TUPLE |
                                          1u << QMI_J_RANGE))

static qmoe_status compare(
    qmi_jrun *run, uint16_t op, qmi_jvalue a, qmi_jvalue b, qmi_jvalue *out)
{
    bool holds = false;
    QMI_TRY(qmi_jcompare(run, op, a, b, &holds));
    *out = qmi_jbool(holds);
    return QMOE_OK;
}

#define COMPARISON(name, op)                                                   \
    static qmoe_status name(qmi_jrun *run, qmi_jvalue self,                    \
        const qmi_jvalue *arguments, qmi_jvalue *out)                          \
    {                                                                          \
        return compare(run, op, self, arguments[0], out);                      \
    }

COMPARISON(equal, QMI_J_TWO('=', '='))
COMPARISON(different, QMI_J_TWO('!', '='))
COMPARISON(less, '<')
COMPARISON(less_or_equal, QMI_J_TWO('<', '='))
COMPARISON(greater, '>')
COMPARISON(greater_or_equal, QMI_J_TWO('>', '='))
COMPARISON(inside, 'i')

/* value % divisor == remainder */
static qmoe_status leaves(qmi_jrun *run, qmi_jvalue self, qmi_jvalue divisor,
    int64_t remainder, qmi_jvalue *out)
{
    qmi_jvalue rest = {0};
    if (!qmi_jis_number(self))
        return qmi_jfail(
            run, QMOE_E_FORMAT, "a %s is divided", qmi_jtype(self));
    QMI_TRY(qmi_jbinary(run, '%', self, divisor, &rest));
    return compare(run, QMI_J_TWO('=', '='), rest, qmi_jint(remainder), out);
}

static qmoe_status odd(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    (void)arguments;
    return leaves(run, self, qmi_jint(2), 1, out);
}

static qmoe_status even(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    (void)arguments;
    return leaves(run, self, qmi_jint(2), 0, out);
}

static qmoe_status divisible(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    return leaves(run, self, arguments[0], 0, out);
}

/* Of its text: all letters are upper (or lower), and there are some. */
static qmoe_status has_case(
    qmi_jrun *run, qmi_jvalue self, const char *method, qmi_jvalue *out)
{
    const qmi_jstring *text = NULL, *name = NULL;
    qmi_jcall none = {0};
    QMI_TRY(qmi_jto_string(run, self, &text));
    QMI_TRY(qmi_jmake_string(run, method, &name));
    self = qmi_jof_string(text);
    return qmi_jcall_function(
        run, qmi_jfind_method(self, name), self, &none, out);
}

static qmoe_status lower(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    (void)arguments;
    return has_case(run, self, "islower", out);
}

static qmoe_status upper(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out)
{
    (void)arguments;
    return has_case(run, self, "isupper", out);
}

#define ONE(test_name, test_body)                                              \
    {                                                                          \
        .name = test_name, .n_required = 1, .n_parameters = 1,                 \
        .body = test_body                                                      \
    }

static const qmi_jfunction tests[] = {
    {.name = "defined", .body = defined},
    {.name = "undefined", .body = undefined},
    {.name = "none", .body = none},
    {.name = "string", .body = string},
    {.name = "number", .body = number},
    {.name = "integer", .body = integer},
    {.name = "float", .body = floating},
    {.name = "boolean", .body = boolean},
    {.name = "true", .body = truth},
    {.name = "false", .body = falsehood},
    {.name = "mapping", .body = mapping},
    {.name = "callable", .body = callable},
    {.name = "iterable", .body = iterable},
    {.name = "sequence", .body = sequence},
    {.name = "odd", .body = odd},
    {.name = "even", .body = even},
    {.name = "lower", .body = lower},
    {.name = "upper", .body = upper},
    ONE("divisibleby", divisible),
    ONE("eq", equal),
    ONE("equalto", equal),
    ONE("==", equal),
    ONE("ne", different),
    ONE("!=", different),
    ONE("lt", less),
    ONE("lessthan", less),
    ONE("<", less),
    ONE("le", less_or_equal),
    ONE("<=", less_or_equal),
    ONE("gt", greater),
    ONE("greaterthan", greater),
    ONE(">", greater),
    ONE("ge", greater_or_equal),
    ONE(">=", greater_or_equal),
    ONE("in", inside),
};

const qmi_jfunction *qmi_jfind_test(const qmi_jstring *name)
{
    return qmi_jfind_function(tests, sizeof tests / sizeof tests[0], name);
}
