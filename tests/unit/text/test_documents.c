/* SPDX-License-Identifier: Apache-2.0
 * Documents of text files: plain lines, records, line ends, limits and broken
 * input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "documents.h"

#define PATH QMOE_TEST_DIR "/test_documents.txt"

enum { MAX_LINE = 64 * 1000 * 1000 };

static void save(const void *data, size_t n)
{
    FILE *file = fopen(PATH, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static qmi_documents *open_file(void)
{
    qmi_documents *documents = NULL;
    qmi_error err = {0};
    if (qmi_documents_open(&documents, PATH, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return documents;
}

/* `expected` ends with NULL. */
static void check_bytes(const void *data, size_t n, const char *const *expected)
{
    save(data, n);
    qmi_documents *documents = open_file();
    for (;; expected++) {
        const char *text = NULL;
        size_t n_bytes = 0;
        qmi_error err = {0};
        if (qmi_documents_next(documents, &text, &n_bytes, &err) != QMOE_OK)
            fail_msg("%s", err.text);
        if (*expected == NULL) {
            assert_null(text);
            assert_int_equal(n_bytes, 0);
            break;
        }
        assert_non_null(text);
        assert_string_equal(text, *expected);
        assert_int_equal(n_bytes, strlen(*expected));
    }
    qmi_documents_close(documents);
}

static void check(const char *data, const char *const *expected)
{
    check_bytes(data, strlen(data), expected);
}

#define DOCS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void plain_lines(void **state)
{
    (void)state;
    check("one\ntwo\n", DOCS("one", "two"));
    check("one\ntwo", DOCS("one", "two"));
    check("one\r\ntwo\r\n\r\nthree\r\r\n", DOCS("one", "two", "three"));
    check("a\rb\n", DOCS("a\rb"));
    check("\n\n one \n\n\t \f\v\n\ntwo\n\n", DOCS(" one ", "two"));
    check("caf\xc3\xa9 \xe6\xbc\xa2\xf0\x9f\x98\x80\n",
        DOCS("caf\xc3\xa9 \xe6\xbc\xa2\xf0\x9f\x98\x80"));
    check("[1, 2]\n {\"text\": 1}\n", DOCS("[1, 2]", " {\"text\": 1}"));
}

static void no_documents(void **state)
{
    (void)state;
    const char *const none[] = {NULL};
    check("", none);
    check("\n", none);
    check("\r\n \r\n", none);
    check("\xef\xbb\xbf", none);
    check("{\"text\": \"\"}\n{\"text\": \" \\n\"}\n", none);
}

static void the_end_stays_the_end(void **state)
{
    (void)state;
    save("one\n", 4);
    qmi_documents *documents = open_file();
    const char *text = NULL;
    size_t n = 0;
    assert_int_equal(qmi_documents_next(documents, &text, &n, NULL), QMOE_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            qmi_documents_next(documents, &text, &n, NULL), QMOE_OK);
        assert_null(text);
    }
    qmi_documents_close(documents);
    qmi_documents_close(NULL);
}

static void records(void **state)
{
    (void)state;
    check("{\"text\": \"one\"}\n{\"id\": 3, \"text\": \"two\\nlines \\u00e9\","
          " \"more\": {\"text\": 1}}\r\nplain\n",
        DOCS("one", "two\nlines \xc3\xa9", "plain"));
    check("\xef\xbb\xbf{\"text\": \"marked\"}\n\xef\xbb\xbfkept\n",
        DOCS("marked", "\xef\xbb\xbfkept"));
}

static void check_broken(const char *data, size_t n, const char *where)
{
    save(data, n);
    qmi_documents *documents = open_file();
    const char *text = NULL;
    size_t n_bytes = 0;
    qmi_error err = {0};
    qmoe_status status;
    do {
        status = qmi_documents_next(documents, &text, &n_bytes, &err);
    } while (status == QMOE_OK && text != NULL);
    assert_int_equal(status, QMOE_E_FORMAT);
    assert_null(text);
    assert_int_equal(n_bytes, 0);
    char place[300];
    snprintf(place, sizeof place, "%s%s", PATH, where);
    if (strstr(err.text, place) == NULL)
        fail_msg("'%s' does not name %s", err.text, place);
    qmi_documents_close(documents);
}

static void broken_records(void **state)
{
    (void)state;
    static const char *const lines[] = {"{", "{}", "{\"text\"}",
        "{\"text\": 3}", "{\"text\": null}", "{\"text\": [\"a\"]}",
        "{\"Text\": \"a\"}", "{\"text\": \"a\"} b", "{\"text\": \"a\"",
        "{\"text\": \"a\\u0000b\"}", "{\"text\": \"a\", \"text\": \"b\"}",
        "{not json}"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char data[200];
        snprintf(data, sizeof data, "good\n\n%s\ngood\n", lines[i]);
        check_broken(data, strlen(data), ":3");
    }
}

static void broken_utf8(void **state)
{
    (void)state;
    static const char *const lines[] = {"\xff", "a\xc3", "\xc0\xaf",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "{\"text\": \"\x80\"}"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char data[200];
        snprintf(data, sizeof data, "good\n%s\ngood\n", lines[i]);
        check_broken(data, strlen(data), ":2");
    }
    /* A UTF-16 file, as some editors save text. */
    check_broken("\xff\xfe"
                 "a\0\n\0",
        6, ":1");
}

