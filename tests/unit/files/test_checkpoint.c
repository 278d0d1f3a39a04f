/* SPDX-License-Identifier: Apache-2.0
 * Checkpoint directories: which files are taken, what an index may say, and
 * that nothing leaks when memory runs out half way. */
#include "scratch.h"

#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
#include "checkpoint.h"

#define INDEX "model.safetensors.index.json"

/* ---- directories to open ---- */

static void put(const char *directory, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    scratch_text(path, text);
}

/* A file of one-byte U8 tensors, one per letter of `names`. */
static void put_shard(
    const char *directory, const char *name, const char *names)
{
    char header[1024], path[600];
    size_t n = 0, n_names = strlen(names);
    n += (size_t)snprintf(header + 8, sizeof header - 8, "{");
    for (size_t i = 0; i < n_names; i++)
        n += (size_t)snprintf(header + 8 + n, sizeof header - 8 - n,
            "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[1],"
            "\"data_offsets\":[%zu,%zu]}",
            i == 0 ? "" : ",", names[i], i, i + 1);
    header[8 + n++] = '}';
    for (int i = 0; i < 8; i++)
        header[i] = (char)((uint64_t)n >> (8 * i));
    memcpy(header + 8 + n, names, n_names);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    scratch_write(path, header, 8 + n + n_names);
}

/* An empty directory with a good config.json; its name below the scratch. */
static const char *fresh(void)
{
    static const char *const files[] = {"config.json", INDEX,
        "model.safetensors", "one", "two", "pytorch_model.bin",
        "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"};
    const char *name = "checkpoint";
    char path[600];
    scratch_directory(name);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", name, files[i]);
        unlink(scratch_path(path));
    }
    put(name, "config.json", "{\"model_type\":\"x\"}");
    return name;
}

static void expect_refused(
    const char *name, qmoe_status expected, const char *part)
{
    qmi_error err = {.text = ""};
    qmi_checkpoint *c = (qmi_checkpoint *)&err;
    qmoe_status status = qmi_checkpoint_open(&c, scratch_path(name), &err);
    if (status == QMOE_OK)
        fail_msg("accepted, not refused for: %s", part);
    assert_error(status, expected, err.text, part);
    assert_error(status, expected, err.text, scratch_path(name));
    assert_null(c);
    assert_int_equal(
        qmi_checkpoint_open(&c, scratch_path(name), NULL), expected);
}

