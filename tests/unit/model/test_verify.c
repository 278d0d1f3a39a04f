/* SPDX-License-Identifier: Apache-2.0
 * Verification: counts and what is broken do not depend on the number of
 * threads, payloads are checked behind right checksums, a changed byte of any
 * file is found, progress and cancelling. */
#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
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

enum { MAX_FAULTS = 8 };

typedef struct watch {
    int calls, stop_at; /* 0: never */
    uint64_t done, total;
    pthread_t thread;
    int n_faults;
    char files[MAX_FAULTS][64], tensors[MAX_FAULTS][128];
} watch;

static void on_fault(void *user, const qmoe_fault *fault)
{
    watch *w = user;
    assert_true(w->n_faults < MAX_FAULTS);
    /* The line says which file or tensor. */
    if (strstr(fault->text,
            fault->tensor != NULL ? fault->tensor : fault->file) == NULL)
        fail_msg("%s of %s: %s", fault->tensor, fault->file, fault->text);
    snprintf(w->files[w->n_faults], sizeof w->files[0], "%s", fault->file);
    snprintf(w->tensors[w->n_faults++], sizeof w->tensors[0], "%s",
        fault->tensor != NULL ? fault->tensor : "");
}

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
    w->thread = pthread_self();
    const qmoe_context_options options = {.size = sizeof options,
        .n_threads = n_threads,
        .progress = on_progress,
        .user = w};
    *report = (qmoe_verify_report){0};
    assert_int_equal(qmoe_context_create(&context, &options), QMOE_OK);
    qmoe_status status = qmoe_verify(context, report, model, on_fault, w);
    assert_int_equal(report->n_faults, w->n_faults);
    snprintf(error, 1024, "%s", qmoe_context_error(context));
    qmoe_context_destroy(context);
    return status;
}

/* Just these tensors (or stacks) are broken, in this order; "" ends them. */
static void assert_broken(
    const char *model, qmoe_status expected, const char *const *names)
{
    for (int n_threads = 1; n_threads <= 8; n_threads *= 2) {
        qmoe_verify_report r;
        watch w = {0};
        char error[1024];
        qmoe_status status = verify(model, n_threads, &r, &w, error);
        assert_error(status, expected, error, names[0]);
        int n = 0;
        for (; names[n][0] != '\0'; n++)
            assert_string_equal(w.tensors[n], names[n]);
        assert_int_equal(w.n_faults, n);
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
            assert_true(r.compressed && r.has_digest);
            assert_true(w.calls >= 2 && w.done == w.total);
        }
}

static void test_last_bytes_of_shards(void **state)
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
    char last[128], first[128];
    qmoe_verify_report r;
    watch w = {0};
    char error[1024];
    assert_int_equal(verify(models[1], 2, &r, &w, error), QMOE_E_CHECKSUM);
    assert_non_null(strstr(error, shard));
    assert_string_equal(w.files[0], shard);
    snprintf(last, sizeof last, "%s", w.tensors[0]);
    assert_broken(models[1], QMOE_E_CHECKSUM, (const char *[]){last, ""});
    /* Both, in the order of the files. */
    snprintf(
        path, sizeof path, "%s/model-00001%s", models[1], strstr(shard, "-of"));
    flip(path, -1, SEEK_END);
    w = (watch){0};
    assert_int_equal(verify(models[1], 1, &r, &w, error), QMOE_E_CHECKSUM);
    snprintf(first, sizeof first, "%s", w.tensors[0]);
    assert_string_not_equal(first, last);
    assert_broken(
        models[1], QMOE_E_CHECKSUM, (const char *[]){first, last, ""});
    flip(path, -1, SEEK_END);
    snprintf(path, sizeof path, "%s/%s", models[1], shard);
    flip(path, -1, SEEK_END);
}

/* What cannot be opened is looked at as far as possible. */
static void test_a_shard_that_cannot_be_opened(void **state)
{
    char path[2048];
    qmoe_verify_report r;
    watch w = {0};
    char error[1024];
    (void)state;
    snprintf(
        path, sizeof path, "%s/model-00002-of-00005.safetensors", models[1]);
    flip(path, 4, SEEK_SET); /* of the length of the header */
    snprintf(
        path, sizeof path, "%s/model-00005-of-00005.safetensors", models[1]);
    flip(path, -1, SEEK_END);
    assert_int_equal(verify(models[1], 2, &r, &w, error), QMOE_E_FORMAT);
    assert_int_equal(w.n_faults, 2);
    assert_string_equal(w.files[0], "model-00002-of-00005.safetensors");
    assert_string_equal(w.tensors[0], "");
    assert_string_equal(w.files[1], "model-00005-of-00005.safetensors");
    assert_string_not_equal(w.tensors[1], "");
    flip(path, -1, SEEK_END);
    snprintf(
        path, sizeof path, "%s/model-00002-of-00005.safetensors", models[1]);
    flip(path, 4, SEEK_SET);
}

