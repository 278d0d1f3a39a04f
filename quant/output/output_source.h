/* SPDX-License-Identifier: Apache-2.0
 * An output must not lie in, over or on what is read for it. */
#ifndef QMI_OUTPUT_SOURCE_H
#define QMI_OUTPUT_SOURCE_H

#include "error.h"

/* A file or directory that a run reads; one that does not exist is no danger. */
typedef struct qmi_output_source {
    const char *path;
    bool may_hold_output; /* a directory in which the output may lie */
} qmi_output_source;

/* `parent`: descriptor of the directory that holds the final and the working
 * name.  Compares device and inode of every directory up to the root, so other
 * spellings, links and mounts make no difference.  Links in a source directory
 * (as in a download cache) are followed.  E_INVALID names the source. */
qmoe_status qmi_check_sources(int parent, const char *path,
    const char *const names[2], const qmi_output_source *sources,
    size_t n_sources, qmi_error *err);

#endif