static qmi_checkpoint *open_good(const char *path)
{
    qmi_error err = {.text = ""};
    qmi_checkpoint *c = NULL;
    if (qmi_checkpoint_open(&c, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_non_null(c);
    return c;
}

/* ---- good ---- */

static void opens_a_single_file(void **state)
{
    (void)state;
    const char *name = fresh();
    put_shard(name, "model.safetensors", "ab");
    put(name, INDEX, "not looked at");
    put(name, "pytorch_model.bin", "not looked at");
    qmi_checkpoint *c = open_good(scratch_path(name));
    assert_string_equal(qmi_checkpoint_directory(c), scratch_path(name));
    assert_int_equal(qmi_checkpoint_file_count(c), 1);
    const cJSON *config = qmi_checkpoint_config(c);
    assert_true(cJSON_HasObjectItem(config, "model_type"));
    assert_non_null(
        strstr(qmi_checkpoint_config_path(c), "checkpoint/config.json"));
    const qmi_tensor *t = qmi_checkpoint_find(c, "b");
    assert_non_null(t);
    assert_int_equal(t->data[0], 'b');
    assert_null(qmi_checkpoint_find(c, "c"));
    qmi_checkpoint_close(c);
    qmi_checkpoint_close(NULL);
}

static void opens_shards(void **state)
{
    (void)state;
    const char *name = fresh();
    put_shard(name, "two", "ca");
    put_shard(name, "one", "bxd");
    put(name, INDEX,
        "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"c\":\"two\","
        "\"b\":\"one\",\"a\":\"two\",\"d\":\"one\"}}");
    qmi_checkpoint *c = open_good(scratch_path(name));
    assert_int_equal(qmi_checkpoint_file_count(c), 2);
    for (const char *letter = "abcdx"; *letter != '\0'; letter++) {
        const char one[2] = {*letter, '\0'};
        const qmi_tensor *t = qmi_checkpoint_find(c, one);
        assert_non_null(t);
        assert_int_equal(t->data[0], *letter);
        const qmi_tensor_file *file = qmi_checkpoint_file(c, t->file);
        assert_ptr_equal(qmi_tensor_file_find(file, one), t);
    }
    qmi_error err = {0};
    const qmi_tensor *t = NULL;
    assert_int_equal(qmi_checkpoint_require(c, &t, "a", &err), QMOE_OK);
    char where[600];
    qmi_tensor_where(c, t, where, sizeof where);
    assert_non_null(strstr(where, "checkpoint/two: tensor 'a'"));
    qmi_tensor_where(c, t, where, 5);
    assert_int_equal(strlen(where), 4);
    qmoe_status status = qmi_checkpoint_require(c, &t, "zz", &err);
    assert_error(
        status, QMOE_E_FORMAT, err.text, "checkpoint: tensor 'zz' is missing");
    assert_null(t);
    qmi_checkpoint_close(c);
}

static void opens_the_example_model(void **state)
{
    (void)state;
    qmi_checkpoint *c = open_good(QMOE_SOURCE_DIR "/models/switch-mini");
    const qmi_tensor *t = qmi_checkpoint_find(c, "shared.weight");
    assert_non_null(t);
    assert_int_equal(t->rank, 2);
    qmi_checkpoint_close(c);
}

/* ---- must fail ---- */

static void refuses_what_is_missing(void **state)
{
    (void)state;
    expect_refused("absent", QMOE_E_NOT_FOUND, "absent");
    scratch_text("checkpoint-file", "");
    expect_refused("checkpoint-file", QMOE_E_NOT_FOUND, "not a directory");
    const char *name = fresh();
    expect_refused(name, QMOE_E_NOT_FOUND, "neither model.safetensors");
    put_shard(name, "model.safetensors", "a");
    unlink(scratch_path("checkpoint/config.json"));
    expect_refused(name, QMOE_E_NOT_FOUND, "config.json");
}

/* ---- PyTorch files ---- */

static void copy_file(const char *name, const char *to, const char *from)
{
    char bytes[1 << 16], path[600];
    FILE *file = fopen(from, "rb");
    assert_non_null(file);
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    snprintf(path, sizeof path, "%s/%s", name, to);
    scratch_write(path, bytes, n);
}

#define GOLDEN QMOE_SOURCE_DIR "/tests/golden/torch/"
#define TORCH_INDEX "pytorch_model.bin.index.json"

static void opens_pytorch_files(void **state)
{
    (void)state;
    const char *name = fresh();
    copy_file(name, "pytorch_model.bin", GOLDEN "linear.bin");
    qmi_checkpoint *c = open_good(scratch_path(name));
    assert_non_null(qmi_checkpoint_find(c, "weight"));
    qmi_checkpoint_close(c);
    /* safetensors go first, in whatever form. */
    put_shard(name, "one", "ab");
    put(name, INDEX, "{\"weight_map\":{\"a\":\"one\"}}");
    c = open_good(scratch_path(name));
    assert_null(qmi_checkpoint_find(c, "weight"));
    qmi_checkpoint_close(c);
}

static void opens_pytorch_shards(void **state)
{
    (void)state;
    const char *name = fresh();
    copy_file(name, "one", GOLDEN "linear.bin");
    copy_file(name, "two", GOLDEN "all.bin");
    put(name, TORCH_INDEX, "{\"weight_map\":{\"bias\":\"one\",\"t\":\"two\"}}");
    qmi_checkpoint *c = open_good(scratch_path(name));
    const qmi_tensor *t = qmi_checkpoint_find(c, "t");
    assert_non_null(t);
    assert_true(t->is_view);
    assert_int_equal(t->file, 1);
    assert_int_equal(
        qmi_checkpoint_fetch(c, t->data, t->n_bytes, NULL), QMOE_OK);
    const float expected[4] = {0, 6, 12, 18};
    assert_memory_equal(t->data, expected, sizeof expected);
    qmi_checkpoint_release(c, t->data, t->n_bytes);
    assert_int_equal(
        qmi_checkpoint_fetch_view(c, t->data, t->n_bytes, NULL), QMOE_OK);
    assert_memory_equal(t->data, expected, sizeof expected);
    qmi_checkpoint_close(c);
}

static void refuses_bad_pytorch_files(void **state)
{
    (void)state;
    const char *name = fresh();
    put(name, "pytorch_model.bin", "");
    expect_refused(name, QMOE_E_FORMAT, "pytorch_model.bin: not a PyTorch");
    name = fresh();
    copy_file(name, "one", GOLDEN "linear.bin");
    put(name, TORCH_INDEX, "{\"weight_map\":{\"bias\":\"../one\"}}");
    expect_refused(name, QMOE_E_FORMAT, "is not a plain file name");
    put(name, TORCH_INDEX, "{\"weight_map\":{\"x\":\"one\"}}");
    expect_refused(name, QMOE_E_FORMAT, "'x' is missing in shard 'one'");
    put(name, TORCH_INDEX, "{\"weight_map\":{\"x\":\"three\"}}");
    expect_refused(name, QMOE_E_FORMAT, "shard 'three' is missing");
    copy_file(name, "two", GOLDEN "linear.bin");
    put(name, TORCH_INDEX,
        "{\"weight_map\":{\"bias\":\"one\",\"weight\":\"two\"}}");
    expect_refused(name, QMOE_E_FORMAT, "is in two files");
}

static void refuses_bad_configs(void **state)
{
    (void)state;
    const char *name = fresh();
    put_shard(name, "model.safetensors", "a");
    put(name, "config.json", "{\"a\":");
    expect_refused(name, QMOE_E_FORMAT, "config.json: not valid JSON");
    put(name, "config.json", "[]");
    expect_refused(name, QMOE_E_FORMAT, "config.json: not a JSON object");
    put(name, "config.json", "{\"a\":1,\"a\":2}");
    expect_refused(name, QMOE_E_FORMAT, "duplicate key 'a'");
}

static void refuses_bad_files(void **state)
{
    (void)state;
    const char *name = fresh();
    put(name, "model.safetensors", "bad");
    expect_refused(name, QMOE_E_FORMAT, "model.safetensors: 3 bytes");
    name = fresh();
    put(name, "one", "bad");
    put(name, INDEX, "{\"weight_map\":{\"a\":\"one\"}}");
    expect_refused(name, QMOE_E_FORMAT, "/one: 3 bytes");
}

static void refuses_bad_indices(void **state)
{
    (void)state;
    const struct {
        const char *index, *part;
    } bad[] = {
        {"{", INDEX ": not valid JSON"},
        {"[]", "weight_map is not an object"},
        {"{}", "weight_map is not an object"},
        {"{\"weight_map\":[\"one\"]}", "weight_map is not an object"},
        {"{\"weight_map\":{}}", "weight_map is not an object"},
        {"{\"weight_map\":{\"a\":1}}", "the shard of tensor 'a' is not"},
        {"{\"weight_map\":{\"a\":null}}", "the shard of tensor 'a' is not"},
        {"{\"weight_map\":{\"a\":\"one\",\"a\":\"one\"}}", "duplicate key"},
        {"{\"weight_map\":{\"a\":\"\"}}", "'' is not a plain file name"},
        {"{\"weight_map\":{\"a\":\".\"}}", "is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"../checkpoint/one\"}}", "not a plain file"},
        {"{\"weight_map\":{\"a\":\"./one\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"x\\\\one\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"one\\u0000\"}}", "not valid JSON"},
        {"{\"weight_map\":{\"a\":\"one\",\"z\":\"three\"}}",
            "shard 'three' is missing in the directory"},
        {"{\"weight_map\":{\"a\":\"one\",\"z\":\"one\"}}",
            "tensor 'z' is missing in shard 'one'"},
        {"{\"weight_map\":{\"a\":\"one\",\"b\":\"one\",\"c\":\"two\"}}",
            "tensor 'b' is missing in shard 'one'"},
    };
    const char *name = fresh();
    put_shard(name, "one", "a");
    put_shard(name, "two", "bc");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(name, INDEX, bad[i].index);
        expect_refused(name, QMOE_E_FORMAT, bad[i].part);
    }
    /* Only the index was at fault. */
    put(name, INDEX, "{\"weight_map\":{\"a\":\"one\",\"c\":\"two\"}}");
    qmi_checkpoint_close(open_good(scratch_path(name)));
}

static void refuses_a_tensor_in_two_files(void **state)
{
    (void)state;
    const char *name = fresh();
    put_shard(name, "one", "ab");
    put_shard(name, "two", "cb");
    put(name, INDEX, "{\"weight_map\":{\"a\":\"one\",\"c\":\"two\"}}");
    expect_refused(name, QMOE_E_FORMAT, "tensor 'b' is in two files");
}

static void survives_failing_allocations(void **state)
{
    (void)state;
    const char *name = fresh();
    put_shard(name, "one", "abcdefghijklmnop");
    put_shard(name, "two", "xyz");
    put(name, INDEX,
        "{\"weight_map\":{\"a\":\"one\",\"b\":\"one\",\"x\":\"two\"}}");
    for (uint64_t n = 1;; n++) {
        qmi_error err = {.text = ""};
        qmi_checkpoint *c = NULL;
        qmi_alloc_fail_after(n);
        qmoe_status status = qmi_checkpoint_open(&c, scratch_path(name), &err);
        qmi_alloc_fail_after(0);
        if (status == QMOE_OK) {
            assert_true(n > 15);
            assert_non_null(qmi_checkpoint_find(c, "p"));
            qmi_checkpoint_close(c);
            break;
        }
        assert_error(status, QMOE_E_NOMEM, err.text, "out of memory");
        assert_null(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_a_single_file),
        cmocka_unit_test(opens_shards),
        cmocka_unit_test(opens_the_example_model),
        cmocka_unit_test(refuses_what_is_missing),
        cmocka_unit_test(opens_pytorch_files),
        cmocka_unit_test(opens_pytorch_shards),
        cmocka_unit_test(refuses_bad_pytorch_files),
        cmocka_unit_test(refuses_bad_configs),
        cmocka_unit_test(refuses_bad_files),
        cmocka_unit_test(refuses_bad_indices),
        cmocka_unit_test(refuses_a_tensor_in_two_files),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