static qmoe_status open_error(const char *model, char error[1024])
{
    qmoe_context *context = NULL;
    qmoe_model *m = NULL;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    qmoe_status status = qmoe_model_open(&m, context, model);
    snprintf(error, 1024, "%s", qmoe_context_error(context));
    qmoe_model_close(m);
    qmoe_context_destroy(context);
    return status;
}

static void assert_broken_file(
    qmoe_status status, const char *error, const char *name, long at)
{
    if (status != QMOE_E_FORMAT && status != QMOE_E_CHECKSUM)
        fail_msg("%s, byte %ld: %s", name, at, qmoe_status_name(status));
    if (strstr(error, name) == NULL)
        fail_msg("%s, byte %ld: %s", name, at, error);
}

/* Every byte of config.json and of the index, every bit that a program might
 * mistake for another value: opening refuses and names the file. */
static void test_every_byte_of_the_configuration(void **state)
{
    static const char *const names[] = {
        "config.json", "model.safetensors.index.json"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char path[2048], error[1024];
        size_t n_bytes = 0;
        snprintf(path, sizeof path, "%s/%s", models[1], names[i]);
        char *kept = take(path, &n_bytes);
        for (size_t at = 0; at < n_bytes; at++) {
            const char byte = kept[at];
            /* Digits stay digits, letters letters, white space white. */
            kept[at] = byte == ' ' ? '\t' : byte == '\n' ? ' ' : byte ^ 1;
            put(path, kept, n_bytes);
            kept[at] = byte;
            assert_broken_file(
                open_error(models[1], error), error, names[i], (long)at);
        }
        put(path, kept, n_bytes);
        assert_int_equal(open_error(models[1], error), QMOE_OK);
        free(kept);
    }
}

/* First, last and bytes between of every file: verification fails and names
 * the file, and so does opening for what models read but tensors. */
static void test_bytes_of_every_file(void **state)
{
    struct dirent **names = NULL;
    (void)state;
    int n = scandir(models[1], &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        char path[2048], error[1024];
        size_t n_bytes = 0;
        snprintf(path, sizeof path, "%s/%s", models[1], name);
        char *kept = name[0] != '.' ? take(path, &n_bytes) : NULL;
        for (size_t part = 0; kept != NULL && part <= 8; part++) {
            const long at = (long)((n_bytes - 1) * part / 8);
            qmoe_verify_report r;
            watch w = {0};
            flip(path, at, SEEK_SET);
            assert_broken_file(
                verify(models[1], 2, &r, &w, error), error, name, at);
            if (strstr(name, ".safetensors") == NULL &&
                strcmp(name, "qmoe_report.json") != 0)
                assert_broken_file(
                    open_error(models[1], error), error, name, at);
            flip(path, at, SEEK_SET);
        }
        free(kept);
        free(names[i]);
    }
    assert_true(n > 8);
    free(names);
}

/* What is missing, and what was put there later. */
static void test_missing_and_foreign_files(void **state)
{
    char path[2048], other[2048], error[1024];
    qmoe_verify_report r;
    watch w = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/spiece.model", models[1]);
    snprintf(other, sizeof other, "%s/kept", models[1]);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(verify(models[1], 1, &r, &w, error), QMOE_E_FORMAT);
    assert_non_null(strstr(error, "spiece.model: missing"));
    assert_error(open_error(models[1], error), QMOE_E_FORMAT, error,
        "spiece.model: missing");
    assert_int_equal(rename(other, path), 0);
    /* Nobody reads it. */
    scratch_text("verify-pvq/notes.txt", "notes");
    w = (watch){0};
    assert_int_equal(verify(models[1], 1, &r, &w, error), QMOE_OK);
    /* But this would be taken for the weights. */
    snprintf(path, sizeof path, "%s/model.safetensors", models[1]);
    snprintf(
        other, sizeof other, "%s/model-00001-of-00005.safetensors", models[1]);
    assert_int_equal(symlink(other, path), 0);
    w = (watch){0};
    assert_int_equal(verify(models[1], 1, &r, &w, error), QMOE_E_FORMAT);
    assert_non_null(strstr(error, "model.safetensors: config.json does not"));
    assert_error(open_error(models[1], error), QMOE_E_FORMAT, error,
        "'model.safetensors'");
    assert_int_equal(unlink(path), 0);
    unlink(scratch_path("verify-pvq/notes.txt"));
}

