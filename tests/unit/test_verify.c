/* SPDX-License-Identifier: Apache-2.0
 * Verification: counts and the first broken tensor do not depend on the number
 * of threads, payloads are checked behind right checksums, progress and
 * cancelling. */
#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "hash.h"
#include "json.h"
#include "map.h"
#include "model.h"
#include "qmoe/quant.h"
#include "scratch.h"

#define MINI QMOE_SOURCE_DIR "/models/switch-mini"

static char models[2][1024]; /* ternary-dict, pvq */

/* ---- files ---- */

static void put(const char *path, const void *data, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

static char *take(const char *path, size_t *n_bytes)
{
    char *data = NULL;
    qmi_error err = {0};
    if (qmi_read_file(&data, n_bytes, path, 1 << 30, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return data;
}

static void flip(const char *path, long at, int whence)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, whence), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, -1, SEEK_CUR), 0);
    fputc(byte ^ 0x10, file);
    assert_int_equal(fclose(file), 0);
}

/* ---- verifying ---- */

typedef struct watch {
    int calls, stop_at; /* 0: never */
    uint64_t done, total;
    pthread_t thread;
} watch;

static int on_progress(void *user, const qmoe_progress *p)
{
    watch *w = user;
    assert_true(pthread_equal(w->thread, pthread_self()));
    assert_string_equal(p->stage, "verify");
    assert_true(p->done >= w->done && p->done <= p->total);
    w->done = p->done;
    w->total = p->total;
    return ++w->calls == w->stop_at;
}

static qmoe_status verify(const char *model, int n_threads,
    qmoe_verify_report *report, watch *w, char error[1024])
{
    qmoe_context *context = NULL;
    qmoe_model *m = NULL;
    w->thread = pthread_self();
    const qmoe_context_options options = {.size = sizeof options,
        .n_threads = n_threads,
        .progress = on_progress,
        .user = w};
    *report = (qmoe_verify_report){0};
    assert_int_equal(qmoe_context_create(&context, &options), QMOE_OK);
    qmoe_status status = qmoe_model_open(&m, context, model);
    if (status == QMOE_OK)
        status = qmoe_model_verify(m, report);
    snprintf(error, 1024, "%s", qmoe_context_error(context));
    qmoe_model_close(m);
    qmoe_context_destroy(context);
    return status;
}

static void assert_broken(
    const char *model, qmoe_status expected, const char *name)
{
    for (int n_threads = 1; n_threads <= 8; n_threads *= 2) {
        qmoe_verify_report r;
        watch w = {0};
        char error[1024];
        qmoe_status status = verify(model, n_threads, &r, &w, error);
        assert_error(status, expected, error, name);
        assert_string_equal(r.first_bad, name);
    }
}

/* ---- tests ---- */

static void test_intact(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        for (int n_threads = 1; n_threads <= 4; n_threads += 3) {
            qmoe_verify_report r;
            watch w = {0};
            char error[1024];
            if (verify(models[i], n_threads, &r, &w, error) != QMOE_OK)
                fail_msg("%s", error);
            /* 2 sparse blocks of 16 experts, wi [512, 256], wo [256, 512] */
            assert_int_equal(r.n_rows_checked, 2 * 16 * 768);
            assert_true(r.n_tensors > 0);
            assert_int_equal(r.n_bytes, w.total);
            assert_int_equal(r.n_without_checksum, 0);
            assert_string_equal(r.first_bad, "");
            assert_true(w.calls >= 2 && w.done == w.total);
        }
}

static void test_last_byte_of_last_shard(void **state)
{
    struct dirent **names = NULL;
    char path[2048], shard[256] = "";
    (void)state;
    int n = scandir(models[1], &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (strstr(names[i]->d_name, "-of-") != NULL)
            snprintf(shard, sizeof shard, "%s", names[i]->d_name);
        free(names[i]);
    }
    free(names);
    snprintf(path, sizeof path, "%s/%s", models[1], shard);
    flip(path, -1, SEEK_END);
    qmoe_verify_report r;
    watch w = {0};
    char error[1024];
    assert_int_equal(verify(models[1], 2, &r, &w, error), QMOE_E_CHECKSUM);
    assert_non_null(strstr(error, shard));
    char name[256];
    snprintf(name, sizeof name, "%s", r.first_bad);
    assert_broken(models[1], QMOE_E_CHECKSUM, name);
    /* The first in the order of the files, whichever thread is faster. */
    snprintf(
        path, sizeof path, "%s/model-00001%s", models[1], strstr(shard, "-of"));
    flip(path, -1, SEEK_END);
    w = (watch){0};
    assert_int_equal(verify(models[1], 1, &r, &w, error), QMOE_E_CHECKSUM);
    assert_string_not_equal(r.first_bad, name);
    snprintf(name, sizeof name, "%s", r.first_bad);
    assert_broken(models[1], QMOE_E_CHECKSUM, name);
    flip(path, -1, SEEK_END);
    snprintf(path, sizeof path, "%s/%s", models[1], shard);
    flip(path, -1, SEEK_END);
}

