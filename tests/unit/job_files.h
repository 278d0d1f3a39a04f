/* SPDX-License-Identifier: Apache-2.0
 * Compressions that are stopped, whose files are changed, and that go on: a
 * directory as a list of files in memory, and the compressor with a stop. */
#ifndef QMOE_TEST_JOB_FILES_H
#define QMOE_TEST_JOB_FILES_H

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "map.h"
#include "qmoe/quant.h"
#include "scratch.h"

/* ---- directories ---- */

typedef struct job_file {
    char name[256];
    uint8_t *data; /* free */
    size_t n_bytes;
} job_file;

typedef struct job_files {
    job_file items[24];
    size_t n;
} job_files;

static inline job_file *job_files_add(
    job_files *files, const char *name, const void *data, size_t n_bytes)
{
    job_file *file = &files->items[files->n++];
    assert_true(files->n <= sizeof files->items / sizeof *files->items);
    snprintf(file->name, sizeof file->name, "%s", name);
    file->data = malloc(n_bytes + 1);
    assert_non_null(file->data);
    memcpy(file->data, data, n_bytes);
    file->data[n_bytes] = '\0';
    file->n_bytes = n_bytes;
    return file;
}

static inline void job_files_free(job_files *files)
{
    for (size_t i = 0; i < files->n; i++)
        free(files->items[i].data);
    *files = (job_files){0};
}

static inline job_files job_files_copy(const job_files *files)
{
    job_files copy = {0};
    for (size_t i = 0; i < files->n; i++)
        job_files_add(&copy, files->items[i].name, files->items[i].data,
            files->items[i].n_bytes);
    return copy;
}

static inline job_file *job_files_find(job_files *files, const char *name)
{
    for (size_t i = 0; i < files->n; i++)
        if (strcmp(files->items[i].name, name) == 0)
            return &files->items[i];
    return NULL;
}

/* Sorted by name. */
static inline job_files job_files_load(const char *directory)
{
    struct dirent **names = NULL;
    job_files files = {0};
    int n = scandir(directory, &names, NULL, alphasort);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char path[2048];
        qmi_map map;
        qmi_error err = {0};
        snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            if (qmi_map_open(&map, path, &err) != QMOE_OK)
                fail_msg("%s", err.text);
            job_files_add(&files, names[i]->d_name,
                map.n_bytes != 0 ? (const void *)map.data : "", map.n_bytes);
            qmi_map_close(&map);
        }
        free(names[i]);
    }
    free(names);
    return files;
}

static inline void job_remove(const char *directory)
{
    struct dirent **names = NULL;
    int n = scandir(directory, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name);
        unlink(path);
        free(names[i]);
    }
    free(names);
    rmdir(directory);
}

static inline void job_files_store(
    const job_files *files, const char *directory)
{
    job_remove(directory);
    assert_int_equal(mkdir(directory, 0777), 0);
    for (size_t i = 0; i < files->n; i++) {
        const job_file *file = &files->items[i];
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", directory, file->name);
        FILE *stream = fopen(path, "wb");
        assert_non_null(stream);
        assert_int_equal(
            fwrite(file->data, 1, file->n_bytes, stream), file->n_bytes);
        assert_int_equal(fclose(stream), 0);
    }
}

/* ---- runs ---- */

typedef struct job_run {
    const char *source, *output, *text; /* text: to calibrate with, or NULL */
    qmoe_compress_options options;
    int stop_after; /* steps of work; 0 = never */
    int n_threads;  /* 0 = 2 */
    /* What became of it. */
    qmoe_status status;
    qmoe_compress_report report;
    char error[1024];
    int n_redone; /* messages that something is compressed again */
    char message[512];
} job_run;

static inline int job_on_progress(void *user, const qmoe_progress *progress)
{
    job_run *run = user;
    if (run->stop_after == 0 || (strcmp(progress->stage, "measure") != 0 &&
                                    strcmp(progress->stage, "quantize") != 0))
        return 0;
    return --run->stop_after == 0;
}

static inline void job_on_message(void *user, const char *text)
{
    job_run *run = user;
    if (strstr(text, "compressed again") == NULL)
        return;
    run->n_redone++;
    snprintf(run->message, sizeof run->message, "%s", text);
}

static inline qmoe_status job_go(job_run *run)
{
    qmoe_context *context = NULL;
    const qmoe_context_options options = {.size = sizeof options,
        .n_threads = run->n_threads != 0 ? run->n_threads : 2,
        .progress = job_on_progress,
        .message = job_on_message,
        .user = run};
    qmoe_compress_options *o = &run->options;
    o->size = sizeof *o;
    o->without_tokenizer = true;
    o->calibration = &run->text;
    o->n_calibration = run->text != NULL;
    run->n_redone = 0;
    assert_int_equal(qmoe_context_create(&context, &options), QMOE_OK);
    run->status =
        qmoe_compress(context, &run->report, run->source, run->output, o);
    snprintf(run->error, sizeof run->error, "%s", qmoe_context_error(context));
    qmoe_context_destroy(context);
    return run->status;
}

#endif