/* Of an intact model and, to go through what notes faults, of a broken one: an
 * allocation that fails is told as such and never as a broken file. */
static void test_failing_allocations(void **state)
{
    char path[2048];
    qmoe_context *context = NULL;
    const qmoe_context_options options = {
        .size = sizeof options, .n_threads = 1};
    (void)state;
    assert_int_equal(qmoe_context_create(&context, &options), QMOE_OK);
    snprintf(path, sizeof path, "%s/spiece.model", models[1]);
    for (int broken = 0; broken < 2; broken++) {
        const qmoe_status expected = broken ? QMOE_E_CHECKSUM : QMOE_OK;
        if (broken)
            flip(path, 4000, SEEK_SET);
        uint64_t n = 1;
        for (qmoe_status status = QMOE_E_NOMEM; status != expected; n++) {
            qmoe_verify_report report;
            qmi_alloc_fail_after(n);
            status = qmoe_verify(context, &report, models[1], NULL, NULL);
            qmi_alloc_fail_after(0);
            if (status == expected)
                break;
            assert_error(status, QMOE_E_NOMEM, qmoe_context_error(context),
                "out of memory");
            assert_int_equal(report.n_faults, 0);
        }
        assert_true(n > 100);
    }
    flip(path, 4000, SEEK_SET);
    qmoe_context_destroy(context);
}

/* By the hook: before the first byte, on the way or after the last one. */
static void test_cancel(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 4; n_threads += 3)
        for (int stop_at = 1; stop_at <= 2; stop_at++) {
            qmoe_verify_report r;
            watch w = {.stop_at = stop_at};
            char error[1024];
            qmoe_status status = verify(models[0], n_threads, &r, &w, error);
            assert_error(status, QMOE_E_CANCELLED, error, "cancelled");
            assert_int_equal(w.calls, stop_at);
        }
}

/* By a wish that was there before: it stays until it is withdrawn. */
static void test_cancel_before(void **state)
{
    (void)state;
    qmoe_context *context = NULL;
    qmoe_verify_report r;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    qmoe_context_cancel(context, true);
    for (int i = 0; i < 2; i++) {
        assert_error(qmoe_verify(context, &r, models[0], NULL, NULL),
            QMOE_E_CANCELLED, qmoe_context_error(context), "cancelled");
        assert_int_equal(r.n_tensors, 0);
    }
    qmoe_context_cancel(context, false);
    assert_int_equal(qmoe_verify(context, &r, models[0], NULL, NULL), QMOE_OK);
    assert_true(r.n_tensors > 0);
    qmoe_context_destroy(context);
}

/* Replaces the one occurrence of `old` in `text`. */
static void replace_hex(
    char *data, size_t n_bytes, const char *old, const char *new)
{
    char *found = memmem(data, n_bytes, old, strlen(old));
    assert_non_null(found);
    memcpy(found, new, strlen(new));
}

/* The digest of config.json, which counts its own digits as zeros. */
static void seal(char *text, size_t n_bytes)
{
    static const char key[] = "\"config_xxh3\":\t\"";
    char hex[17];
    char *found = memmem(text, n_bytes, key, strlen(key));
    assert_non_null(found);
    memset(found + strlen(key), '0', 16);
    qmi_hash_hex(hex, qmi_hash64(text, n_bytes));
    memcpy(found + strlen(key), hex, 16);
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
    seal(text, n_config);
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
    assert_broken(models[1], QMOE_E_FORMAT, (const char *[]){stack, ""});
    snprintf(name, sizeof name, "%s.row_offsets", stack);
    forge(models[0], name, 40, &beyond, sizeof beyond);
    assert_broken(models[0], QMOE_E_FORMAT, (const char *[]){stack, ""});
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
        cmocka_unit_test(test_last_bytes_of_shards),
        cmocka_unit_test(test_a_shard_that_cannot_be_opened),
        cmocka_unit_test(test_every_byte_of_the_configuration),
        cmocka_unit_test(test_bytes_of_every_file),
        cmocka_unit_test(test_missing_and_foreign_files),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_cancel_before),
        cmocka_unit_test(test_payload_behind_right_checksums),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
