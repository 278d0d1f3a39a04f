/* SPDX-License-Identifier: Apache-2.0
 * JSON from untrusted files: what is refused beyond cJSON's own rules, checked
 * members, and the cursor. */
#include "scratch.h"

#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
#include "json.h"

/* In a block of exactly its size, so that a sanitizer sees any read beyond. */
static qmoe_status parse(
    cJSON **out, const void *text, size_t n_bytes, qmi_error *err)
{
    char *copy = malloc(n_bytes != 0 ? n_bytes : 1);
    assert_non_null(copy);
    if (n_bytes != 0)
        memcpy(copy, text, n_bytes);
    qmoe_status status = qmi_json_parse(out, copy, n_bytes, "f.json", err);
    free(copy);
    return status;
}

#define TEXT(literal) literal, sizeof literal - 1

static void accepts_utf8(void **state)
{
    (void)state;
    assert_true(qmi_utf8_valid("", 0));
    assert_true(qmi_utf8_valid(TEXT("plain \x7f")));
    assert_true(qmi_utf8_valid(TEXT("\xc2\x80 \xdf\xbf")));
    assert_true(qmi_utf8_valid(TEXT("\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80")));
    assert_true(qmi_utf8_valid(TEXT("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf")));
}

static void refuses_bad_utf8(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {TEXT("\xff")},
        {TEXT("\x80")},
        {TEXT("\xc0\x80")},         /* overlong NUL */
        {TEXT("\xc1\xbf")},         /* overlong */
        {TEXT("\xe0\x9f\xbf")},     /* overlong */
        {TEXT("\xed\xa0\x80")},     /* surrogate */
        {TEXT("\xf0\x8f\xbf\xbf")}, /* overlong */
        {TEXT("\xf4\x90\x80\x80")}, /* above U+10FFFF */
        {TEXT("\xf5\x80\x80\x80")},
        {TEXT("a\xc2")},
        {TEXT("\xe2\x82")},
        {TEXT("\xf0\x9f\x98")},
        {TEXT("\xe2\x28\xa1")},
        {TEXT("\xe2\x82\x28")},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *copy = malloc(bad[i].n);
        memcpy(copy, bad[i].bytes, bad[i].n);
        if (qmi_utf8_valid(copy, bad[i].n))
            fail_msg("bad UTF-8 number %zu accepted", i);
        free(copy);
    }
}

static void accepts_json(void **state)
{
    (void)state;
    const char *const good[] = {
        "{}",
        " \t\r\n{ \"a\" : [ 1 , -2.5e+3 , 0 , 0.5, 1E5 ] , \"b\" : null } \n",
        "[true,false,null]",
        "\"\\u0041\\n\\\\u0000\\\"\"",
        "\"\\ud83d\\ude00 \xf0\x9f\x98\x80\"",
        "17",
        "{\"a\":{\"x\":1},\"b\":{\"x\":1},\"A\":2}",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        qmi_error err = {.text = ""};
        cJSON *value = NULL;
        if (parse(&value, good[i], strlen(good[i]), &err) != QMOE_OK)
            fail_msg("%s: %s", good[i], err.text);
        assert_non_null(value);
        cJSON_Delete(value);
    }
}

