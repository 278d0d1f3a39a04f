/* SPDX-License-Identifier: Apache-2.0
 * What differs between weight formats on the host side, by format id. */
#ifndef QOCL_FORMATS_H
#define QOCL_FORMATS_H

#include "qocl_device.h"

enum { QOCL_MAX_SOURCES = 6, QOCL_MAX_OPTIONS = 256, QOCL_TABLE_TEXT = 1536 };

/* What one program is made of. */
typedef struct qocl_recipe {
    const char *name;            /* for errors */
    char table[QOCL_TABLE_TEXT]; /* a source before the others; or "" */
    const char *sources[QOCL_MAX_SOURCES];
    cl_uint n_sources;
    char options[QOCL_MAX_OPTIONS];
    const char *const *kernels;
} qocl_recipe;

/* Whether there are kernels for it. */
bool qocl_has_format(const qmi_format *format);
/* The program of a format, but for the names of its kernels. */
qocl_recipe qocl_format_recipe(
    const qocl_tuning *tuning, qmi_format_id format, bool many);
/* Work-items in x of the product, and how many make a group. */
void qocl_product_size(int64_t *x, int64_t *local, const qocl_tuning *tuning,
    qmi_format_id format, int64_t n_rows);
/* Work-items in x of decode_rows for a row of n_cols. */
int64_t qocl_decode_size(qmi_format_id format, int64_t n_cols);
/* qocl_weight.tile_bytes. */
cl_ulong qocl_tile_bytes(const qmi_weight *host);

#endif
