/* SPDX-License-Identifier: Apache-2.0
 * The table of weight formats, and nothing else: a test that adds a format
 * links a table of its own in place of this file. */
#include "weight.h"

#define X(name, object) extern const qmi_format qmi_format_##object;
QMI_FORMAT_MAP(X)
#undef X

const qmi_format *const qmi_formats[] = {
#define X(name, object) &qmi_format_##object,
    QMI_FORMAT_MAP(X)
#undef X
        NULL,
};