static void refuses_json(void **state)
{
    (void)state;
    const struct {
        const char *text;
        size_t n;
        const char *part;
    } bad[] = {
        {TEXT(""), "not valid JSON at line 1"},
        {TEXT("  "), "not valid JSON"},
        {TEXT("{"), "not valid JSON"},
        {TEXT("{}{}"), "not valid JSON"},
        {TEXT("{} x"), "not valid JSON"},
        {TEXT("{}\0"), "not valid JSON"},
        {TEXT("{\"a\":1,}"), "not valid JSON"},
        {TEXT("[1,]"), "not valid JSON"},
        {TEXT("[1 2]"), "not valid JSON"},
        {TEXT("{\n\n\"a\" 1}"), "not valid JSON at line 3"},
        {TEXT("{'a':1}"), "not valid JSON"},
        {TEXT("[NaN]"), "not valid JSON"},
        {TEXT("[nan]"), "not valid JSON"},
        {TEXT("[True]"), "not valid JSON"},
        {TEXT("[1] // c"), "not valid JSON"},
        {TEXT("[01]"), "not valid JSON"},
        {TEXT("[-]"), "not valid JSON"},
        {TEXT("[-01]"), "not valid JSON"},
        {TEXT("[1.]"), "not valid JSON"},
        {TEXT("[.5]"), "not valid JSON"},
        {TEXT("[+1]"), "not valid JSON"},
        {TEXT("[1e]"), "not valid JSON"},
        {TEXT("[1e+]"), "not valid JSON"},
        {TEXT("[1-2]"), "not valid JSON"},
        {TEXT("[0x10]"), "not valid JSON"},
        {TEXT("[\v1]"), "not valid JSON"},
        {TEXT("[\0001]"), "not valid JSON"},
        {TEXT("\"a\nb\""), "not valid JSON"},
        {TEXT("\"a"), "not valid JSON"},
        {TEXT("\"a\\"), "not valid JSON"},
        {TEXT("\"a\\x\""), "not valid JSON"},
        {TEXT("\"\\ud800\""), "not valid JSON"},
        {TEXT("\"\\ude00\""), "not valid JSON"},
        {TEXT("\"\\u00g0\""), "not valid JSON"},
        {TEXT("\"a\\u0000b\""), "not valid JSON"},
        {TEXT("{\"a\\u0000b\":1}"), "not valid JSON"},
        {TEXT("\xef\xbb\xbf{}"), "not valid JSON"},
        {TEXT("\"\xff\""), "not UTF-8"},
        {TEXT("\"\xed\xa0\x80\""), "not UTF-8"},
        {TEXT("{\"a\":1,\"b\":2,\"a\":3}"), "duplicate key 'a'"},
        {TEXT("{\"a\":1,\"\\u0061\":3}"), "duplicate key 'a'"},
        {TEXT("[[{\"k\":{\"b\":1,\"b\":2}}]]"), "duplicate key 'b'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qmi_error err = {.text = ""};
        cJSON *value = (cJSON *)&err;
        qmoe_status status = parse(&value, bad[i].text, bad[i].n, &err);
        if (status == QMOE_OK)
            fail_msg("accepted: %s", bad[i].text);
        assert_error(status, QMOE_E_FORMAT, err.text, bad[i].part);
        assert_error(status, QMOE_E_FORMAT, err.text, "f.json: ");
        assert_null(value);
    }
}

/* Neither depth nor bulk may cost much. */
static void refuses_hostile_size(void **state)
{
    (void)state;
    const size_t n = 5000001;
    char *text = malloc(n);
    cJSON *value = NULL;
    qmi_error err = {0};
    assert_non_null(text);
    memset(text, '[', n);
    qmoe_status status = qmi_json_parse(&value, text, n, "f.json", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "values in one file");
    status = qmi_json_parse(&value, text, 100000, "f.json", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "not valid JSON");
    for (size_t i = 1; i + 1 < n; i++)
        text[i] = i % 2 != 0 ? '0' : ',';
    text[n - 1] = ']';
    status = qmi_json_parse(&value, text, n, "f.json", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "values in one file");
    free(text);
}

static void reports_out_of_memory(void **state)
{
    (void)state;
    cJSON *value = NULL;
    qmi_error err = {0};
    qmi_alloc_fail_after(1);
    qmoe_status status = parse(&value, TEXT("{\"a\":1,\"b\":2}"), &err);
    qmi_alloc_fail_after(0);
    assert_error(status, QMOE_E_NOMEM, err.text, "out of memory");
    assert_null(value);
}

static void loads_files(void **state)
{
    (void)state;
    cJSON *value = NULL;
    qmi_error err = {0};
    const char *path = scratch_text("json-good.json", "{\"a\":[1]}");
    assert_int_equal(qmi_json_load(&value, path, &err), QMOE_OK);
    assert_true(cJSON_IsObject(value));
    cJSON_Delete(value);
    path = scratch_path("json-absent.json");
    qmoe_status status = qmi_json_load(&value, path, &err);
    assert_error(status, QMOE_E_NOT_FOUND, err.text, "json-absent.json");
    assert_null(value);
    path = scratch_text("json-bad.json", "{\"a\":[1}");
    status = qmi_json_load(&value, path, &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "json-bad.json");
    path = scratch_text("json-large.json", "");
    assert_int_equal(truncate(path, (64 << 20) + 1), 0);
    status = qmi_json_load(&value, path, &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "more than the 67108864");
    unlink(path);
}

/* ---- members ---- */

static const char members[] =
    "{\"int\":7,\"negative\":-3,\"float\":2.5,\"large\":9007199254740992,"
    "\"huge\":1e999,\"exponent\":1e3,\"text\":\"x\",\"no\":false,"
    "\"yes\":true,\"null\":null,\"list\":[1]}";

static int set_up(void **state)
{
    cJSON *object = NULL;
    qmoe_status status =
        qmi_json_parse(&object, members, sizeof members - 1, "f", NULL);
    *state = object;
    return status;
}

static int tear_down(void **state)
{
    cJSON_Delete(*state);
    return 0;
}

static void gets_integers(void **state)
{
    const cJSON *o = *state;
    int64_t v = 0;
    qmi_error err = {0};
    assert_int_equal(
        qmi_json_int(&v, o, "int", true, 0, 7, 7, "f", &err), QMOE_OK);
    assert_int_equal(v, 7);
    assert_int_equal(
        qmi_json_int(&v, o, "negative", true, 0, -3, 7, "f", &err), QMOE_OK);
    assert_int_equal(v, -3);
    assert_int_equal(
        qmi_json_int(&v, o, "exponent", true, 0, 0, 1000, "f", &err), QMOE_OK);
    assert_int_equal(v, 1000);
    assert_int_equal(
        qmi_json_int(&v, o, "absent", false, -9, 0, 1, "f", &err), QMOE_OK);
    assert_int_equal(v, -9);
    assert_int_equal(
        qmi_json_int(&v, o, "null", false, 5, 0, 1, "f", &err), QMOE_OK);
    assert_int_equal(v, 5);
    qmoe_status status = qmi_json_int(&v, o, "null", true, 5, 0, 9, "f", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "f: 'null' is missing");
    assert_int_equal(v, 0);
    const char *const bad[] = {
        "float", "large", "huge", "text", "no", "list", "int", "negative"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        v = 1;
        int64_t low = strcmp(bad[i], "int") == 0 ? 8 : -2;
        status =
            qmi_json_int(&v, o, bad[i], false, 0, low, INT64_MAX, "f", &err);
        assert_error(status, QMOE_E_FORMAT, err.text, "is not an integer");
        assert_error(status, QMOE_E_FORMAT, err.text, bad[i]);
        assert_int_equal(v, 0);
    }
    status = qmi_json_int(&v, o, "int", true, 0, 0, 6, "f", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "between 0 and 6");
}

static void gets_doubles(void **state)
{
    const cJSON *o = *state;
    double v = 0;
    qmi_error err = {0};
    assert_int_equal(qmi_json_double(&v, o, "float", 1, "f", &err), QMOE_OK);
    assert_true(v == 2.5);
    assert_int_equal(qmi_json_double(&v, o, "null", 1.5, "f", &err), QMOE_OK);
    assert_true(v == 1.5);
    qmoe_status status = qmi_json_double(&v, o, "huge", 1, "f", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "f: 'huge' is not a finite");
    assert_true(v == 0);
    status = qmi_json_double(&v, o, "text", 1, "f", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "'text' is not a finite");
}

static void gets_booleans(void **state)
{
    const cJSON *o = *state;
    bool v = false;
    qmi_error err = {0};
    assert_int_equal(qmi_json_bool(&v, o, "yes", false, "f", &err), QMOE_OK);
    assert_true(v);
    assert_int_equal(qmi_json_bool(&v, o, "no", true, "f", &err), QMOE_OK);
    assert_false(v);
    assert_int_equal(qmi_json_bool(&v, o, "absent", true, "f", &err), QMOE_OK);
    assert_true(v);
    qmoe_status status = qmi_json_bool(&v, o, "int", true, "f", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "'int' is not true or false");
    assert_false(v);
}

static void gets_strings(void **state)
{
    const cJSON *o = *state;
    const char *v = NULL;
    qmi_error err = {0};
    assert_int_equal(qmi_json_string(&v, o, "text", NULL, "f", &err), QMOE_OK);
    assert_string_equal(v, "x");
    assert_int_equal(qmi_json_string(&v, o, "null", NULL, "f", &err), QMOE_OK);
    assert_null(v);
    assert_int_equal(qmi_json_string(&v, o, "absent", "y", "f", &err), QMOE_OK);
    assert_string_equal(v, "y");
    assert_int_equal(qmi_json_string(&v, NULL, "a", "y", "f", &err), QMOE_OK);
    qmoe_status status = qmi_json_string(&v, o, "int", "y", "f", &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "'int' is not a string");
    assert_null(v);
}

static void converts_to_u64(void **state)
{
    (void)state;
    const struct {
        double number;
        bool good;
    } cases[] = {
        {0, true},
        {1, true},
        {9007199254740991.0, true},
        {9007199254740992.0, false},
        {1.8446744073709552e19, false},
        {-1, false},
        {0.5, false},
        {1e300, false},
    };
    uint64_t v = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *number = cJSON_CreateNumber(cases[i].number);
        v = 1;
        assert_int_equal(qmi_json_to_u64(&v, number), cases[i].good);
        assert_true(v == (cases[i].good ? (uint64_t)cases[i].number : 0));
        cJSON_Delete(number);
    }
    assert_false(qmi_json_to_u64(&v, NULL));
    cJSON *text = cJSON_CreateString("1");
    assert_false(qmi_json_to_u64(&v, text));
    cJSON_Delete(text);
}

