/* SPDX-License-Identifier: Apache-2.0
 * config.json and the shard index of a compressed directory. */
#include "manifest.h"

#include <string.h>

#include "alloc.h"
#include "hash.h"

#define DICT_SHA256                                                            \
    "c09862c453fe122634070a475357ff81a679aff65829d84a56f806c02a54ed45"

struct qmi_manifest {
    cJSON *config;
    cJSON *tensors, *files; /* inside config.quantization_config */
    cJSON *index, *weight_map;
    double total_size;
};

static qmoe_status no_memory(qmi_error *err)
{
    return qmi_fail(err, QMOE_E_NOMEM, "out of memory: config.json");
}

/* What the result was made from: hash of all file headers. */
static void fingerprint(char hex[17], const qmi_checkpoint *source)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < qmi_checkpoint_file_count(source); i++) {
        const uint64_t pair[2] = {
            hash, qmi_safetensors_header_hash(qmi_checkpoint_file(source, i))};
        hash = qmi_hash64(pair, sizeof pair);
    }
    qmi_hash_hex(hex, hash);
}

static bool add_source(cJSON *q, const qmoe_model *source)
{
    char hex[17];
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < qmi_checkpoint_file_count(source->checkpoint); i++)
        n_bytes += qmi_safetensors_file_bytes(
            qmi_checkpoint_file(source->checkpoint, i));
    fingerprint(hex, source->checkpoint);
    cJSON *entry = cJSON_AddObjectToObject(q, "source");
    return entry != NULL &&
           cJSON_AddStringToObject(entry, "fingerprint", hex) != NULL &&
           cJSON_AddStringToObject(entry, "format", source->expert_format) !=
               NULL &&
           cJSON_AddNumberToObject(entry, "bytes", (double)n_bytes) != NULL;
}

static bool add_dictionary(cJSON *q)
{
    cJSON *entry = cJSON_AddObjectToObject(q, "dictionary");
    return entry != NULL &&
           cJSON_AddNumberToObject(entry, "p0", 0.885) != NULL &&
           cJSON_AddStringToObject(entry, "sha256", DICT_SHA256) != NULL;
}

static bool start(qmi_manifest *m, const qmoe_model *source, const char *format,
    const char *method)
{
    char creator[64] = "qmoe ";
    strncat(creator, qmoe_version(), sizeof creator - strlen(creator) - 1);
    m->config =
        cJSON_Duplicate(qmi_checkpoint_config(source->checkpoint), true);
    cJSON_DeleteItemFromObjectCaseSensitive(m->config, "quantization_config");
    cJSON *q = cJSON_AddObjectToObject(m->config, "quantization_config");
    m->index = cJSON_CreateObject();
    if (q == NULL || m->index == NULL ||
        cJSON_AddStringToObject(q, "quant_method", "qmoe") == NULL ||
        cJSON_AddNumberToObject(q, "version", 1) == NULL ||
        cJSON_AddStringToObject(q, "format", format) == NULL ||
        cJSON_AddStringToObject(q, "method", method) == NULL ||
        cJSON_AddStringToObject(q, "created_by", creator) == NULL ||
        !add_dictionary(q) || !add_source(q, source))
        return false;
    m->tensors = cJSON_AddObjectToObject(q, "tensors");
    m->files = cJSON_AddObjectToObject(q, "files");
    m->weight_map = cJSON_AddObjectToObject(m->index, "weight_map");
    return m->tensors != NULL && m->files != NULL && m->weight_map != NULL;
}

qmoe_status qmi_manifest_create(qmi_manifest **out, const qmoe_model *source,
    const char *format, const char *method, qmi_error *err)
{
    *out = NULL;
    qmi_manifest *m = qmi_calloc(1, sizeof *m, "a manifest", err);
    if (m == NULL)
        return QMOE_E_NOMEM;
    if (!start(m, source, format, method)) {
        qmi_manifest_destroy(m);
        return no_memory(err);
    }
    *out = m;
    return QMOE_OK;
}

void qmi_manifest_destroy(qmi_manifest *manifest)
{
    if (manifest == NULL)
        return;
    cJSON_Delete(manifest->config);
    cJSON_Delete(manifest->index);
    qmi_free(manifest);
}

qmoe_status qmi_manifest_add_file(qmi_manifest *manifest, const char *name,
    uint64_t header_hash, uint64_t file_bytes, qmi_error *err)
{
    char hex[17];
    qmi_hash_hex(hex, header_hash);
    cJSON *entry = cJSON_AddObjectToObject(manifest->files, name);
    if (entry == NULL ||
        cJSON_AddNumberToObject(entry, "bytes", (double)file_bytes) == NULL ||
        cJSON_AddStringToObject(entry, "header_xxh3", hex) == NULL)
        return no_memory(err);
    manifest->total_size += (double)file_bytes;
    return QMOE_OK;
}

qmoe_status qmi_manifest_add_tensor(qmi_manifest *manifest, const char *tensor,
    const char *file, qmi_error *err)
{
    if (cJSON_AddStringToObject(manifest->weight_map, tensor, file) == NULL)
        return no_memory(err);
    return QMOE_OK;
}

qmoe_status qmi_manifest_add_stack(qmi_manifest *manifest,
    const qmi_weight *stack, const char *format, qmi_error *err)
{
    const double shape[3] = {
        (double)stack->n_mats, (double)stack->n_rows, (double)stack->n_cols};
    cJSON *entry = cJSON_AddObjectToObject(manifest->tensors, stack->name);
    cJSON *numbers = cJSON_CreateDoubleArray(shape, 3);
    if (entry == NULL || numbers == NULL ||
        cJSON_AddStringToObject(entry, "format", format) == NULL ||
        !cJSON_AddItemToObject(entry, "shape", numbers)) {
        cJSON_Delete(numbers);
        return no_memory(err);
    }
    return QMOE_OK;
}

static qmoe_status write_json(const qmi_output *output, const char *name,
    const cJSON *json, qmi_error *err)
{
    char *text = cJSON_Print(json);
    if (text == NULL)
        return no_memory(err);
    qmoe_status status =
        qmi_output_write(output, name, text, strlen(text), err);
    cJSON_free(text);
    return status;
}

qmoe_status qmi_manifest_write(
    qmi_manifest *manifest, const qmi_output *output, qmi_error *err)
{
    cJSON *metadata = cJSON_AddObjectToObject(manifest->index, "metadata");
    if (metadata == NULL || cJSON_AddNumberToObject(metadata, "total_size",
                                manifest->total_size) == NULL)
        return no_memory(err);
    QMI_TRY(write_json(
        output, "model.safetensors.index.json", manifest->index, err));
    return write_json(output, "config.json", manifest->config, err);
}
