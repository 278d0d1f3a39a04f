/* SPDX-License-Identifier: Apache-2.0
 * Files of torch.save as we write them, read back by our own reader; PyTorch
 * and Python's zipfile read them in tests/interop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "crc32.h"
#include "scratch.h"
#include "scratch_file.h"
#include "torch_file.h"
#include "torch_writer.h"
#include "zip_writer.h"

static qmi_error err;

static void must(qmoe_status status)
{
    if (status != QMOE_OK)
        fail_msg("%s: %s", qmoe_status_name(status), err.text);
}

static qmoe_status create(qmi_torch_writer **w, const char *path, bool ordered)
{
    qmi_new_file file;
    *w = NULL;
    QMI_TRY(scratch_new_file(&file, path, &err));
    return qmi_torch_writer_create(w, &file, ordered, &err);
}

static const struct {
    const char *name;
    qmi_dtype dtype;
    int rank;
    int64_t shape[5];
} items[] = {
    {"scalar", QMI_F64, 0, {0}},
    {"vector", QMI_I16, 1, {70000}},
    {"empty", QMI_BF16, 1, {0}},
    {"matrix", QMI_BF16, 2, {3, 5}},
    {"hollow", QMI_F32, 3, {2, 0, 4}},
    {"deep", QMI_U8, 5, {2, 1, 3, 1, 2}},
    {"flags", QMI_BOOL, 1, {9}},
    {"halves", QMI_F16, 2, {1, 7}},
    {"longs", QMI_I64, 2, {2, 2}},
    {"ints", QMI_I32, 1, {300}},
    {"bytes", QMI_I8, 1, {1}},
    {"last empty", QMI_I32, 1, {0}},
};
enum { N_ITEMS = sizeof items / sizeof *items };

static uint8_t byte_at(size_t item, uint64_t i)
{
    return (uint8_t)(item * 31 + i * 7 + (i >> 8));
}

static void write_items(const char *path, bool ordered)
{
    qmi_torch_writer *w = NULL;
    uint64_t n_bytes = 0;
    must(create(&w, path, ordered));
    for (size_t i = 0; i < N_ITEMS; i++)
        must(qmi_torch_writer_tensor(w, items[i].name, items[i].dtype,
            items[i].shape, items[i].rank, &err));
    for (size_t i = 0; i < N_ITEMS; i++) {
        uint64_t n = qmi_dtype_bits(items[i].dtype) / 8;
        for (int d = 0; d < items[i].rank; d++)
            n *= (uint64_t)items[i].shape[d];
        for (uint64_t k = 0; k < n; k++) {
            uint8_t byte = byte_at(i, k);
            must(qmi_torch_writer_write(w, &byte, 1, &err));
        }
    }
    must(qmi_torch_writer_finish(w, &n_bytes, &err));
    qmi_torch_writer_destroy(w);
    assert_true(n_bytes > 140000);
}

static void check_items(const char *path)
{
    qmi_tensor_file *file = NULL;
    must(qmi_torch_open(&file, path, &err));
    assert_int_equal(qmi_tensor_file_count(file), N_ITEMS);
    for (size_t i = 0; i < N_ITEMS; i++) {
        const qmi_tensor *t = qmi_tensor_file_find(file, items[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, items[i].dtype);
        assert_int_equal(t->rank, items[i].rank);
        for (int d = 0; d < t->rank; d++)
            assert_int_equal(t->shape[d], items[i].shape[d]);
        for (uint64_t k = 0; k < t->n_bytes; k++)
            assert_int_equal(t->data[k], byte_at(i, k));
        if (t->n_bytes != 0)
            assert_int_equal((t->data - file->map.data) % 64, 0);
    }
    qmi_tensor_file_close(file);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = scratch_path("items.pt");
    write_items(path, false);
    check_items(path);
    write_items(path, true);
    check_items(path);
}

/* Every field that can be a ZIP64 field is one. */
static void test_zip64(void **state)
{
    (void)state;
    const char *path = scratch_path("wide.pt");
    qmi_zip_writer_wide_from(1);
    write_items(path, false);
    qmi_zip_writer_wide_from(UINT64_MAX);
    check_items(path);
    const char *mixed = scratch_path("mixed.pt");
    qmi_zip_writer_wide_from(1000);
    write_items(mixed, false);
    qmi_zip_writer_wide_from(UINT64_MAX);
    check_items(mixed);
}

