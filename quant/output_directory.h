/* SPDX-License-Identifier: Apache-2.0
 * A directory that appears complete or not at all: work happens in the sibling
 * "<path>.partial", which is synced and renamed at the end. */
#ifndef QMI_OUTPUT_DIRECTORY_H
#define QMI_OUTPUT_DIRECTORY_H

#include "error.h"

typedef struct qmi_output {
    char *path;    /* final name */
    char *partial; /* working name; empty directory after open */
    int lock;      /* descriptor holding the lock on `partial` */
    bool resumed;  /* `partial` was there and its content was kept */
    bool keep;     /* do not remove `partial` on close */
} qmi_output;

typedef struct qmi_output_options {
    bool overwrite; /* replace `path`, drop an interrupted run */
    bool resume;    /* keep the content of an interrupted run */
    /* A file whose presence in `partial` marks an interrupted run; removed
     * from the result. */
    const char *journal;
} qmi_output_options;

/* Makes the working directory, empty unless a run is resumed.
 * E_EXISTS: `path` exists and !overwrite; an interrupted run is there and
 * neither resume nor overwrite is asked for; another process is writing. */
qmoe_status qmi_output_open(qmi_output *out, const char *path,
    const qmi_output_options *options, qmi_error *err);
/* Full path of a file inside the working directory (qmi_free). */
char *qmi_output_file(
    const qmi_output *output, const char *name, qmi_error *err);
/* Writes a whole small file and syncs it. */
qmoe_status qmi_output_write(const qmi_output *output, const char *name,
    const void *data, size_t n_bytes, qmi_error *err);
/* Puts the directory in place under its final name. */
qmoe_status qmi_output_commit(
    qmi_output *output, const char *journal, qmi_error *err);
/* Frees; removes the working directory unless committed or `keep`. */
void qmi_output_close(qmi_output *output);

#endif
