/* SPDX-License-Identifier: Apache-2.0
 * Output directories from the inside: failing allocations at every place,
 * interrupted runs taken up again.  What users see is in tests/cli
 * (cases_output.sh, cases_faults.sh). */
#include "scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "alloc.h"
#include "output_directory.h"
#include "output_swap.h"

static const char config[] =
    "{\"quantization_config\": {\"quant_method\": \"qmoe\", \"files\": "
    "{\"model-00001-of-00001.safetensors\": {}}}}";
static const char shard[] = "model-00001-of-00001.safetensors";
static const char head[] = "qmoe-journal 1 0\n";

/* Removes a directory of files. */
static void drop(const char *path)
{
    DIR *entries = opendir(path);
    if (entries == NULL)
        return;
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        unlinkat(dirfd(entries), e->d_name, 0);
    closedir(entries);
    rmdir(path);
}

static bool exists(const char *directory, const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return access(path, F_OK) == 0;
}

/* The first bytes of a file are these. */
static void assert_begins(
    const char *directory, const char *name, const char *text)
{
    char path[1200], bytes[256] = "";
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(bytes, 1, strlen(text), file) == strlen(text));
    fclose(file);
    assert_string_equal(bytes, text);
}

static qmoe_status write_all(qmi_output *o, const char *weights, qmi_error *err)
{
    QMI_TRY(qmi_output_write(o, QMI_JOURNAL_NAME, head, strlen(head), err));
    QMI_TRY(qmi_output_write(o, shard, weights, strlen(weights), err));
    return qmi_output_write(o, "config.json", config, strlen(config), err);
}

static qmoe_status make(
    const char *path, bool overwrite, const char *weights, qmi_error *err)
{
    qmi_output o;
    const qmi_output_source here = {QMOE_TEST_DIR, true};
    const qmi_output_options options = {
        .overwrite = overwrite, .sources = &here, .n_sources = 1};
    QMI_TRY(qmi_output_open(&o, path, &options, err));
    qmoe_status status = write_all(&o, weights, err);
    if (status == QMOE_OK)
        status = qmi_output_commit(&o, err);
    qmi_output_close(&o);
    return status;
}

/* The old result stays until the new one is whole. */
static void survives_failing_allocations(void **state)
{
    (void)state;
    qmi_error err = {0};
    const char *path = scratch_path("replaced");
    const char *partial = scratch_path("replaced.partial");
    drop(path);
    int n_failed = 0;
    for (uint64_t n = 1; n < 80; n++) {
        drop(path);
        assert_int_equal(make(path, false, "old", &err), QMOE_OK);
        qmi_alloc_fail_after(n);
        qmoe_status status = make(path, true, "new", &err);
        qmi_alloc_fail_after(0);
        assert_false(exists(path, QMI_JOURNAL_NAME));
        assert_int_not_equal(access(partial, F_OK), 0);
        bool placed = status == QMOE_OK || strstr(err.text, "is complete");
        assert_begins(path, shard, placed ? "new" : "old");
        /* A file that cannot be read is no proof of anything. */
        assert_true(
            placed || status == QMOE_E_NOMEM || status == QMOE_E_EXISTS);
        n_failed += status != QMOE_OK;
    }
    assert_true(n_failed > 10);
    assert_begins(path, shard, "new");
    drop(path);
}

/* A resumed run goes on in its files and writes the others anew. */
static void takes_up_an_interrupted_run(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_output o;
    qmi_new_file file;
    const char *path = scratch_path("resumed");
    const char *partial = scratch_path("resumed.partial");
    drop(path);
    drop(partial);
    qmi_output_options options = {.resume = true};
    assert_int_equal(qmi_output_open(&o, path, &options, &err), QMOE_OK);
    assert_false(o.resumed);
    assert_int_equal(write_all(&o, "begun", &err), QMOE_OK);
    /* Nothing is written twice in one run. */
    assert_error(qmi_output_create(&o, &file, shard, &err), QMOE_E_EXISTS,
        err.text, "was there before");
    o.keep = true;
    qmi_output_close(&o);

    options.resume = false;
    assert_error(qmi_output_open(&o, path, &options, &err), QMOE_E_EXISTS,
        err.text, "--resume");
    options.resume = true;
    assert_int_equal(qmi_output_open(&o, path, &options, &err), QMOE_OK);
    assert_true(o.resumed);
    assert_int_equal(qmi_output_reopen(&o, &file, shard, &err), QMOE_OK);
    assert_int_equal(pwrite(file.fd, "E", 1, 4), 1);
    qmi_new_file_close(&file);
    /* The journal and config.json are not this run's yet. */
    assert_error(qmi_output_commit(&o, &err), QMOE_E_EXISTS, err.text,
        "config.json: was not written by this run");
    assert_int_equal(
        qmi_output_write(&o, "config.json", config, strlen(config), &err),
        QMOE_OK);
    assert_int_equal(
        qmi_output_reopen(&o, &file, QMI_JOURNAL_NAME, &err), QMOE_OK);
    qmi_new_file_close(&file);
    assert_int_equal(qmi_output_commit(&o, &err), QMOE_OK);
    qmi_output_close(&o);
    assert_begins(path, shard, "beguE");
    assert_false(exists(path, QMI_JOURNAL_NAME));
    assert_int_not_equal(access(partial, F_OK), 0);
    drop(path);
}

/* Somebody makes the output while the run works. */
static void leaves_what_appeared_meanwhile(void **state)
{
    (void)state;
    qmi_error err = {0};
    for (int overwrite = 0; overwrite < 2; overwrite++) {
        qmi_output o;
        const qmi_output_options options = {.overwrite = overwrite != 0};
        const char *path = scratch_path("meanwhile");
        drop(path);
        assert_int_equal(qmi_output_open(&o, path, &options, &err), QMOE_OK);
        assert_int_equal(write_all(&o, "new", &err), QMOE_OK);
        scratch_directory("meanwhile");
        scratch_text("meanwhile/thesis.txt", "text");
        assert_error(qmi_output_commit(&o, &err), QMOE_E_EXISTS, err.text,
            overwrite ? "thesis.txt: was not written by qmoe"
                      : "another process has made it");
        qmi_output_close(&o);
        assert_begins(path, "thesis.txt", "text");
        drop(path);
    }
}

/* A lock that is not given up ends in an error that says so. */
static void says_who_has_the_lock(void **state)
{
    (void)state;
    const char *path = QMOE_TEST_DIR "/output-locked";
    const char *from = QMOE_TEST_DIR "/output-locked-new";
    qmi_replaced old;
    qmi_error err = {0};
    mkdir(path, 0700);
    mkdir(from, 0700);
    const int parent = open(QMOE_TEST_DIR, O_RDONLY | O_DIRECTORY);
    const int lock = open(path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    assert_int_equal(qmi_swap_directory(&old, parent, "output-locked-new", path,
                         true, 60, &err),
        QMOE_E_EXISTS);
    assert_non_null(strstr(
        err.text, "another process has had a lock on it for 0.06 seconds"));
    assert_int_equal(old.directory, -1);
    close(lock);
    close(parent);
    rmdir(path);
    rmdir(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives_failing_allocations),
        cmocka_unit_test(takes_up_an_interrupted_run),
        cmocka_unit_test(leaves_what_appeared_meanwhile),
        cmocka_unit_test(says_who_has_the_lock),
    };
    return cmocka_run_group_tests_name("output_directory", tests, NULL, NULL);
}