/* ---- cursor ---- */

static void walks(void **state)
{
    (void)state;
    const char text[] = " { \"a\\n\" : 12 , \"b\":-1} ";
    qmi_json_cursor c = {text, text + sizeof text - 1};
    uint64_t v = 0;
    assert_false(qmi_json_take(&c, '['));
    assert_true(qmi_json_take(&c, '{'));
    cJSON *key = qmi_json_take_string(&c);
    assert_non_null(key);
    assert_string_equal(key->valuestring, "a\n");
    cJSON_Delete(key);
    assert_true(qmi_json_take(&c, ':'));
    assert_null(qmi_json_take_string(&c));
    assert_true(qmi_json_take_u64(&c, &v));
    assert_int_equal(v, 12);
    assert_true(qmi_json_take(&c, ','));
    key = qmi_json_take_string(&c);
    assert_non_null(key);
    cJSON_Delete(key);
    assert_true(qmi_json_take(&c, ':'));
    assert_false(qmi_json_take_u64(&c, &v));
    assert_int_equal(v, 0);
    assert_true(qmi_json_take(&c, '}'));
    assert_true(qmi_json_at_end(&c));
    assert_false(qmi_json_take(&c, '}'));
    assert_null(qmi_json_take_string(&c));
    assert_false(qmi_json_take_u64(&c, &v));
}

