/* SPDX-License-Identifier: Apache-2.0
 * The table of weight formats, and nothing else.  In: the list of format_ids.h.
 * Out: an array that ends with NULL.  A test that adds formats
 * (QMI_MORE_FORMATS) links its table in place of this one. */
#include "weight.h"

#ifndef QMI_MORE_FORMATS
#define QMI_MORE_FORMATS(X)
#endif

#define X(name, object) extern const qmi_format qmi_format_##object;
QMI_FORMAT_MAP(X)
QMI_MORE_FORMATS(X)
#undef X

const qmi_format *const qmi_formats[] = {
#define X(name, object) &qmi_format_##object,
    QMI_FORMAT_MAP(X) QMI_MORE_FORMATS(X)
#undef X
        NULL,
};
