/* SPDX-License-Identifier: Apache-2.0
 * One import of a published directory, shared by import.c (files, other
 * tensors, the flow) and import_experts.c. */
#ifndef QMI_IMPORT_JOB_H
#define QMI_IMPORT_JOB_H

#include "manifest.h"
#include "published.h"
#include "qmoe/exchange.h"
#include "tensor_file.h"

typedef struct qmi_importer {
    qmi_hooks *hooks;
    qmoe_import_options options;
    const char *source;
    char *config_path;
    cJSON *config;
    qmoe_model *sketch; /* what the config asks for */
    qmi_tensor_file *plain, *sizes;
    qmi_tensor_file *experts; /* of the block at work */
    char **files;             /* [n_blocks] exp file of each sparse block */
    size_t n_blocks, n_files, n_files_done;
    qmi_recipe recipe;
    qmi_output output;
    qmi_manifest *manifest;
    uint64_t fingerprint, done;
    qmoe_import_report *report;
    qmi_error *err;
} qmi_importer;

/* Opens a file of the source. */
qmoe_status qmi_import_open_torch(
    qmi_importer *m, qmi_tensor_file **out, const char *name);
/* The stacks of a sparse block, in the model's order; false past the last. */
bool qmi_import_stacks_of(const qmi_importer *m, size_t block,
    const qmi_weight *stacks[QMI_PUB_KINDS]);
/* "model-0000k-of-0000n.safetensors" of the next shard. */
void qmi_import_next_file(qmi_importer *m, char name[64]);
/* Whether matrices are decoded and rounded to another format. */
bool qmi_import_is_recoded(const qmi_importer *m);
/* E_FORMAT when an item of the file is an integer. */
qmoe_status qmi_import_no_integers(const qmi_tensor_file *file, qmi_error *err);
/* Checks and writes both stacks of a sparse block. */
qmoe_status qmi_import_block(qmi_importer *m, size_t block);

#endif
