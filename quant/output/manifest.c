/* SPDX-License-Identifier: Apache-2.0
 * In: the source's config.json, the recipe, and each shard, stack and small
 * file once it is finished.  Out: the shard index and config.json of a
 * compressed directory (docs/format.md, section 2). config.json is written last
 * and lists every other file with a digest, so a directory with it is
 * complete. */
#include "manifest.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "commit.h"
#include "digest.h"
#include "hash.h"
#include "json.h"

struct qmi_manifest {
    qmi_recipe recipe;
    cJSON *config;
    cJSON *tensors, *files; /* inside config.quantization_config */
    cJSON *index, *weight_map;
    double total_size;
};

/* cJSON tells no cause: what fails in it here is an allocation. */
static qmoe_status no_memory(qmi_error *err)
{
    return qmi_fail(err, QMOE_E_NOMEM, "out of memory: config.json");
}

/* Blocks of a file that enter the fingerprint: enough to tell two trainings of
 * one architecture apart without reading everything. */
enum { SAMPLED_BLOCKS = 64, BLOCK_BYTES = 4096 };

static uint64_t mix(uint64_t a, uint64_t b)
{
    const uint64_t pair[2] = {a, b};
    return qmi_hash64(pair, sizeof pair);
}

static uint64_t sample_content(const qmi_tensor_file *file)
{
    uint64_t hash = 0;
    size_t n = qmi_tensor_file_count(file);
    /* Spread over the tensors in file order; a file of fewer tensors has some
     * sampled twice, which changes nothing. */
    for (size_t i = 0; i < SAMPLED_BLOCKS && n != 0; i++) {
        const qmi_tensor *t = qmi_tensor_file_at(file, i * n / SAMPLED_BLOCKS);
        if (t->is_view)
            continue; /* the header hash covers its file's checksums */
        uint64_t bytes = t->n_bytes < BLOCK_BYTES ? t->n_bytes : BLOCK_BYTES;
        hash = mix(hash, qmi_hash64(t->data, bytes));
    }
    return hash;
}

uint64_t qmi_file_fingerprint(uint64_t hash, const qmi_tensor_file *file)
{
    hash = mix(hash, qmi_tensor_file_header_hash(file));
    hash = mix(hash, qmi_tensor_file_bytes(file));
    /* Made-up weights are what the header says. */
    return file->container->is_generated ? hash
                                         : mix(hash, sample_content(file));
}

uint64_t qmi_source_fingerprint(const qmi_checkpoint *source)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < qmi_checkpoint_file_count(source); i++)
        hash = qmi_file_fingerprint(hash, qmi_checkpoint_file(source, i));
    return hash;
}

/* The fingerprint is made when it is asked for, since it reads from every
 * file. */
qmi_manifest_source qmi_manifest_source_of(const qmoe_model *model)
{
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < qmi_checkpoint_file_count(model->checkpoint); i++)
        n_bytes +=
            qmi_tensor_file_bytes(qmi_checkpoint_file(model->checkpoint, i));
    return (qmi_manifest_source){
        .config = qmi_checkpoint_config(model->checkpoint),
        .expert_format = model->expert_format,
        .fingerprint = qmi_source_fingerprint(model->checkpoint),
        .n_bytes = n_bytes,
    };
}

static bool add_source(cJSON *q, const qmi_manifest_source *source)
{
    char hex[17];
    qmi_hash_hex(hex, source->fingerprint);
    cJSON *entry = cJSON_AddObjectToObject(q, "source");
    return entry != NULL &&
           cJSON_AddStringToObject(entry, "fingerprint", hex) != NULL &&
           cJSON_AddStringToObject(entry, "format", source->expert_format) !=
               NULL &&
           cJSON_AddNumberToObject(entry, "bytes", (double)source->n_bytes) !=
               NULL;
}

/* The members themselves stay with their owner: a node of cJSON has one
 * parent. */
static bool add_copies(cJSON *to, const cJSON *members)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, members)
    {
        cJSON *copy = cJSON_Duplicate(item, true);
        if (copy == NULL || !cJSON_AddItemToObject(to, item->string, copy)) {
            cJSON_Delete(copy);
            return false;
        }
    }
    return true;
}

