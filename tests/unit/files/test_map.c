/* SPDX-License-Identifier: Apache-2.0
 * Mapped files, small files read at once, and checksums. */
#include "scratch.h"

#include <unistd.h>

#include "alloc.h"
#include "hash.h"
#include "map.h"

static void maps_a_file(void **state)
{
    (void)state;
    qmi_map map;
    const char *path = scratch_text("map-good", "hello");
    assert_int_equal(qmi_map_open(&map, path, NULL), QMOE_OK);
    assert_int_equal(map.n_bytes, 5);
    assert_memory_equal(map.data, "hello", 5);
    qmi_map_will_need(map.data + 1, 3);
    qmi_map_done_with(map.data + 1, 3);
    assert_memory_equal(map.data, "hello", 5);
    qmi_map_close(&map);
    assert_null(map.data);
    qmi_map_close(&map);
    qmi_map_close(NULL);
    qmi_map_will_need(NULL, 0);
}

static void maps_an_empty_file(void **state)
{
    (void)state;
    qmi_map map;
    const char *path = scratch_text("map-empty", "");
    assert_int_equal(qmi_map_open(&map, path, NULL), QMOE_OK);
    assert_null(map.data);
    assert_int_equal(map.n_bytes, 0);
    qmi_map_close(&map);
}

static void refuses_what_is_no_file(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_map map = {(const uint8_t *)"x", 1};
    qmoe_status status = qmi_map_open(&map, scratch_path("map-absent"), &err);
    assert_error(status, QMOE_E_NOT_FOUND, err.text, "map-absent");
    assert_null(map.data);
    status = qmi_map_open(&map, scratch_directory("map-directory"), &err);
    assert_error(status, QMOE_E_IO, err.text, "not a regular file");
    /* Must not wait for somebody to write into it. */
    const char *fifo = scratch_path("map-fifo");
    unlink(fifo);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    status = qmi_map_open(&map, fifo, &err);
    assert_error(status, QMOE_E_IO, err.text, "not a regular file");
    unlink(fifo);
}

static void reads_a_small_file(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    qmi_error err = {0};
    const char *path = scratch_text("map-small", "12345");
    assert_int_equal(qmi_read_file(&text, &n, path, 5, &err), QMOE_OK);
    assert_int_equal(n, 5);
    assert_string_equal(text, "12345");
    qmi_free(text);
    qmoe_status status = qmi_read_file(&text, &n, path, 4, &err);
    assert_error(status, QMOE_E_FORMAT, err.text, "more than the 4 allowed");
    assert_null(text);
    assert_int_equal(n, 0);
    qmi_alloc_fail_after(1);
    status = qmi_read_file(&text, &n, path, 5, &err);
    qmi_alloc_fail_after(0);
    assert_error(status, QMOE_E_NOMEM, err.text, "out of memory");
    assert_null(text);
}

/* Known values of XXH3 with seed 0. */
static void hashes(void **state)
{
    (void)state;
    char hex[17];
    qmi_hash_hex(hex, qmi_hash64("", 0));
    assert_string_equal(hex, "2d06800538d394c2");
    qmi_hash_hex(hex, qmi_hash64("abc", 3));
    assert_string_equal(hex, "78af5f94892f3950");
    qmi_hash_hex(hex, 0xab);
    assert_string_equal(hex, "00000000000000ab");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_a_file),
        cmocka_unit_test(maps_an_empty_file),
        cmocka_unit_test(refuses_what_is_no_file),
        cmocka_unit_test(reads_a_small_file),
        cmocka_unit_test(hashes),
    };
    return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
