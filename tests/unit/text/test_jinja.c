/* SPDX-License-Identifier: Apache-2.0
 * Templates: provenance of every byte, refusals by name, limits.  What they
 * render is compared with jinja2 in tests/interop/test_jinja.py. */
#include "scratch.h"

#include <stdlib.h>

#include "jinja.h"

static const qmi_jinja_variable variables[] = {
    {NULL,
        "{\"u\": \"Ab c,D\", \"w\": \" x\\n\", \"l\": [\"p\", \"q\"], \"d\": "
        "{\"k\": \"v\"}, \"f\": [1, 1.0, -2.5e3]}",
        true},
    {"own", "\"o\"", false}};

static qmoe_status render(
    const char *template, qmi_jinja_text *text, qmi_error *err)
{
    qmi_jinja *jinja = NULL;
    *text = (qmi_jinja_text){0};
    qmoe_status status =
        qmi_jinja_open(&jinja, template, strlen(template), "t", err);
    if (status == QMOE_OK)
        status = qmi_jinja_render(jinja, text, variables,
            sizeof variables / sizeof variables[0], 0, err);
    qmi_jinja_close(jinja);
    return status;
}

/* expected: the text, with user data between ^ and $. */
static void check(const char *template, const char *expected)
{
    char got[1024];
    size_t n = 0;
    qmi_jinja_text text;
    qmi_error err = {0};
    if (render(template, &text, &err) != QMOE_OK)
        fail_msg("%s: %s", template, err.text);
    assert_true(text.n_bytes < sizeof got / 3);
    for (size_t i = 0; i < text.n_bytes; i++) {
        bool data = text.literal[i] != 0;
        if (data && (i == 0 || text.literal[i - 1] == 0))
            got[n++] = '^';
        got[n++] = text.text[i];
        if (data && (i + 1 == text.n_bytes || text.literal[i + 1] == 0))
            got[n++] = '$';
    }
    got[n] = '\0';
    qmi_jinja_text_release(&text);
    assert_string_equal(got, expected);
}

static void refuse(const char *template, qmoe_status expected, const char *part)
{
    qmi_jinja_text text;
    qmi_error err = {0};
    assert_error(render(template, &text, &err), expected, err.text, part);
    assert_null(text.text);
    assert_null(text.literal);
    assert_null(strchr(err.text, '\n'));
}

static void test_provenance(void **state)
{
    (void)state;
    check("a{{ u }}b{{ own }}", "a^Ab c,D$bo");
    check("{{ '<' + u + '>' }}{{ '<' ~ u ~ own ~ '>' }}",
        "<^Ab c,D$><^Ab c,D$o>");
    check("{{ ('[' + w + ']').strip('[') }}{{ w | trim }}", "^ x\n$]^x$");
    check("{{ ('12' + u)[1:4] }}|{{ ('12' + u)[::-2] }}", "2^Ab$|^Dcb$2");
    check("{{ ('12' + u)[1] }}{{ ('12' + u)[2] }}", "2^A$");
    check("{{ u.replace('b', '-') }}{{ 'b-b'|replace('-', u) }}",
        "^A$-^ c,D$b^Ab c,D$b");
    check("{{ u.split(',') | join('|') }}", "^Ab c$|^D$");
    check("{{ ' 1'.join(l) }}{{ u.join(['<', '>']) }}", "^p$ 1^q$<^Ab c,D$>");
    check(
        "{{ ('x' + u) | upper }}{{ ('X' + u).lower() }}", "X^AB C,D$x^ab c,d$");
    check("{{ ('x' + u) | title }}{{ ('x' + u) | capitalize }}",
        "X^ab C,d$X^ab c,d$");
    check(
        "{{ d | tojson }}{{ l | string }}", "{\"^k$\": \"^v$\"}['^p$', '^q$']");
    check("{{ (w + '\"') | tojson }}", "\"^ x\\n$\\\"\"");
    check("{% set x %}<{{ u }}>{% endset %}{{ x }}", "<^Ab c,D$>");
    check("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(u) }}", "<^Ab c,D$>");
    check("{% filter upper %}<{{ u }}>{% endfilter %}", "<^AB C,D$>");
    check("{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %}", "^k$=^v$");
    check("{% for c in u %}{{ c }}.{% endfor %}", "^A$.^b$.^ $.^c$.^,$.^D$.");
    check("{{ (u + '\\nx\\n') | indent(1) }}", "^Ab c,D$\n x\n");
    check(
        "{{ u | length }}{{ u == 'Ab c,D' }}{{ f }}", "6True[1, 1.0, -2500.0]");
    check("{{ '<' ~ (u|safe) ~ '>' }}{{ (u|safe) + '<' }}",
        "<^Ab c,D$>^Ab c,D$&lt;");
    check("{{ u.splitlines()[0] }}.{{ u.rsplit(None, 1)[1] }}.{{ u|last }}",
        "^Ab c,D$.^c,D$.^D$");
}

