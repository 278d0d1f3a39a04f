/* SPDX-License-Identifier: Apache-2.0
 * Architectures: how a family of models reads its config, names its tensors
 * and computes.  Adding one adds a file and a line in arch_table.c. */
#ifndef QMI_ARCH_H
#define QMI_ARCH_H

#include "error.h"
#include "json.h"

typedef struct qmi_arch qmi_arch;

struct qmi_arch {
    const char *model_type; /* as in config.json */
    /* Fills shape, blocks, weights and graph of the model from `config`, which
     * `file` names in errors.  What the architecture does not compute is
     * refused: E_FORMAT, E_UNSUPPORTED naming file and key. */
    qmoe_status (*build)(qmoe_model *model, const cJSON *config,
        const char *file, qmi_error *err);
    /* Of a model known by the config.json `file` alone: says by messages where
     * it contradicts what is known of published models.  NULL: nothing is. */
    void (*doubt)(const qmoe_model *model, const char *file);
    /* Tensors that some checkpoints have under another name: {name, other},
     * ended by NULL.  NULL: there are none. */
    const char *const (*other_names)[2];
};

/* All architectures, NULL at the end (arch_table.c). */
extern const qmi_arch *const qmi_architectures[];

/* E_UNSUPPORTED naming `file` and the known ones when there is none. */
qmoe_status qmi_arch_find(const qmi_arch **out, const char *model_type,
    const char *file, qmi_error *err);
/* The other name of a tensor; NULL: it has none. */
const char *qmi_arch_other_name(const qmi_arch *arch, const char *name);

#endif
