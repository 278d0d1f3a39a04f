/* SPDX-License-Identifier: Apache-2.0
 * What stands where a model was expected: a download that is not finished, a
 * directory of another kind.  Only the texts of errors depend on these. */
#ifndef QMI_HINTS_H
#define QMI_HINTS_H

#include <stdint.h>

#include "error.h"

/* What small text file the bytes are instead of weights: "a Git LFS pointer,
 * ..." or "a web page, ..."; NULL when neither. */
const char *qmi_hint_contents(const void *data, uint64_t n_bytes);

/* Whether it holds a compressed model as the QMoE authors published them. */
bool qmi_looks_published(const char *directory);

/* The directory of a model must be one: else E_NOT_FOUND, E_IO. */
qmoe_status qmi_require_directory(const char *path, qmi_error *err);
/* E_NOT_FOUND: no config.json in it. */
qmoe_status qmi_fail_no_config(qmi_error *err, const char *directory);
/* E_NOT_FOUND: a directory with config.json, but without weights. */
qmoe_status qmi_fail_no_weights(qmi_error *err, const char *directory);
/* E_NOT_FOUND: a directory without noexp.pt is no published compressed one. */
qmoe_status qmi_fail_not_published(qmi_error *err, const char *directory);

#endif
