/* SPDX-License-Identifier: Apache-2.0
 * The safetensors writer, read back by the reader; wrong use, full disks,
 * failing allocations. */
#include "scratch.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "alloc.h"
#include "hash.h"
#include "safetensors.h"
#include "safetensors_writer.h"
#include "scratch_file.h"

static qmoe_status try_create(
    qmi_st_writer **w, const char *path, qmi_error *err)
{
    qmi_new_file file;
    *w = NULL;
    QMI_TRY(scratch_new_file(&file, path, err));
    return qmi_st_writer_create(w, &file, err);
}

static qmi_st_writer *create(const char *path)
{
    qmi_st_writer *w = NULL;
    qmi_error err = {.text = ""};
    if (try_create(&w, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_non_null(w);
    return w;
}

static void declare(qmi_st_writer *w, const char *name, qmi_dtype dtype,
    int64_t rows, int64_t cols)
{
    const int64_t shape[2] = {rows, cols};
    qmi_error err = {.text = ""};
    if (qmi_st_writer_declare(w, name, dtype, shape, 2, &err) != QMOE_OK)
        fail_msg("%s", err.text);
}

static void put(qmi_st_writer *w, size_t index, const void *data, size_t n)
{
    qmi_error err = {.text = ""};
    if (qmi_st_writer_write(w, index, data, n, &err) != QMOE_OK)
        fail_msg("%s", err.text);
}

/* Finishes, destroys, reads back. */
static qmi_tensor_file *read_back(qmi_st_writer *w, const char *path)
{
    qmi_error err = {.text = ""};
    uint64_t hash = 0, n_bytes = 0;
    qmi_tensor_file *file = NULL;
    if (qmi_st_writer_finish(w, &hash, &n_bytes, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    qmi_st_writer_destroy(w);
    if (qmi_safetensors_open(&file, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_true(hash == qmi_tensor_file_header_hash(file));
    assert_true(n_bytes == qmi_tensor_file_bytes(file));
    return file;
}

static void check_hash(
    const qmi_tensor_file *file, const char *key, const void *data, size_t n)
{
    char hex[17];
    qmi_hash_hex(hex, qmi_hash64(data, n));
    const char *stored = qmi_tensor_file_metadata(file, key);
    assert_non_null(stored);
    assert_string_equal(stored, hex);
}

/* Place of the data in the file. */
static uint64_t data_begin(const char *path)
{
    uint8_t length[8];
    uint64_t value = 8;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(length, 1, 8, file), 8);
    fclose(file);
    for (int i = 0; i < 8; i++)
        value += (uint64_t)length[i] << (8 * i);
    return value;
}

/* ---- good files ---- */

static void writes_interleaved(void **state)
{
    (void)state;
    const char *path = scratch_path("w-good.safetensors");
    uint8_t a[64], b[100], c[12];
    for (size_t i = 0; i < sizeof b; i++) {
        a[i % sizeof a] = (uint8_t)(3 * i);
        b[i] = (uint8_t)(7 * i + 1);
        c[i % sizeof c] = (uint8_t)(i + 200);
    }
    qmi_st_writer *w = create(path);
    declare(w, "a", QMI_BF16, 4, 8);
    declare(w, "b", QMI_U8, 10, 10);
    assert_int_equal(
        qmi_st_writer_metadata(w, "format", "qmoe", NULL), QMOE_OK);
    declare(w, "c", QMI_U16, -1, 2);
    put(w, 2, c, 5);
    put(w, 1, b, 33);
    put(w, 0, a, sizeof a);
    put(w, 1, b + 33, 0);
    put(w, 1, b + 33, 67);
    put(w, 2, c + 5, 7);
    qmi_tensor_file *file = read_back(w, path);
    assert_int_equal(qmi_tensor_file_count(file), 3);
    assert_int_equal(data_begin(path) % 64, 0);
    const qmi_tensor *t = qmi_tensor_file_find(file, "a");
    assert_int_equal(t->dtype, QMI_BF16);
    assert_int_equal(t->n_bytes, sizeof a);
    assert_memory_equal(t->data, a, sizeof a);
    t = qmi_tensor_file_find(file, "b");
    assert_memory_equal(t->data, b, sizeof b);
    t = qmi_tensor_file_find(file, "c");
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 3);
    assert_int_equal(t->shape[1], 2);
    assert_memory_equal(t->data, c, sizeof c);
    check_hash(file, "xxh3:a", a, sizeof a);
    check_hash(file, "xxh3:b", b, sizeof b);
    check_hash(file, "xxh3:c", c, sizeof c);
    assert_string_equal(qmi_tensor_file_metadata(file, "format"), "qmoe");
    qmi_tensor_file_close(file);
}

static void writes_nothing(void **state)
{
    (void)state;
    const char *path = scratch_path("w-good.safetensors");
    qmi_tensor_file *file = read_back(create(path), path);
    assert_int_equal(qmi_tensor_file_count(file), 0);
    qmi_tensor_file_close(file);
}

static void writes_empty_tensors_and_scalars(void **state)
{
    (void)state;
    const char *path = scratch_path("w-good.safetensors");
    const float one = 1.0f;
    qmi_st_writer *w = create(path);
    declare(w, "none", QMI_F32, 0, 5);
    assert_int_equal(
        qmi_st_writer_declare(w, "scalar", QMI_F32, NULL, 0, NULL), QMOE_OK);
    declare(w, "open", QMI_F32, -1, 5);
    put(w, 1, &one, sizeof one);
    qmi_tensor_file *file = read_back(w, path);
    const qmi_tensor *t = qmi_tensor_file_find(file, "none");
    assert_int_equal(t->n_bytes, 0);
    check_hash(file, "xxh3:none", "", 0);
    t = qmi_tensor_file_find(file, "scalar");
    assert_int_equal(t->rank, 0);
    assert_memory_equal(t->data, &one, sizeof one);
    t = qmi_tensor_file_find(file, "open");
    assert_int_equal(t->shape[0], 0);
    assert_int_equal(t->shape[1], 5);
    qmi_tensor_file_close(file);
}

static void writes_any_text(void **state)
{
    (void)state;
    const char *path = scratch_path("w-good.safetensors");
    const char name[] = "a \"quoted\" \\ \n\x01\x7f \xc3\xa4\xf0\x9f\x98\x80";
    qmi_st_writer *w = create(path);
    assert_int_equal(qmi_st_writer_metadata(w, name, name, NULL), QMOE_OK);
    declare(w, name, QMI_U8, 1, 1);
    put(w, 0, "x", 1);
    qmi_tensor_file *file = read_back(w, path);
    assert_non_null(qmi_tensor_file_find(file, name));
    assert_string_equal(qmi_tensor_file_metadata(file, name), name);
    qmi_tensor_file_close(file);
}

static void writes_many_tensors(void **state)
{
    (void)state;
    enum { N = 1000 };
    const char *path = scratch_path("w-good.safetensors");
    char name[64];
    uint8_t row[64];
    qmi_st_writer *w = create(path);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "block.%d.weight", i);
        declare(w, name, QMI_U8, 1, 64);
    }
    for (int i = N - 1; i >= 0; i--) {
        memset(row, i % 256, sizeof row);
        put(w, (size_t)i, row, sizeof row);
    }
    qmi_tensor_file *file = read_back(w, path);
    assert_int_equal(qmi_tensor_file_count(file), N);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "block.%d.weight", i);
        const qmi_tensor *t = qmi_tensor_file_find(file, name);
        assert_non_null(t);
        assert_ptr_equal(t, qmi_tensor_file_at(file, (size_t)i));
        assert_int_equal(t->data[63], i % 256);
        assert_int_equal((uintptr_t)t->data % 64, 0);
    }
    qmi_tensor_file_close(file);
}