/* "qmoe 0.1.0", and the commit it was built from, if that is known. */
static bool add_creator(cJSON *q)
{
    char creator[64] = "qmoe ";
    /* A version that is too long is cut, not written past the end. */
    strncat(creator, qmoe_version(), sizeof creator - strlen(creator) - 1);
    return cJSON_AddStringToObject(q, "created_by", creator) != NULL &&
           (qmi_commit() != NULL
                   ? cJSON_AddStringToObject(q, "commit", qmi_commit())
                   : cJSON_AddNullToObject(q, "commit")) != NULL;
}

/* How the codes were found, for people; "tensors" is what decoding needs. */
static bool add_recipe(cJSON *q, const qmi_recipe *r)
{
    return cJSON_AddStringToObject(q, "format", r->quantiser->format->name) !=
               NULL &&
           cJSON_AddStringToObject(q, "method",
               r->method != NULL ? r->method : r->quantiser->method) != NULL;
}

static bool start(
    qmi_manifest *m, const qmi_manifest_source *source, const cJSON *provenance)
{
    /* Everything the source's config says is kept, but what an earlier
     * compression said. */
    m->config = cJSON_Duplicate(source->config, true);
    cJSON_DeleteItemFromObjectCaseSensitive(m->config, "quantization_config");
    cJSON *q = cJSON_AddObjectToObject(m->config, "quantization_config");
    m->index = cJSON_CreateObject();
    if (q == NULL || m->index == NULL ||
        cJSON_AddStringToObject(q, "quant_method", "qmoe") == NULL ||
        cJSON_AddNumberToObject(q, "version", 1) == NULL || !add_creator(q) ||
        !add_recipe(q, &m->recipe) || !add_source(q, source) ||
        !add_copies(q, provenance))
        return false;
    m->tensors = cJSON_AddObjectToObject(q, "tensors");
    m->files = cJSON_AddObjectToObject(q, "files");
    m->weight_map = cJSON_AddObjectToObject(m->index, "weight_map");
    return m->tensors != NULL && m->files != NULL && m->weight_map != NULL;
}

