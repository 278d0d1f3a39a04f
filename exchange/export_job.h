/* SPDX-License-Identifier: Apache-2.0
 * One export, shared by the files export*.c. */
#ifndef QMI_EXPORT_JOB_H
#define QMI_EXPORT_JOB_H

#include "matrix_range.h"
#include "output_directory.h"
#include "qmoe/exchange.h"

typedef struct qmi_export {
    qmi_hooks *hooks;
    qmoe_model *model;
    qmoe_export_options options;
    qmi_output output;
    uint64_t done, total; /* bytes of the model, for progress */
    cJSON *files;         /* published layout: bytes of each file written */
    qmoe_export_report *report;
    qmi_error *err; /* the context's */
} qmi_export;

/* True for a part of a compressed weight. */
bool qmi_export_is_part(const qmi_export *e, const char *tensor);
/* Writes config.json without quantization_config; `dtype` (may be NULL)
 * becomes torch_dtype. */
qmoe_status qmi_export_config(qmi_export *e, const char *dtype);

qmoe_status qmi_export_hf(qmi_export *e);
qmoe_status qmi_export_published(qmi_export *e);

#endif