/* A NUL in a line is kept: the length counts. */
static void nul_bytes(void **state)
{
    (void)state;
    save("a\0b\nc\n", 6);
    qmi_documents *documents = open_file();
    const char *text = NULL;
    size_t n = 0;
    assert_int_equal(qmi_documents_next(documents, &text, &n, NULL), QMOE_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(text, "a\0b", 4);
    qmi_documents_close(documents);
}

/* Lines around the size of the reader's block, split at every place. */
static void block_borders(void **state)
{
    (void)state;
    enum { BLOCK = 64 * 1024 };
    static char data[3 * BLOCK + 16];
    for (int shift = -3; shift <= 3; shift++) {
        size_t n = (size_t)(BLOCK + shift), at = 0;
        memset(data, 'x', n);
        at = n;
        memcpy(data + at, "\r\nsecond\n", 9);
        at += 9;
        memset(data + at, 'y', 2 * BLOCK);
        at += 2 * BLOCK;
        save(data, at);
        qmi_documents *documents = open_file();
        const char *text = NULL;
        size_t found = 0;
        assert_int_equal(
            qmi_documents_next(documents, &text, &found, NULL), QMOE_OK);
        assert_int_equal(found, n);
        assert_memory_equal(text, data, n);
        assert_int_equal(
            qmi_documents_next(documents, &text, &found, NULL), QMOE_OK);
        assert_string_equal(text, "second");
        assert_int_equal(
            qmi_documents_next(documents, &text, &found, NULL), QMOE_OK);
        assert_int_equal(found, 2 * BLOCK);
        assert_memory_equal(text, data + n + 9, found);
        qmi_documents_close(documents);
    }
}

/* `n` bytes of 'x', written in pieces. */
static void put_run(FILE *file, size_t n)
{
    static char block[1 << 16];
    memset(block, 'x', sizeof block);
    for (; n >= sizeof block; n -= sizeof block)
        assert_int_equal(fwrite(block, 1, sizeof block, file), sizeof block);
    assert_int_equal(fwrite(block, 1, n, file), n);
}

static void longest_line(void **state)
{
    (void)state;
    const char *text = NULL;
    size_t n = 0;
    FILE *file = fopen(PATH, "wb");
    assert_non_null(file);
    fputs("first\n", file);
    put_run(file, MAX_LINE);
    fputs("\n", file);
    put_run(file, MAX_LINE + 1);
    fputs("\n", file);
    assert_int_equal(fclose(file), 0);

    qmi_documents *documents = open_file();
    qmi_error err = {0};
    assert_int_equal(qmi_documents_next(documents, &text, &n, &err), QMOE_OK);
    assert_int_equal(qmi_documents_next(documents, &text, &n, &err), QMOE_OK);
    assert_int_equal(n, MAX_LINE);
    assert_int_equal(
        qmi_documents_next(documents, &text, &n, &err), QMOE_E_FORMAT);
    assert_non_null(strstr(err.text, PATH ":3: "));
    qmi_documents_close(documents);
    unlink(PATH);
}

/* A hole of 1 TB without a line end is refused after its first 64 MB. */
static void endless_line(void **state)
{
    (void)state;
    const char *text = NULL;
    size_t n = 0;
    qmi_error err = {0};
    save("a\n", 2);
    if (truncate(PATH, (off_t)1 << 40) != 0)
        skip();
    qmi_documents *documents = open_file();
    assert_int_equal(qmi_documents_next(documents, &text, &n, &err), QMOE_OK);
    assert_int_equal(
        qmi_documents_next(documents, &text, &n, &err), QMOE_E_FORMAT);
    qmi_documents_close(documents);
    unlink(PATH);
}

static void unreadable(void **state)
{
    (void)state;
    qmi_documents *documents = (qmi_documents *)&documents;
    const char *text = NULL;
    size_t n = 0;
    qmi_error err = {0};
    assert_int_equal(
        qmi_documents_open(&documents, QMOE_TEST_DIR "/no/such/file.txt", &err),
        QMOE_E_NOT_FOUND);
    assert_null(documents);
    assert_non_null(strstr(err.text, "/no/such/file.txt"));

    /* A directory opens, but cannot be read. */
    qmoe_status status = qmi_documents_open(&documents, QMOE_TEST_DIR, &err);
    if (status == QMOE_OK)
        status = qmi_documents_next(documents, &text, &n, &err);
    assert_int_equal(status, QMOE_E_IO);
    assert_non_null(strstr(err.text, QMOE_TEST_DIR));
    qmi_documents_close(documents);
}

static void failing_allocations(void **state)
{
    (void)state;
    static const char data[] = "one\n{\"text\": \"two\"}\n";
    save(data, sizeof data - 1);
    for (uint64_t k = 1;; k++) {
        qmi_documents *documents = NULL;
        const char *text = NULL;
        size_t n = 0;
        qmi_alloc_fail_after(k);
        qmoe_status status = qmi_documents_open(&documents, PATH, NULL);
        if (status == QMOE_OK)
            do {
                status = qmi_documents_next(documents, &text, &n, NULL);
            } while (status == QMOE_OK && text != NULL);
        qmi_alloc_fail_after(0);
        qmi_documents_close(documents);
        if (status == QMOE_OK) {
            assert_true(k > 4);
            return;
        }
        assert_int_equal(status, QMOE_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_lines),
        cmocka_unit_test(no_documents),
        cmocka_unit_test(the_end_stays_the_end),
        cmocka_unit_test(records),
        cmocka_unit_test(broken_records),
        cmocka_unit_test(broken_utf8),
        cmocka_unit_test(nul_bytes),
        cmocka_unit_test(block_borders),
        cmocka_unit_test(longest_line),
        cmocka_unit_test(endless_line),
        cmocka_unit_test(unreadable),
        cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
