/* SPDX-License-Identifier: Apache-2.0
 * Which directories qmoe made: only those are emptied or replaced
 * (docs/compress.md, "Replacing an output"). */
#ifndef QMI_OUTPUT_OWNER_H
#define QMI_OUTPUT_OWNER_H

#include <dirent.h>

#include "error.h"

#define QMI_JOURNAL_NAME "journal"
/* Beside the files of a published layout, which carry no mark of their own:
 * {"created_by": ..., "files": {NAME: BYTES}}. */
#define QMI_EXPORT_NAME "qmoe_export.json"

/* The functions take an open directory and its path. */

/* E_EXISTS names the first entry (by name) that is not part of a finished
 * model or export of qmoe's.  An empty directory passes. */
qmoe_status qmi_check_finished(int directory, const char *path, qmi_error *err);
/* The same for the working directory of a run that was interrupted: it is
 * marked by a journal, and this user's.  *is_empty: there is nothing in it. */
qmoe_status qmi_check_interrupted(
    int directory, const char *path, bool *is_empty, qmi_error *err);
/* E_EXISTS names the first entry that is none of names[n]. */
qmoe_status qmi_check_only(int directory, const char *path, char *const *names,
    size_t n, qmi_error *err);

/* A stream of its own over the directory (closedir); NULL: errno says why. */
DIR *qmi_open_entries(int directory);
/* Removes all files, the journal last. */
qmoe_status qmi_empty_directory(
    int directory, const char *path, qmi_error *err);

#endif
