/* SPDX-License-Identifier: Apache-2.0
 * Where a directory lies in its file system, whatever mount it is seen
 * through. */
#ifndef QMI_MOUNT_PLACE_H
#define QMI_MOUNT_PLACE_H

#include <stdbool.h>

typedef struct qmi_mount_place {
    char device[32]; /* "8:1" */
    char *path;      /* from the root of the file system; qmi_free */
} qmi_mount_place;

/* Of an open directory.  False: the system does not say. */
bool qmi_mount_place_of(qmi_mount_place *out, int directory);
void qmi_mount_place_free(qmi_mount_place *place);
/* Whether `inner` is `outer/name` or lies below it; name NULL: `outer`. */
bool qmi_mount_place_within(const qmi_mount_place *inner,
    const qmi_mount_place *outer, const char *name);

#endif