/* Names of every length modulo the alignment: the final header must fit into
 * what was reserved before the open numbers were known. */
static void reserves_enough(void **state)
{
    (void)state;
    const char *path = scratch_path("w-good.safetensors");
    const uint8_t data[1000] = {0};
    char name[80] = "";
    for (size_t i = 0; i < 70; i++) {
        name[i] = 'n';
        qmi_st_writer *w = create(path);
        declare(w, name, QMI_U8, -1, 1);
        put(w, 0, data, sizeof data);
        qmi_tensor_file *file = read_back(w, path);
        assert_int_equal(qmi_tensor_file_at(file, 0)->shape[0], sizeof data);
        assert_int_equal(data_begin(path) % 64, 0);
        qmi_tensor_file_close(file);
    }
}

/* A large offset needs no large file: the file is sparse. */
/* Wherever the header ends, the numbers still to come have room. */
static void reserves_enough_for_ends(void **state)
{
    (void)state;
    static const char data[1000];
    const char *path = scratch_path("writer-ends.safetensors");
    for (int n = 1; n <= 64; n++) {
        char name[65] = "";
        memset(name, 'x', (size_t)n);
        qmi_st_writer *w = create(path);
        declare(w, name, QMI_U8, 1, sizeof data);
        put(w, 0, data, sizeof data);
        qmi_tensor_file_close(read_back(w, path));
    }
}

