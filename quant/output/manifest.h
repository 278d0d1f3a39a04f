/* SPDX-License-Identifier: Apache-2.0
 * The JSON files of a compressed directory: config.json with its
 * quantization_config, and the shard index (docs/format.md). */
#ifndef QMI_MANIFEST_H
#define QMI_MANIFEST_H

#include "model.h"
#include "output_directory.h"
#include "quantiser.h"

typedef struct qmi_manifest qmi_manifest;

/* How the experts were compressed: recorded in quantization_config. */
typedef struct qmi_recipe {
    const qmi_quantiser *quantiser; /* of most stacks */
    const char *method;             /* NULL: the quantiser's */
    qmi_quant_options quant;        /* without what differs between stacks */
    double bits;   /* the formats were chosen to keep to this; 0 = not */
    uint64_t seed; /* of the calibration */
} qmi_recipe;

/* Where the weights came from: recorded, and for `config` the start. */
typedef struct qmi_manifest_source {
    const cJSON *config;
    const char *expert_format;
    uint64_t fingerprint, n_bytes;
} qmi_manifest_source;

/* `provenance`: an object whose members say how the result can be made again;
 * NULL: there are none. */
qmoe_status qmi_manifest_create(qmi_manifest **out,
    const qmi_manifest_source *source, const qmi_recipe *recipe,
    const cJSON *provenance, qmi_error *err);
/* The source that an open model is. */
qmi_manifest_source qmi_manifest_source_of(const qmoe_model *model);
/* What identifies the source: hash of its files' headers, sizes and of
 * sampled content. */
uint64_t qmi_source_fingerprint(const qmi_checkpoint *source);
/* One more file into a fingerprint. */
uint64_t qmi_file_fingerprint(uint64_t hash, const qmi_tensor_file *file);
void qmi_manifest_destroy(qmi_manifest *manifest);

/* Records a finished shard and the tensors in it. */
qmoe_status qmi_manifest_add_file(qmi_manifest *manifest, const char *name,
    uint64_t header_hash, uint64_t file_bytes, qmi_error *err);
/* Writes a small file into the output and records it. */
qmoe_status qmi_manifest_write_file(qmi_manifest *manifest, qmi_output *output,
    const char *name, const void *data, size_t n_bytes, qmi_error *err);
qmoe_status qmi_manifest_add_tensor(qmi_manifest *manifest, const char *tensor,
    const char *file, qmi_error *err);
/* Records the parts of a compressed weight in a shard. */
qmoe_status qmi_manifest_add_parts(qmi_manifest *manifest, const char *name,
    const qmi_format *format, const char *file, qmi_error *err);
/* Records a compressed stack: its entry of quantization_config.tensors. */
qmoe_status qmi_manifest_add_stack(qmi_manifest *manifest,
    const qmi_weight *stack, const qmi_stack_recipe *recipe, qmi_error *err);

/* Writes model.safetensors.index.json and, with the digests of all files,
 * config.json: the last of the directory's files. */
qmoe_status qmi_manifest_write(
    qmi_manifest *manifest, qmi_output *output, qmi_error *err);

#endif