static void test_cancel(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 4; n_threads += 3)
        for (int stop_at = 1; stop_at <= (n_threads == 1 ? 9 : 1);
             stop_at += 4) {
            qmoe_verify_report r;
            watch w = {.stop_at = stop_at};
            char error[1024];
            qmoe_status status = verify(models[0], n_threads, &r, &w, error);
            assert_error(status, QMOE_E_CANCELLED, error, "cancelled");
            assert_int_equal(w.calls, stop_at);
        }
}

/* Replaces the one occurrence of `old` in `text`. */
static void replace_hex(
    char *data, size_t n_bytes, const char *old, const char *new)
{
    char *found = memmem(data, n_bytes, old, strlen(old));
    assert_non_null(found);
    memcpy(found, new, strlen(new));
}

/* Overwrites bytes of a tensor and makes all checksums right again. */
static void forge(const char *model, const char *tensor, uint64_t at,
    const void *bytes, size_t n)
{
    qmi_checkpoint *checkpoint = NULL;
    qmi_error err = {0};
    char path[1024], config[2048], old[17], new[17];
    assert_int_equal(qmi_checkpoint_open(&checkpoint, model, &err), QMOE_OK);
    const qmi_tensor *t = qmi_checkpoint_find(checkpoint, tensor);
    assert_non_null(t);
    const qmi_tensor_file *file = qmi_checkpoint_file(checkpoint, t->file);
    snprintf(path, sizeof path, "%s", qmi_tensor_file_path(file));
    const size_t offset = (size_t)(t->data - file->map.data);
    const size_t n_tensor = (size_t)t->n_bytes;
    const uint64_t header = qmi_tensor_file_header_hash(file);
    qmi_checkpoint_close(checkpoint);

    size_t n_bytes = 0, n_config = 0;
    char *data = take(path, &n_bytes);
    qmi_hash_hex(old, qmi_hash64(data + offset, n_tensor));
    memcpy(data + offset + at, bytes, n);
    qmi_hash_hex(new, qmi_hash64(data + offset, n_tensor));
    replace_hex(data, n_bytes, old, new);
    uint64_t length = 0;
    memcpy(&length, data, sizeof length);
    put(path, data, n_bytes);
    snprintf(config, sizeof config, "%s/config.json", model);
    char *text = take(config, &n_config);
    qmi_hash_hex(old, header);
    qmi_hash_hex(new, qmi_hash64(data, (size_t)length + 8));
    replace_hex(text, n_config, old, new);
    put(config, text, n_config);
    free(data);
    free(text);
}

/* Right checksums prove nothing about codes: the rules of a format count. */
static void test_payload_behind_right_checksums(void **state)
{
    static const char stack[] = "decoder.block.1.layer.2.mlp.experts.wo";
    static const uint16_t infinite = 0x7f80;
    static const uint32_t beyond = 0x00ffffff;
    char name[256];
    (void)state;
    snprintf(name, sizeof name, "%s.scales", stack);
    forge(models[1], name, 130, &infinite, sizeof infinite);
    assert_broken(models[1], QMOE_E_FORMAT, stack);
    snprintf(name, sizeof name, "%s.row_offsets", stack);
    forge(models[0], name, 40, &beyond, sizeof beyond);
    assert_broken(models[0], QMOE_E_FORMAT, stack);
}

static int set_up(void **state)
{
    static const char *const formats[] = {"ternary-dict", "pvq"};
    qmoe_context *context = NULL;
    (void)state;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    for (int i = 0; i < 2; i++) {
        qmoe_compress_report report;
        const qmoe_compress_options options = {.size = sizeof options,
            .method = "rtn",
            .format = formats[i],
            .overwrite = true};
        snprintf(models[i], sizeof models[i], "%s-%s", scratch_path("verify"),
            formats[i]);
        qmoe_status status =
            qmoe_compress(context, &report, MINI, models[i], &options);
        if (status != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
    }
    qmoe_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intact),
        cmocka_unit_test(test_last_byte_of_last_shard),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_payload_behind_right_checksums),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
