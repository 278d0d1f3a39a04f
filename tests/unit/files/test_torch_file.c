/* SPDX-License-Identifier: Apache-2.0
 * Files of PyTorch itself (tests/golden/torch), value by value, and what must
 * hold of views, of large files and when memory runs out. */
#include "scratch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
#include "torch_file.h"

#define GOLDEN QMOE_SOURCE_DIR "/tests/golden/torch/"

static qmi_tensor_file *open_good(const char *path)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = NULL;
    if (qmi_torch_open(&file, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return file;
}

/* Checks dtype and shape, and fetches. */
static const qmi_tensor *get(const qmi_tensor_file *file, const char *name,
    qmi_dtype dtype, int rank, int64_t rows, int64_t cols)
{
    const qmi_tensor *t = qmi_tensor_file_find(file, name);
    if (t == NULL)
        fail_msg("no tensor %s", name);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->rank, rank);
    assert_true(rank < 1 || t->shape[0] == rows);
    assert_true(rank < 2 || t->shape[1] == cols);
    assert_int_equal(
        qmi_tensor_file_fetch(file, t->data, t->n_bytes, NULL), QMOE_OK);
    return t;
}

static void reads_every_dtype(void **state)
{
    (void)state;
    qmi_tensor_file *file = open_good(GOLDEN "all.bin");
    static const int64_t i64[] = {-2, -1, 0, 1, 2};
    static const int32_t i32[] = {0, 1, 2};
    static const int16_t i16[] = {-1, 5};
    static const uint8_t i8[] = {0xff, 5}, u8[] = {1, 255}, truth[] = {1, 0};
    static const float scalar = 3.5f, ones[] = {1, 1, 1, 1};
    assert_int_equal(qmi_tensor_file_count(file), 20);
    const qmi_tensor *t = get(file, "i64", QMI_I64, 1, 5, 0);
    assert_memory_equal(t->data, i64, sizeof i64);
    t = get(file, "i32", QMI_I32, 1, 3, 0);
    assert_memory_equal(t->data, i32, sizeof i32);
    t = get(file, "i16", QMI_I16, 1, 2, 0);
    assert_memory_equal(t->data, i16, sizeof i16);
    assert_memory_equal(get(file, "i8", QMI_I8, 1, 2, 0)->data, i8, 2);
    assert_memory_equal(get(file, "u8", QMI_U8, 1, 2, 0)->data, u8, 2);
    assert_memory_equal(get(file, "b", QMI_BOOL, 1, 2, 0)->data, truth, 2);
    assert_memory_equal(
        get(file, "scalar", QMI_F32, 0, 0, 0)->data, &scalar, 4);
    t = get(file, "param", QMI_F32, 2, 2, 2);
    assert_memory_equal(t->data, ones, sizeof ones);
    assert_int_equal(get(file, "f64", QMI_F64, 1, 2, 0)->n_bytes, 16);
    assert_int_equal(get(file, "f16", QMI_F16, 1, 3, 0)->n_bytes, 6);
    assert_int_equal(get(file, "empty", QMI_BF16, 1, 0, 0)->n_bytes, 0);
    qmi_tensor_file_close(file);
}

static float at(const qmi_tensor *t, size_t index)
{
    float value = 0;
    qmi_widen(
        &value, t->data + index * (qmi_dtype_bits(t->dtype) / 8), t->dtype, 1);
    return value;
}

static void reads_views(void **state)
{
    (void)state;
    qmi_tensor_file *file = open_good(GOLDEN "all.bin");
    const qmi_tensor *base = get(file, "f32", QMI_F32, 2, 4, 6);
    const qmi_tensor *turned = get(file, "t", QMI_F32, 2, 6, 4);
    const qmi_tensor *strided = get(file, "strided", QMI_F32, 1, 8, 0);
    const qmi_tensor *off = get(file, "off", QMI_F32, 1, 6, 0);
    assert_ptr_equal(get(file, "alias", QMI_F32, 2, 4, 6)->data, base->data);
    assert_ptr_equal(off->data, base->data + 5 * 4);
    assert_false(base->is_view || off->is_view);
    assert_true(turned->is_view && strided->is_view);
    for (size_t i = 0; i < 24; i++) {
        assert_true(at(base, i) == (float)i);
        assert_true(at(turned, i) == (float)(i % 4 * 6 + i / 4));
    }
    for (size_t i = 0; i < 8; i++)
        assert_true(at(strided, i) == (float)(3 * i));
    /* p3 [10, 4, 6] holds all of the storage [4, 6, 10] the others are of. */
    const qmi_tensor *all = get(file, "p3", QMI_BF16, 3, 10, 4);
    const qmi_tensor *e0 = get(file, "e0", QMI_BF16, 2, 10, 6);
    const qmi_tensor *e3 = get(file, "e3", QMI_BF16, 2, 10, 6);
    const qmi_tensor *slice = get(file, "slice3", QMI_BF16, 2, 6, 10);
    for (size_t c = 0; c < 10; c++)
        for (size_t b = 0; b < 6; b++) {
            assert_true(at(e0, c * 6 + b) == at(all, c * 24 + b));
            assert_true(at(e3, c * 6 + b) == at(all, c * 24 + 18 + b));
            assert_true(at(slice, b * 10 + c) == at(all, c * 24 + 12 + b));
        }
    qmi_tensor_file_close(file);
}