static void writes_beyond_4_gib(void **state)
{
    (void)state;
    const char *path = scratch_path("w-sparse.safetensors");
    const uint64_t big = UINT64_C(5) << 30;
    qmi_st_writer *w = create(path);
    declare(w, "big", QMI_U8, (int64_t)big, 1);
    declare(w, "last", QMI_U8, -1, 1);
    qmi_error err = {0};
    qmoe_status status = qmi_st_writer_write(w, 1, "end", 3, &err);
    if (status != QMOE_OK) {
        qmi_st_writer_destroy(w);
        print_message("no file beyond 4 GiB here: %s\n", err.text);
        skip();
    }
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(((uint64_t)info.st_size - big - 3) % 64, 0);
    uint64_t hash = 1, n_bytes = 1;
    status = qmi_st_writer_finish(w, &hash, &n_bytes, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "'big' is incomplete");
    assert_true(hash == 0 && n_bytes == 0);
    qmi_st_writer_destroy(w);
    unlink(path);
}

/* ---- wrong use ---- */

static qmoe_status try_declare(qmi_st_writer *w, const char *name,
    qmi_dtype dtype, int64_t rows, int64_t cols, qmi_error *err)
{
    const int64_t shape[2] = {rows, cols};
    return qmi_st_writer_declare(w, name, dtype, shape, 2, err);
}

static void refuses_bad_declarations(void **state)
{
    (void)state;
    const char *path = scratch_path("w-bad.safetensors");
    const int64_t ones[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    const struct {
        const char *name;
        qmi_dtype dtype;
        int64_t rows, cols;
        const char *part;
    } bad[] = {
        {"__metadata__", QMI_U8, 1, 1, "reserved name"},
        {"a\xff", QMI_U8, 1, 1, "is not UTF-8"},
        {"a", QMI_DTYPE_COUNT, 1, 1, "unknown dtype"},
        {"a", QMI_U8, -2, 1, "a bad shape"},
        {"a", QMI_U8, 1, -1, "a bad shape"},
        {"a", QMI_U8, INT64_C(1) << 53, 1, "a bad shape"},
        {"a", QMI_F64, INT64_C(1) << 52, INT64_C(1) << 52, "a bad shape"},
        {"a", QMI_F64, INT64_C(1) << 26, INT64_C(1) << 26, "a bad shape"},
        {"a", QMI_F4, 3, 1, "not a whole number of bytes"},
    };
    qmi_st_writer *w = create(path);
    qmi_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qmoe_status status = try_declare(
            w, bad[i].name, bad[i].dtype, bad[i].rows, bad[i].cols, &err);
        assert_error(status, QMOE_E_INVALID, err.text, bad[i].part);
        assert_error(status, QMOE_E_INVALID, err.text, path);
    }
    qmoe_status status = qmi_st_writer_declare(w, "a", QMI_U8, ones, 9, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "rank not in 0..8");
    status = qmi_st_writer_metadata(w, "xxh3:a", "", &err);
    assert_error(status, QMOE_E_INVALID, err.text, "reserved for checksums");
    status = qmi_st_writer_metadata(w, "k", "\xff", &err);
    assert_error(status, QMOE_E_INVALID, err.text, "is not UTF-8");
    declare(w, "a", QMI_U8, -1, 1);
    status = try_declare(w, "b", QMI_U8, 1, 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "follows one of open");
    qmi_st_writer_destroy(w);
    qmi_st_writer_destroy(NULL);
}

