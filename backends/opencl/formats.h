/* SPDX-License-Identifier: Apache-2.0
 * What differs between weight formats on the host side, by format id. */
#ifndef QMI_OPENCL_FORMATS_H
#define QMI_OPENCL_FORMATS_H

#include "qocl_device.h"

enum { OCL_MAX_SOURCES = 5, OCL_MAX_OPTIONS = 256 };

/* What one program is made of. */
typedef struct ocl_recipe {
    const char *name; /* for errors */
    const char *sources[OCL_MAX_SOURCES];
    cl_uint n_sources;
    char options[OCL_MAX_OPTIONS];
    const char *const *kernels;
} ocl_recipe;

/* Whether there are kernels for it. */
bool ocl_has_format(const qmi_format *format);
/* The program of a format, but for the names of its kernels. */
ocl_recipe ocl_format_recipe(
    const ocl_tuning *tuning, qmi_format_id format, bool many);
/* Work-items in x of the product, and how many make a group. */
void ocl_product_size(int64_t *x, int64_t *local, const ocl_tuning *tuning,
    qmi_format_id format, int64_t n_rows);
/* Work-items in x of decode_rows for a row of n_cols. */
int64_t ocl_decode_size(qmi_format_id format, int64_t n_cols);
/* ocl_weight.tile_bytes. */
cl_ulong ocl_tile_bytes(const qmi_weight *host);

#endif