/* Filters that are generators in jinja2 walk only what is true, and later. */
static void test_generators(void **state)
{
    (void)state;
    check("{{ none|selectattr('a')|list }}{{ 0|map('upper')|list }}", "[][]");
    check("{% set g = 1|select %}-", "-");
    refuse("{{ 1|select|list }}", QMOE_E_FORMAT, "cannot be walked");
    check("{% set g = [1]|select %}{{ g|list }}{{ g|list }}", "[1][]");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const statements[] = {"{% include 'a' %}",
        "{% import 'a' as b %}", "{% from 'a' import b %}", "{% extends 'a' %}",
        "{% block b %}{% endblock %}", "{% call m() %}{% endcall %}",
        "{% autoescape true %}", "{% do x %}"};
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        refuse(statements[i], QMOE_E_UNSUPPORTED, "t:1: the statement '");
    refuse("\n\n{{ u | urlize }}", QMOE_E_UNSUPPORTED,
        "t:3: the filter 'urlize' is not supported");
    refuse("{{ u is sameas u }}", QMOE_E_UNSUPPORTED, "the test 'sameas'");
    refuse("{{ u.format(1) }}", QMOE_E_UNSUPPORTED, "'format' is not");
    refuse("{{ '%s' % u }}", QMOE_E_UNSUPPORTED, "formatting");
    refuse("{{ lipsum() }}", QMOE_E_UNSUPPORTED, "'lipsum'");
    refuse("{{ u.__class__ }}", QMOE_E_UNSUPPORTED, "'__class__'");
    refuse("{% for a in l recursive %}{% endfor %}", QMOE_E_UNSUPPORTED,
        "recursive loops");
    refuse("{{ dict(*l) }}", QMOE_E_UNSUPPORTED, "calls with *");
    refuse("{{ '\xc3\xa9' | upper }}", QMOE_E_UNSUPPORTED, "(U+00E9)");
    refuse("{{ strftime_now('%s') }}", QMOE_E_UNSUPPORTED, "strftime_now");
    refuse("{{ l.append(1) }}", QMOE_E_FORMAT, "must not change lists");
    refuse("{{ none.a.b }}", QMOE_E_FORMAT, "'a' is undefined");
    refuse("\n{{ nope.a }}", QMOE_E_FORMAT, "t:2: 'nope' is undefined");
    refuse("{{ nope() }}", QMOE_E_FORMAT, "'nope' is not known");
    refuse("{{ 1 + 'a' }}", QMOE_E_FORMAT, "does not take a int and a string");
    refuse("{{ 9223372036854775807 + 1 }}", QMOE_E_UNSUPPORTED, "64 bits");
    refuse("{{ raise_exception('a\nb ' + u) }}", QMOE_E_INVALID,
        "the template refuses: a?b Ab c,D");
    refuse("{{ x", QMOE_E_FORMAT, "t:1: a tag does not end");
    refuse("{# x", QMOE_E_FORMAT, "a comment does not end");
    refuse("{{ 'x }}", QMOE_E_FORMAT, "a string does not end");
    refuse("{{ (1] }}", QMOE_E_FORMAT, "a bracket closes");
    refuse("{% if u %}", QMOE_E_FORMAT, "is missing");
    refuse("{% endif %}", QMOE_E_UNSUPPORTED, "'endif' is not supported here");
    refuse("{% break %}", QMOE_E_FORMAT, "outside of a loop");
    refuse("\xff", QMOE_E_FORMAT, "not valid UTF-8");
}