static void gives_views_back(void **state)
{
    (void)state;
    qmi_tensor_file *file = open_good(GOLDEN "all.bin");
    const qmi_tensor *t = get(file, "t", QMI_F32, 2, 6, 4);
    /* Taken for file memory, it keeps its contents. */
    qmi_map_done_with(t->data, t->n_bytes);
    assert_true(at(t, 1) == 6);
    qmi_tensor_file_release(file, t->data, t->n_bytes);
    assert_true(at(t, 1) == 0);
    assert_int_equal(
        qmi_tensor_file_fetch(file, t->data, t->n_bytes, NULL), QMOE_OK);
    assert_true(at(t, 1) == 6);
    qmi_tensor_file_close(file);
}

static void reads_integers(void **state)
{
    (void)state;
    int64_t value = 0;
    qmi_tensor_file *file = open_good(GOLDEN "sizes.pt");
    assert_int_equal(qmi_tensor_file_count(file), 0);
    assert_int_equal(qmi_torch_integer_count(file), 4);
    assert_string_equal(qmi_torch_integer_name(file, 0), "a.b");
    assert_int_equal(qmi_torch_integer_at(file, 0), 5);
    assert_true(qmi_torch_integer(file, "c", &value) && value == -7);
    assert_true(qmi_torch_integer(file, "big", &value));
    assert_true(value == (int64_t)1 << 40);
    assert_false(qmi_torch_integer(file, "d", &value));
    qmi_tensor_file_close(file);
}

/* ---- beyond 4 GiB ---- */

typedef struct bytes {
    uint8_t data[1024];
    size_t n;
} bytes;

static void put(bytes *b, const void *data, size_t n)
{
    assert_true(n <= sizeof b->data - b->n);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_int(bytes *b, uint64_t value, size_t n)
{
    uint8_t digits[8];
    for (size_t i = 0; i < n; i++)
        digits[i] = (uint8_t)(value >> (8 * i));
    put(b, digits, n);
}

static void put_local(bytes *b, const char *name, uint32_t n_bytes)
{
    put(b, "PK\3\4\55\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
    put_int(b, n_bytes, 4);
    put_int(b, n_bytes, 4);
    put_int(b, strlen(name), 4);
    put(b, name, strlen(name));
}

static void put_entry(
    bytes *b, const char *name, uint64_t n_bytes, uint64_t local)
{
    put(b, "PK\1\2\55\0\55\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    put_int(b, UINT32_MAX, 4);
    put_int(b, UINT32_MAX, 4);
    put_int(b, strlen(name) | (uint64_t)28 << 16, 8);
    put_int(b, 0, 6);
    put_int(b, UINT32_MAX, 4);
    put(b, name, strlen(name));
    put_int(b, 1 | 24 << 16, 4);
    put_int(b, n_bytes, 8);
    put_int(b, n_bytes, 8);
    put_int(b, local, 8);
}

static void put_end(bytes *b, uint64_t at, uint64_t n_directory)
{
    put(b, "PK\6\6\54\0\0\0\0\0\0\0\55\0\55\0", 16);
    put_int(b, 0, 8);
    put_int(b, 2, 8);
    put_int(b, 2, 8);
    put_int(b, n_directory, 8);
    put_int(b, at, 8);
    put(b, "PK\6\7\0\0\0\0", 8);
    put_int(b, at + n_directory, 8);
    put_int(b, 1, 4);
    put(b, "PK\5\6\0\0\0\0\377\377\377\377\377\377\377\377\377\377\377\377\0",
        22);
}

/* A sparse file with 2^31 + 8 elements of two bytes and one tensor at the end of
 * them. */
static void reads_beyond_4_gib(void **state)
{
    (void)state;
    static const char pickle[] =
        "\200\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(("
        "X\7\0\0\0storagectorch\nBFloat16Storage\nX\1\0\0\0"
        "0X\3\0\0\0cpu\212\5\10\0\0\200\0tQ\212\5\4\0\0\200\0K\4\205K\1\205"
        "\211ccollections\nOrderedDict\n)RtRs.";
    const uint64_t n_data = 2 * (((uint64_t)1 << 31) + 8);
    bytes head = {.n = 0}, tail = {.n = 0};
    put_local(&head, "m/data.pkl", sizeof pickle - 1);
    put(&head, pickle, sizeof pickle - 1);
    const uint64_t local = head.n;
    put_local(&head, "m/data/0", 0);
    const uint64_t begin = head.n, end = begin + n_data;
    put_entry(&tail, "m/data.pkl", sizeof pickle - 1, 0);
    put_entry(&tail, "m/data/0", n_data, local);
    put_end(&tail, end, tail.n);
    const char *path = scratch_write("torch-large.bin", head.data, head.n);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "12345678", 8, (off_t)(end - 8)), 8);
    assert_int_equal(
        pwrite(fd, tail.data, tail.n, (off_t)end), (ssize_t)tail.n);
    close(fd);
    qmi_tensor_file *file = open_good(path);
    const qmi_tensor *t = get(file, "a", QMI_BF16, 1, 4, 0);
    assert_memory_equal(t->data, "12345678", 8);
    qmi_tensor_file_close(file);
    unlink(path);
}

static void survives_failing_allocations(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        qmi_error err = {.text = ""};
        qmi_tensor_file *file = NULL;
        qmi_alloc_fail_after(n);
        qmoe_status status = qmi_torch_open(&file, GOLDEN "all.bin", &err);
        qmi_alloc_fail_after(0);
        if (status == QMOE_OK) {
            assert_true(n > 15);
            qmi_tensor_file_close(file);
            break;
        }
        assert_error(status, QMOE_E_NOMEM, err.text, "out of memory");
        assert_null(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_dtype),
        cmocka_unit_test(reads_views),
        cmocka_unit_test(gives_views_back),
        cmocka_unit_test(reads_integers),
        cmocka_unit_test(reads_beyond_4_gib),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests_name("torch_file", tests, NULL, NULL);
}
