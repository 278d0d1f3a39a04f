/* SPDX-License-Identifier: Apache-2.0
 * Parameters of stacks: what a format records it reads again, what it cannot
 * use is refused by file and stack, and dictionaries are shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "pvq.h"
#include "rotation.h"
#include "ternary_dict.h"
#include "tlut.h"

/* An entry of config.json as a list of numbers. */
enum { MOST = 4 };
typedef struct entry {
    const char *keys[MOST];
    double values[MOST];
    int n;
} entry;

static bool put(void *to, const char *key, double value)
{
    entry *e = to;
    e->keys[e->n] = key;
    e->values[e->n++] = value;
    return true;
}

static const double *find(const qmi_parameters *p, const char *key)
{
    const entry *e = p->entry;
    for (int i = 0; i < e->n; i++)
        if (strcmp(e->keys[i], key) == 0)
            return &e->values[i];
    return NULL;
}

static qmoe_status number(
    const qmi_parameters *p, double *value, const char *key, qmi_error *err)
{
    const double *found = find(p, key);
    (void)err;
    *value = found != NULL ? *found : *value;
    return QMOE_OK;
}

static qmoe_status integer(const qmi_parameters *p, int64_t *value,
    const char *key, int64_t least, int64_t most, qmi_error *err)
{
    const double *found = find(p, key);
    *value = found != NULL ? (int64_t)*found : *value;
    if (*value >= least && *value <= most)
        return QMOE_OK;
    return qmi_fail(
        err, QMOE_E_FORMAT, "%s: '%s' is out of range", p->file, key);
}

static qmoe_status configure(qmi_weight *w, const entry *e,
    const qmi_weight *others, size_t n_others, qmi_error *err)
{
    const qmi_parameters from = {.file = "a/config.json",
        .entry = e,
        .number = number,
        .integer = integer,
        .others = others,
        .n_others = n_others};
    w->name = "stack";
    return w->format->configure(w, &from, err);
}

static void a_rotation_is_read_as_recorded(void **state)
{
    const qmi_weight rotated = {.format = &qmi_format_pvq8,
        .rotation = 64,
        .rotation_seed = UINT32_MAX};
    const qmi_weight plain = {.format = &qmi_format_pvq};
    qmi_weight read = {.format = &qmi_format_pvq8};
    entry e = {0}, none = {0};
    (void)state;
    assert_true(qmi_weight_record(&rotated, put, &e));
    assert_int_equal(configure(&read, &e, NULL, 0, NULL), QMOE_OK);
    assert_int_equal(read.rotation, 64);
    assert_int_equal(read.rotation_seed, UINT32_MAX);
    assert_true(qmi_weight_record(&plain, put, &none));
    assert_int_equal(none.n, 0);
    qmi_weight_release(&read);
}

static void what_cannot_be_used_is_refused(void **state)
{
    static const struct {
        const qmi_format *format;
        entry e;
        const char *text;
    } cases[] = {
        {&qmi_format_pvq, {{"rotation"}, {48}, 1}, "power of two"},
        {&qmi_format_pvq, {{"rotation"}, {2048}, 1}, "out of range"},
        {&qmi_format_pvq, {{"rotation_seed"}, {-1}, 1}, "out of range"},
        {&qmi_format_tlut_025, {{"rotation"}, {48}, 1}, "power of two"},
        {&qmi_format_tlut_4, {{"rotation"}, {2048}, 1}, "out of range"},
        {&qmi_format_tlut_4, {{"rotation_seed"}, {-1}, 1}, "out of range"},
        {&qmi_format_ternary_dict, {{"p0"}, {0.3}, 1}, "not in (0.3, 1)"},
        {&qmi_format_ternary_dict, {{"p0"}, {1}, 1}, "not in (0.3, 1)"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qmi_error err = {0};
        qmi_weight w = {.format = cases[i].format};
        assert_int_equal(
            configure(&w, &cases[i].e, NULL, 0, &err), QMOE_E_FORMAT);
        assert_non_null(strstr(err.text, cases[i].text));
        assert_non_null(strstr(err.text, "a/config.json: "));
        qmi_weight_release(&w);
    }
}

/* The generic dictionary needs none of its own, equal ones are one, and there
 * is an end to different ones. */
static void dictionaries_are_shared(void **state)
{
    enum { N = QMI_MAX_DICTIONARIES + 3 };
    qmi_weight w[N] = {{0}};
    qmi_error err = {0};
    size_t n = 0;
    (void)state;
    for (; n < QMI_MAX_DICTIONARIES + 2; n++) {
        /* Generic, 0.5, 0.5, then others. */
        entry e = {{"p0"}, {n < 2 ? 0.5 : 0.5 + 0.01 * (double)(n - 2)}, n > 0};
        w[n].format = &qmi_format_ternary_dict;
        assert_int_equal(configure(&w[n], &e, w, n, &err), QMOE_OK);
    }
    assert_null(w[0].codebook);
    assert_ptr_equal(w[1].codebook, w[2].codebook);
    assert_ptr_not_equal(w[2].codebook, w[3].codebook);
    const entry more = {{"p0"}, {0.9}, 1};
    w[n].format = &qmi_format_ternary_dict;
    assert_int_equal(configure(&w[n], &more, w, n, &err), QMOE_E_UNSUPPORTED);
    entry e = {0};
    assert_true(qmi_weight_record(&w[1], put, &e));
    assert_true(e.n == 1 && strcmp(e.keys[0], "p0") == 0 && e.values[0] == 0.5);
    /* One user stays. */
    qmi_weight_release(&w[1]);
    assert_true(((const qmi_dict *)w[2].codebook)->p0 == 0.5);
    for (size_t i = 0; i < N; i++)
        qmi_weight_release(&w[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rotation_is_read_as_recorded),
        cmocka_unit_test(what_cannot_be_used_is_refused),
        cmocka_unit_test(dictionaries_are_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