static void refuses_repeated_names(void **state)
{
    (void)state;
    const char *path = scratch_path("w-bad.safetensors");
    qmi_error err = {0};
    uint64_t hash = 0, n_bytes = 0;
    qmi_st_writer *w = create(path);
    declare(w, "a", QMI_U8, 1, 1);
    declare(w, "b", QMI_U8, 1, 1);
    declare(w, "a", QMI_U8, 1, 1);
    qmoe_status status = qmi_st_writer_write(w, 0, "x", 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "'a' is declared twice");
    qmi_st_writer_destroy(w);
    w = create(path);
    assert_int_equal(qmi_st_writer_metadata(w, "k", "1", NULL), QMOE_OK);
    assert_int_equal(qmi_st_writer_metadata(w, "k", "2", NULL), QMOE_OK);
    status = qmi_st_writer_finish(w, &hash, &n_bytes, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "'k' is declared twice");
    qmi_st_writer_destroy(w);
    w = create(path);
    declare(w, "a", QMI_U8, INT64_C(1) << 52, 1);
    declare(w, "b", QMI_U8, INT64_C(1) << 52, 1);
    status = qmi_st_writer_write(w, 0, "x", 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "beyond the largest file");
    qmi_st_writer_destroy(w);
}

static void refuses_a_huge_header(void **state)
{
    (void)state;
    const size_t n = 20000000;
    char *value = malloc(n + 1);
    assert_non_null(value);
    memset(value, '\n', n);
    value[n] = '\0';
    qmi_error err = {0};
    qmi_st_writer *w = create(scratch_path("w-bad.safetensors"));
    assert_int_equal(qmi_st_writer_metadata(w, "k", value, NULL), QMOE_OK);
    declare(w, "a", QMI_U8, 1, 1);
    qmoe_status status = qmi_st_writer_write(w, 0, "x", 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "above the limit");
    qmi_st_writer_destroy(w);
    free(value);
}

static void refuses_wrong_amounts(void **state)
{
    (void)state;
    const char *path = scratch_path("w-bad.safetensors");
    qmi_error err = {0};
    uint64_t hash = 1, n_bytes = 1;
    qmi_st_writer *w = create(path);
    declare(w, "a", QMI_U8, 1, 4);
    declare(w, "b", QMI_U16, -1, 2);
    qmoe_status status = qmi_st_writer_write(w, 0, "12345", 5, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "more bytes than declared");
    put(w, 0, "123", 3);
    status = qmi_st_writer_write(w, 0, "45", 2, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "'a': more bytes");
    status = qmi_st_writer_write(w, 2, "1", 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "not declared");
    status = try_declare(w, "c", QMI_U8, 1, 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "before the first write");
    status = qmi_st_writer_metadata(w, "k", "v", &err);
    assert_error(status, QMOE_E_INVALID, err.text, "before the first write");
    status = qmi_st_writer_finish(w, &hash, &n_bytes, &err);
    assert_error(status, QMOE_E_INVALID, err.text,
        "tensor 'a' is incomplete: 3 bytes written");
    assert_true(hash == 0 && n_bytes == 0);
    put(w, 0, "4", 1);
    put(w, 1, "12345", 5);
    status = qmi_st_writer_finish(w, &hash, &n_bytes, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "tensor 'b' is incomplete");
    put(w, 1, "678", 3);
    assert_int_equal(qmi_st_writer_finish(w, &hash, &n_bytes, &err), QMOE_OK);
    status = qmi_st_writer_write(w, 1, "x", 1, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "after the end");
    status = qmi_st_writer_finish(w, &hash, &n_bytes, &err);
    assert_error(status, QMOE_E_INVALID, err.text, "finished before");
    qmi_st_writer_destroy(w);
    assert_int_equal(access(path, F_OK), 0);
}

/* ---- a world that fails ---- */

