/* SPDX-License-Identifier: Apache-2.0
 * Architectures: how a family of models reads its config, names its tensors
 * and computes.  One entry of the table in arch.c each; adding one adds a file
 * and a line there. */
#ifndef QMI_ARCH_H
#define QMI_ARCH_H

#include "config.h"
#include "json.h"

typedef struct qmi_arch qmi_arch;

struct qmi_arch {
    const char *model_type; /* as in config.json */
    /* E_FORMAT, E_UNSUPPORTED naming file and key. */
    qmoe_status (*configure)(
        qmi_config *out, const cJSON *json, const char *file, qmi_error *err);
    /* Adds the weights (qmi_model_add_*) and the steps to the model. */
    qmoe_status (*build)(qmoe_model *model, qmi_error *err);
};

/* NULL when unknown. */
const qmi_arch *qmi_arch_find(const char *model_type);

#endif
