/* SPDX-License-Identifier: Apache-2.0
 * Members of a PyTorch zip archive, where they lie in the mapped file.  A
 * general library is of no use here: it reads members into memory, and weights
 * must stay in the map.  Format: PKWARE APPNOTE 6.3, sections 4.3 and 4.4, as
 * far as torch.save uses it; everything else is refused. */
#ifndef QMI_TORCH_ZIP_H
#define QMI_TORCH_ZIP_H

#include "error.h"

typedef struct qmi_zip_member {
    const char *name; /* in the map, without the top folder; no NUL at the end
                       */
    uint32_t name_bytes;
    uint64_t offset; /* of the contents, from the start of the file */
    uint64_t n_bytes;
} qmi_zip_member;

typedef struct qmi_zip {
    qmi_zip_member *members; /* by name */
    size_t n_members;
    uint64_t directory_offset, directory_bytes;
} qmi_zip;

/* Reads the directory of the archive that fills [data, data + n_bytes).
 * E_FORMAT: no archive, cut short, an archive comment, data before or after
 * it, several disks, a record or member beyond the file, sizes that differ, two
 * members of one name or in one place, members outside one top folder, a local
 * header that contradicts the directory.  E_UNSUPPORTED: the two older
 * PyTorch formats, compressed or encrypted members.  Memory is proportional to
 * the directory.  Release with qmi_zip_free. */
qmoe_status qmi_zip_read(
    qmi_zip *out, const uint8_t *data, uint64_t n_bytes, qmi_error *err);
void qmi_zip_free(qmi_zip *zip);

/* NULL when there is none.  O(log n). */
const qmi_zip_member *qmi_zip_find(
    const qmi_zip *zip, const char *name, size_t name_bytes);

#endif