static void reports_a_full_device(void **state)
{
    (void)state;
    qmi_error err = {0};
    if (access("/dev/full", W_OK) != 0)
        skip();
    qmi_st_writer *w = NULL;
    qmi_new_file file = {
        .fd = open("/dev/full", O_RDWR), .path = qmi_strdup("/dev/full", &err)};
    assert_int_equal(qmi_st_writer_create(&w, &file, &err), QMOE_OK);
    declare(w, "a", QMI_U8, 1, 4);
    qmoe_status status = qmi_st_writer_write(w, 0, "1234", 4, &err);
    assert_error(status, QMOE_E_NO_SPACE, err.text, "/dev/full: ");
    qmi_st_writer_destroy(w);
}

/* Fills the file system or limit that `path` is under. */
static void fill(const char *path, qmoe_status expected)
{
    enum { BLOCK = 16384, BLOCKS = 64 };
    static const uint8_t block[BLOCK];
    qmi_error err = {.text = ""};
    qmi_st_writer *w = create(path);
    declare(w, "a", QMI_U8, BLOCKS, BLOCK);
    qmoe_status status = QMOE_OK;
    for (int i = 0; i < BLOCKS && status == QMOE_OK; i++)
        status = qmi_st_writer_write(w, 0, block, BLOCK, &err);
    assert_error(status, expected, err.text, path);
    assert_int_equal(access(path, F_OK), 0);
    qmi_st_writer_destroy(w);
    unlink(path);
}

static void survives_a_full_disk(void **state)
{
    (void)state;
    char path[600];
    const char *directory = scratch_directory("w-full");
    if (mount("none", directory, "tmpfs", 0, "size=256k") != 0) {
        print_message("cannot mount a small tmpfs here\n");
        skip();
    }
    snprintf(path, sizeof path, "%s/x.safetensors", directory);
    fill(path, QMOE_E_NO_SPACE);
    assert_int_equal(umount(directory), 0);
}

static void survives_a_file_size_limit(void **state)
{
    (void)state;
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    fill(scratch_path("w-limit.safetensors"), QMOE_E_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
}

static qmoe_status write_one(const char *path)
{
    const int64_t shape[2] = {-1, 4};
    uint64_t hash = 0, n_bytes = 0;
    qmi_error err = {0};
    qmi_st_writer *w = NULL;
    qmoe_status status = try_create(&w, path, &err);
    if (status == QMOE_OK)
        status = qmi_st_writer_metadata(w, "k", "v", &err);
    if (status == QMOE_OK)
        status = qmi_st_writer_declare(w, "a", QMI_U8, shape, 2, &err);
    if (status == QMOE_OK)
        status = qmi_st_writer_write(w, 0, "12345678", 8, &err);
    if (status == QMOE_OK)
        status = qmi_st_writer_finish(w, &hash, &n_bytes, &err);
    qmi_st_writer_destroy(w);
    return status;
}

static void survives_failing_allocations(void **state)
{
    (void)state;
    const char *path = scratch_path("w-alloc.safetensors");
    unlink(path);
    for (uint64_t n = 1;; n++) {
        qmi_alloc_fail_after(n);
        qmoe_status status = write_one(path);
        qmi_alloc_fail_after(0);
        if (status == QMOE_OK) {
            assert_true(n > 8);
            break;
        }
        assert_int_equal(status, QMOE_E_NOMEM);
    }
    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_interleaved),
        cmocka_unit_test(writes_nothing),
        cmocka_unit_test(writes_empty_tensors_and_scalars),
        cmocka_unit_test(writes_any_text),
        cmocka_unit_test(writes_many_tensors),
        cmocka_unit_test(reserves_enough),
        cmocka_unit_test(reserves_enough_for_ends),
        cmocka_unit_test(writes_beyond_4_gib),
        cmocka_unit_test(refuses_bad_declarations),
        cmocka_unit_test(refuses_repeated_names),
        cmocka_unit_test(refuses_a_huge_header),
        cmocka_unit_test(refuses_wrong_amounts),
        cmocka_unit_test(reports_a_full_device),
        cmocka_unit_test(survives_a_full_disk),
        cmocka_unit_test(survives_a_file_size_limit),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests_name("safetensors_writer", tests, NULL, NULL);
}
