/* SPDX-License-Identifier: Apache-2.0
 * Reads documents from a text file: one per line; a line that starts with '{'
 * is a JSON record whose "text" member is the document. */
#ifndef QMI_DOCUMENTS_H
#define QMI_DOCUMENTS_H

#include "error.h"

typedef struct qmi_documents qmi_documents;

qmoe_status qmi_documents_open(
    qmi_documents **out, const char *path, qmi_error *err);
/* The next non-empty document: *text is valid until the next call, NULL at the
 * end.  E_FORMAT (naming file and line): a broken record, not UTF-8. */
qmoe_status qmi_documents_next(qmi_documents *documents, const char **text,
    size_t *n_bytes, qmi_error *err);
void qmi_documents_close(qmi_documents *documents);

#endif