/* More items than pickle sets at once, and integers of all lengths. */
static void test_integers(void **state)
{
    (void)state;
    enum { N = 2500 };
    const char *path = scratch_path("integers.pt");
    qmi_torch_writer *w = NULL;
    qmi_tensor_file *file = NULL;
    uint64_t n_bytes = 0;
    char name[32];
    must(create(&w, path, false));
    for (int64_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "n%d", (int)i);
        must(qmi_torch_writer_integer(w, name, i * i * i * i, &err));
    }
    must(qmi_torch_writer_finish(w, &n_bytes, &err));
    qmi_torch_writer_destroy(w);
    must(qmi_torch_open(&file, path, &err));
    assert_int_equal(qmi_torch_integer_count(file), N);
    for (int64_t i = 0; i < N; i++) {
        int64_t value = -1;
        snprintf(name, sizeof name, "n%d", (int)i);
        assert_true(qmi_torch_integer(file, name, &value));
        assert_int_equal(value, i * i * i * i);
    }
    qmi_tensor_file_close(file);
}

static void test_empty_dict(void **state)
{
    (void)state;
    const char *path = scratch_path("nothing.pt");
    qmi_torch_writer *w = NULL;
    uint64_t n_bytes = 0;
    must(create(&w, path, true));
    must(qmi_torch_writer_finish(w, &n_bytes, &err));
    qmi_torch_writer_destroy(w);
    qmi_tensor_file *file = NULL;
    must(qmi_torch_open(&file, path, &err));
    assert_int_equal(qmi_tensor_file_count(file), 0);
    qmi_tensor_file_close(file);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *path = scratch_path("refused.pt");
    const int64_t three = 3, negative = -1;
    uint64_t n_bytes = 0;
    qmi_torch_writer *w = NULL;
    must(create(&w, path, false));
    assert_error(qmi_torch_writer_tensor(w, "x", QMI_U64, &three, 1, &err),
        QMOE_E_UNSUPPORTED, err.text, "U64");
    assert_error(qmi_torch_writer_tensor(w, "x", QMI_F32, &negative, 1, &err),
        QMOE_E_INVALID, err.text, "bad shape");
    must(qmi_torch_writer_tensor(w, "x", QMI_U8, &three, 1, &err));
    must(qmi_torch_writer_write(w, "ab", 2, &err));
    assert_error(qmi_torch_writer_tensor(w, "y", QMI_U8, &three, 1, &err),
        QMOE_E_INVALID, err.text, "before the first write");
    assert_error(qmi_torch_writer_finish(w, &n_bytes, &err), QMOE_E_INVALID,
        err.text, "less data");
    assert_error(qmi_torch_writer_write(w, "cd", 2, &err), QMOE_E_INVALID,
        err.text, "more data");
    qmi_torch_writer_destroy(w);
}

static void test_allocation_failures(void **state)
{
    (void)state;
    const char *path = scratch_path("starved.pt");
    unlink(path);
    const int64_t three = 3;
    for (uint64_t n = 1;; n++) {
        uint64_t n_bytes = 0;
        qmi_torch_writer *w = NULL;
        qmi_alloc_fail_after(n);
        qmoe_status status = create(&w, path, false);
        if (status == QMOE_OK)
            status = qmi_torch_writer_tensor(w, "x", QMI_U8, &three, 1, &err);
        if (status == QMOE_OK)
            status = qmi_torch_writer_write(w, "abc", 3, &err);
        if (status == QMOE_OK)
            status = qmi_torch_writer_finish(w, &n_bytes, &err);
        qmi_alloc_fail_after(0);
        qmi_torch_writer_destroy(w);
        if (status == QMOE_OK)
            break;
        assert_int_equal(status, QMOE_E_NOMEM);
        assert_true(n < 100);
    }
}

static void test_crc32(void **state)
{
    (void)state;
    static const char check[] = "123456789"; /* the usual test vector */
    qmi_crc32 crc = {0};
    for (size_t cut = 0; cut < 10; cut++) {
        qmi_crc32_start(&crc);
        qmi_crc32_add(&crc, check, cut);
        qmi_crc32_add(&crc, check + cut, 9 - cut);
        assert_int_equal(qmi_crc32_value(&crc), 0xcbf43926);
    }
    qmi_crc32_start(&crc);
    assert_int_equal(qmi_crc32_value(&crc), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_zip64),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_empty_dict),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_crc32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