qmoe_status qmi_manifest_create(qmi_manifest **out,
    const qmi_manifest_source *source, const qmi_recipe *recipe,
    const cJSON *provenance, qmi_error *err)
{
    *out = NULL;
    qmi_manifest *m = qmi_calloc(1, sizeof *m, "a manifest", err);
    if (m == NULL)
        return QMOE_E_NOMEM;
    m->recipe = *recipe;
    if (!start(m, source, provenance)) {
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

/* The name of the digest tells what it covers: a header alone, or all bytes of
 * a small file. */
static qmoe_status add_entry(qmi_manifest *m, const char *name,
    uint64_t n_bytes, const char *key, uint64_t hash, qmi_error *err)
{
    char hex[17];
    qmi_hash_hex(hex, hash);
    cJSON *entry = cJSON_AddObjectToObject(m->files, name);
    return entry != NULL &&
                   cJSON_AddNumberToObject(entry, "bytes", (double)n_bytes) !=
                       NULL &&
                   cJSON_AddStringToObject(entry, key, hex) != NULL
               ? QMOE_OK
               : no_memory(err);
}

/* Of weight files only the header is digested here: each tensor's checksum is
 * in the header, so that opening need not read the data. */
qmoe_status qmi_manifest_add_file(qmi_manifest *manifest, const char *name,
    uint64_t header_hash, uint64_t file_bytes, qmi_error *err)
{
    manifest->total_size += (double)file_bytes;
    return add_entry(
        manifest, name, file_bytes, "header_xxh3", header_hash, err);
}

qmoe_status qmi_manifest_write_file(qmi_manifest *manifest, qmi_output *output,
    const char *name, const void *data, size_t n_bytes, qmi_error *err)
{
    QMI_TRY(qmi_output_write(output, name, data, n_bytes, err));
    return add_entry(
        manifest, name, n_bytes, "xxh3", qmi_hash64(data, n_bytes), err);
}

qmoe_status qmi_manifest_add_tensor(qmi_manifest *manifest, const char *tensor,
    const char *file, qmi_error *err)
{
    if (cJSON_AddStringToObject(manifest->weight_map, tensor, file) == NULL)
        return no_memory(err);
    return QMOE_OK;
}

qmoe_status qmi_manifest_add_parts(qmi_manifest *manifest, const char *name,
    const qmi_format *format, const char *file, qmi_error *err)
{
    for (int i = 0; i < format->n_parts; i++) {
        char tensor[512];
        snprintf(tensor, sizeof tensor, "%s.%s", name, format->parts[i].suffix);
        QMI_TRY(qmi_manifest_add_tensor(manifest, tensor, file, err));
    }
    return QMOE_OK;
}

static bool put_number(void *entry, const char *key, double value)
{
    return cJSON_AddNumberToObject(entry, key, value) != NULL;
}

qmoe_status qmi_manifest_add_stack(qmi_manifest *manifest,
    const qmi_weight *stack, const qmi_stack_recipe *recipe, qmi_error *err)
{
    const double shape[3] = {
        (double)stack->n_mats, (double)stack->n_rows, (double)stack->n_cols};
    cJSON *entry = cJSON_AddObjectToObject(manifest->tensors, stack->name);
    cJSON *numbers = cJSON_CreateDoubleArray(shape, 3);
    if (entry == NULL || numbers == NULL ||
        cJSON_AddStringToObject(
            entry, "format", recipe->quantiser->format->name) == NULL ||
        !cJSON_AddItemToObject(entry, "shape", numbers)) {
        cJSON_Delete(numbers);
        return no_memory(err);
    }
    /* Parameters a decoder needs, beside format and shape. */
    qmi_weight compressed = {0};
    qmi_stack_recipe_set(&compressed, recipe);
    return qmi_weight_record(&compressed, put_number, entry) ? QMOE_OK
                                                             : no_memory(err);
}

static qmoe_status write_index(
    qmi_manifest *m, qmi_output *output, qmi_error *err)
{
    char *text = cJSON_Print(m->index);
    if (text == NULL)
        return no_memory(err);
    qmoe_status status = qmi_manifest_write_file(
        m, output, "model.safetensors.index.json", text, strlen(text), err);
    cJSON_free(text);
    return status;
}

/* The digest is that of the text in which its own digits are zeros: a reader
 * puts them back to zeros and compares (digest.h). */
static qmoe_status add_digest(qmi_manifest *m, qmi_error *err)
{
    char hex[17] = "0000000000000000";
    cJSON *q =
        cJSON_GetObjectItemCaseSensitive(m->config, "quantization_config");
    cJSON *digest = cJSON_AddStringToObject(q, QMI_DIGEST_KEY, hex);
    char *text = digest != NULL ? cJSON_Print(m->config) : NULL;
    if (text == NULL)
        return no_memory(err);
    qmi_hash_hex(hex, qmi_hash64(text, strlen(text)));
    cJSON_free(text);
    return cJSON_SetValuestring(digest, hex) != NULL ? QMOE_OK : no_memory(err);
}

static qmoe_status write_config(
    qmi_manifest *m, qmi_output *output, qmi_error *err)
{
    /* After all entries of files, and directly before the text is printed. */
    qmi_json_print_as_read(m->config);
    QMI_TRY(add_digest(m, err));
    char *text = cJSON_Print(m->config);
    if (text == NULL)
        return no_memory(err);
    qmoe_status status =
        qmi_output_write(output, "config.json", text, strlen(text), err);
    cJSON_free(text);
    return status;
}

qmoe_status qmi_manifest_write(
    qmi_manifest *manifest, qmi_output *output, qmi_error *err)
{
    /* total_size is what Hugging Face's loaders expect in an index. */
    cJSON *metadata = cJSON_AddObjectToObject(manifest->index, "metadata");
    if (metadata == NULL || cJSON_AddNumberToObject(metadata, "total_size",
                                manifest->total_size) == NULL)
        return no_memory(err);
    QMI_TRY(write_index(manifest, output, err));
    return write_config(manifest, output, err);
}