static void cursor_refuses(void **state)
{
    (void)state;
    const char *const strings[] = {
        "\"", "\"\\", "\"a\\u0000\"", "\"\x01\"", "\"\\q\"", "1", "\"\\u12\""};
    const char *const numbers[] = {"01", "1.", "1.5", "-1", "9007199254740992",
        "1e", "\"1\"", "1e99", "99999999999999999999", "-",
        "18446744073709551614"};
    uint64_t v = 0;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        qmi_json_cursor c = {strings[i], strings[i] + strlen(strings[i])};
        assert_null(qmi_json_take_string(&c));
        assert_ptr_equal(c.at, strings[i]);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        qmi_json_cursor c = {numbers[i], numbers[i] + strlen(numbers[i])};
        if (qmi_json_take_u64(&c, &v))
            fail_msg("accepted %s", numbers[i]);
    }
}

static void prints_numbers_as_read(void **state)
{
    static const char text[] =
        "{\"a\":0.0,\"b\":[1e3,2,-0.5,{\"c\":-1.0}],\"d\":\"7.0\",\"e\":8E0}";
    qmi_error err = {0};
    cJSON *tree = NULL;
    (void)state;
    assert_int_equal(parse(&tree, TEXT(text), &err), QMOE_OK);
    /* Still numbers, until they are printed. */
    assert_true(cJSON_GetObjectItem(tree, "e")->valuedouble == 8);
    cJSON *copy = cJSON_Duplicate(tree, true);
    qmi_json_print_as_read(copy);
    char *printed = cJSON_PrintUnformatted(copy);
    assert_string_equal(printed, text);
    cJSON_free(printed);
    cJSON_Delete(copy);
    cJSON_Delete(tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_utf8),
        cmocka_unit_test(refuses_bad_utf8),
        cmocka_unit_test(accepts_json),
        cmocka_unit_test(refuses_json),
        cmocka_unit_test(refuses_hostile_size),
        cmocka_unit_test(reports_out_of_memory),
        cmocka_unit_test(loads_files),
        cmocka_unit_test_setup_teardown(gets_integers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gets_doubles, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gets_booleans, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gets_strings, set_up, tear_down),
        cmocka_unit_test(converts_to_u64),
        cmocka_unit_test(walks),
        cmocka_unit_test(cursor_refuses),
        cmocka_unit_test(prints_numbers_as_read),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