/* n times `part` between two texts. */
static char *repeated(
    const char *before, const char *part, size_t n, const char *after)
{
    size_t n_part = strlen(part);
    char *text = malloc(strlen(before) + n * n_part + strlen(after) + 1);
    assert_non_null(text);
    char *end = stpcpy(text, before);
    for (size_t i = 0; i < n; i++)
        end = stpcpy(end, part);
    strcpy(end, after);
    return text;
}

static void refuse_repeated(const char *before, const char *part, size_t n,
    const char *after, const char *error)
{
    char *text = repeated(before, part, n, after);
    refuse(text, QMOE_E_FORMAT, error);
    free(text);
}

static void test_limits(void **state)
{
    (void)state;
    refuse_repeated("", "x", (1 << 20) + 1, "", "longer than 1048576 bytes");
    refuse_repeated("{{ ", "(", 130, "", "brackets nest too deeply");
    refuse_repeated("{{ ", "-", 100000, "1 }}", "nests more than 100 levels");
    refuse_repeated("", "{% if u %}", 5000, "", "nests more than 100 levels");
    refuse_repeated("{{ 1", "+1", 1000, " }}", "nests more than 400 levels");
    refuse_repeated("{{ u", ".a", 1000, " }}", "nests more than 400 levels");
    refuse_repeated("{{ u", "|trim", 1000, " }}", "more than 400 levels");
    refuse_repeated("", "{{u}}", 100000, "", "more than 200000 tokens");
    refuse_repeated("{{ 1", "+1", 60000, " }}", "more than 100000 nodes");
    refuse("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", QMOE_E_FORMAT,
        "nests more than 400 levels");
    refuse("{% set n = namespace(x=[]) %}{% for i in range(500) %}"
           "{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
        QMOE_E_FORMAT, "nests more than 400 levels");
    refuse("{{ range(100001) }}", QMOE_E_FORMAT, "more than 100000 numbers");
    refuse("{{ range(-9223372036854775807, 9223372036854775807) }}",
        QMOE_E_FORMAT, "more than 100000 numbers");
    refuse("{% set a = range(9999) %}{% for i in a %}{% for j in a %}"
           "{% endfor %}{% endfor %}",
        QMOE_E_FORMAT, "the template ");
    refuse("{{ range(99999)|sum }}"
           "{% macro m(a) %}{% if 12345 in a %}"
           "{% endif %}{% endmacro %}{% set a = range(99999) %}"
           "{% for i in range(9999) %}{{ m(a) }}{% endfor %}",
        QMOE_E_FORMAT, "more than 10000000 steps");
    refuse("{{ 'x' * 99999999999 }}", QMOE_E_FORMAT, "steps");
    refuse("{{ ('x' * 99999) * 1000 }}", QMOE_E_FORMAT, "64000000 bytes");
    refuse("{{ [1, 2] * 99999999999 }}", QMOE_E_FORMAT, "steps");
    refuse("{{ [1, 2] * 15000000 }}", QMOE_E_FORMAT, "256 MB of memory");
    refuse("{% set n = namespace(x='x') %}{% for i in range(99) %}"
           "{% set n.x = n.x + n.x %}{% endfor %}",
        QMOE_E_FORMAT, "the template ");
    refuse("{{ 'a'|indent(99999999999) }}", QMOE_E_FORMAT, "steps");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_provenance),
        cmocka_unit_test(test_generators), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests_name("jinja", tests, NULL, NULL);
}
