/* SPDX-License-Identifier: Apache-2.0
 * A directory that appears complete or not at all: work happens in the sibling
 * "<path>.partial", which is synced and renamed at the end.  Nothing that qmoe
 * did not make is replaced, emptied or published (output_owner.h), and nothing
 * that is read (output_source.h). */
#ifndef QMI_OUTPUT_DIRECTORY_H
#define QMI_OUTPUT_DIRECTORY_H

#include "new_file.h"
#include "output_owner.h"
#include "output_source.h"

/* All zero: not open. */
typedef struct qmi_output {
    char *path;    /* final name */
    char *partial; /* working name; empty directory after open */
    int parent;    /* descriptor of the directory that holds both */
    int lock;      /* descriptor holding the lock on `partial` */
    bool overwrite;
    bool resumed; /* `partial` was there and its content was kept */
    bool keep;    /* do not remove `partial` on close */
    char **files; /* [n_files] names given by create and reopen */
    size_t n_files, capacity;
} qmi_output;

typedef struct qmi_output_options {
    bool overwrite; /* replace `path`, drop an interrupted run */
    bool resume;    /* keep the content of an interrupted run */
    const qmi_output_source *sources; /* what is read, [n_sources] */
    size_t n_sources;
} qmi_output_options;

/* Makes the working directory, empty unless a run is resumed; the caller then
 * puts a journal into it first, which marks it as qmoe's.
 * E_INVALID: the output lies in or over a source.
 * E_EXISTS: `path` exists and !overwrite; it or the working directory holds
 * something that qmoe did not make; an interrupted run is there and neither
 * resume nor overwrite is asked for; another process is writing. */
qmoe_status qmi_output_open(qmi_output *out, const char *path,
    const qmi_output_options *options, qmi_error *err);
/* A new file of the result.  Replaces one of an interrupted run. */
qmoe_status qmi_output_create(
    qmi_output *output, qmi_new_file *out, const char *name, qmi_error *err);
/* A file of the interrupted run that is resumed, to go on with. */
qmoe_status qmi_output_reopen(
    qmi_output *output, qmi_new_file *out, const char *name, qmi_error *err);
/* Writes a whole small file and syncs it. */
qmoe_status qmi_output_write(qmi_output *output, const char *name,
    const void *data, size_t n_bytes, qmi_error *err);
/* Puts the directory in place under its final name, without the journal.
 * E_EXISTS: a file that this run did not write is in it; somebody made `path`
 * meanwhile.  Other errors may come when the result is in place: the text says
 * so. */
qmoe_status qmi_output_commit(qmi_output *output, qmi_error *err);
/* Frees; removes the working directory unless committed or `keep`. */
void qmi_output_close(qmi_output *output);

#endif
