/* SPDX-License-Identifier: Apache-2.0
 * Opening and closing models.  In: a directory, a specification of a synthetic
 * model, or a configuration alone.  Out: a model with blocks, graph, weights
 * and tokenizer, or an error and nothing.  What comes from files has been
 * checked in size and shape before a weight is added; payloads are checked when
 * they are first used.  A model lives while anybody uses it. */
#include "model.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "arch.h"
#include "digest.h"
#include "synth.h"

static qmoe_status open_tokenizer(qmoe_model *model, qmi_error *err)
{
    const char *directory = qmi_checkpoint_side_directory(model->checkpoint);
    qmoe_status status =
        qmi_tokenizer_open_directory(&model->tokenizer, directory, err);
    /* Models without a tokenizer can be run on ids.  One that we do not compute
     * is named when it is needed. */
    if (status == QMOE_E_UNSUPPORTED)
        return QMOE_OK;
    QMI_TRY(status);
    /* More ids than the embedding has rows would be read past its end. */
    if (model->tokenizer == NULL ||
        qmi_tokenizer_size(model->tokenizer) <= model->shape.vocab_size)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: the tokenizer has ids below %d, but the model's vocab_size is "
        "%lld",
        directory, (int)qmi_tokenizer_size(model->tokenizer),
        (long long)model->shape.vocab_size);
}

qmoe_status qmi_model_need_tokenizer(const qmoe_model *model, qmi_error *err)
{
    const char *directory = qmi_checkpoint_side_directory(model->checkpoint);
    qmi_tokenizer *tokenizer = NULL;
    if (model->tokenizer != NULL)
        return QMOE_OK;
    /* It may be there and unsupported: opened once more for the reason. */
    QMI_TRY(qmi_tokenizer_open_directory(&tokenizer, directory, err));
    qmi_tokenizer_close(tokenizer);
    return qmi_fail(err, QMOE_E_NOT_FOUND,
        "%s: no tokenizer: text needs one of " QMI_TOKENIZER_FILES, directory);
}

qmoe_status qmi_model_need_objective(
    const qmoe_model *model, qmi_objective objective, qmi_error *err)
{
    static const char *const names[] = {
        [QMI_NEXT_TOKEN] = "the next token",
        [QMI_SPAN_CORRUPTION] = "span corruption",
    };
    /* Text would be cut and masked for another task, and a loss would mean
     * nothing. */
    if (model->shape.objective == objective)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_UNSUPPORTED,
        "%s: text is read as for %s, but models of type %s predict %s",
        qmi_checkpoint_directory(model->checkpoint), names[objective],
        model->arch->model_type, names[model->shape.objective]);
}

/* Without its quantization_config a compressed directory is not another kind of
 * checkpoint, but a damaged one. */
static qmoe_status check_uncompressed(const qmoe_model *model, qmi_error *err)
{
    const qmi_checkpoint *checkpoint = model->checkpoint;
    for (size_t i = 0; i < qmi_checkpoint_file_count(checkpoint); i++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(checkpoint, i);
        const char *format = qmi_tensor_file_metadata(file, "format");
        /* Every shard that we write says so. */
        if (format != NULL && strcmp(format, "qmoe") == 0)
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: quantization_config is missing, but %s belongs to a "
                "compressed model",
                qmi_checkpoint_config_path(checkpoint),
                qmi_tensor_file_path(file));
    }
    return QMOE_OK;
}

/* Finds quantization_config; another method than ours cannot be read. */
static qmoe_status read_quantization(qmoe_model *model, qmi_error *err)
{
    const char *file = qmi_checkpoint_config_path(model->checkpoint);
    const cJSON *json = qmi_checkpoint_config(model->checkpoint);
    const cJSON *q =
        cJSON_GetObjectItemCaseSensitive(json, "quantization_config");
    const char *method = NULL;
    int64_t version = 0;
    /* null is how some writers say "none". */
    if (q == NULL || cJSON_IsNull(q))
        return check_uncompressed(model, err);
    QMI_TRY(qmi_json_string(&method, q, "quant_method", "(none)", file, err));
    /* Before the version: another method's numbers mean something else. */
    if (strcmp(method, "qmoe") != 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "%s: quantization_config.quant_method '%s' is not 'qmoe'", file,
            method);
    QMI_TRY(
        qmi_json_int(&version, q, "version", true, 0, 0, 1 << 20, file, err));
    /* Newer versions may mean other things by the same members. */
    if (version != 1)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "%s: format version %lld; this program reads version 1", file,
            (long long)version);
    model->quantization = q;
    return QMOE_OK;
}

static qmoe_status build(
    qmoe_model *model, const cJSON *json, const char *file, qmi_error *err)
{
    /* NULL as the default: a missing type is an error of its own. */
    const char *type = NULL;
    QMI_TRY(qmi_json_string(&type, json, "model_type", NULL, file, err));
    if (type == NULL)
        return qmi_fail(
            err, QMOE_E_FORMAT, "%s: 'model_type' is missing", file);
    QMI_TRY(qmi_arch_find(&model->arch, type, file, err));
    return model->arch->build(model, json, file, err);
}

/* Order: files, their digest, what they say, what they hold.  Text comes last,
 * since its size is compared with the shape. */
static qmoe_status fill(
    qmoe_model *model, const char *directory, bool checked, qmi_error *err)
{
    QMI_TRY(qmi_source_open(&model->checkpoint, directory, err));
    if (checked)
        QMI_TRY(qmi_digest_check(model->checkpoint, err));
    QMI_TRY(read_quantization(model, err));
    QMI_TRY(build(model, qmi_checkpoint_config(model->checkpoint),
        qmi_checkpoint_config_path(model->checkpoint), err));
    QMI_TRY(qmi_generation_read(
        &model->shape, &model->sampling, model->checkpoint, err));
    return open_tokenizer(model, err);
}

/* From here on qmoe_model_close can clean up, however far opening comes. */
static qmoe_model *new_model(qmi_hooks *hooks)
{
    qmoe_model *model = qmi_calloc(1, sizeof *model, "a model", &hooks->error);
    if (model != NULL) {
        model->hooks = hooks;
        model->n_users = 1;
        model->expert_format = "";
        qmi_hooks_retain(hooks);
    }
    return model;
}

static qmoe_status hand_over(
    qmoe_model **out, qmoe_model *model, qmoe_status status)
{
    if (status == QMOE_OK)
        *out = model;
    else
        qmoe_model_close(model);
    return status;
}

qmoe_status qmi_model_open(
    qmoe_model **out, qmi_hooks *hooks, const char *directory, bool checked)
{
    if (out != NULL)
        *out = NULL;
    QMI_TRY(qmi_call_begin(
        hooks, "qmoe_model_open", out == NULL || directory == NULL));
    qmoe_model *model = new_model(hooks);
    qmoe_status status = QMOE_E_NOMEM;
    if (model != NULL)
        status = hand_over(
            out, model, fill(model, directory, checked, &hooks->error));
    /* Ends the call whatever happened: the context counts those that run. */
    return qmi_call_end(hooks, status);
}

qmoe_status qmoe_model_open(
    qmoe_model **out, qmoe_context *context, const char *directory)
{
    return qmi_model_open(out, qmi_hooks_of(context), directory, true);
}

/* The dtype that weights have unless the config names one we compute with. */
static const qmi_format *sketch_format(const cJSON *config)
{
    /* Looked at leniently: a sketch computes sizes, and others are refused when
     * weights are opened. */
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, "dtype");
    /* The name until transformers 5. */
    if (item == NULL)
        item = cJSON_GetObjectItemCaseSensitive(config, "torch_dtype");
    const char *name = cJSON_GetStringValue(item);
    if (name != NULL && strcmp(name, "float32") == 0)
        return qmi_format_dense(QMI_F32);
    if (name != NULL && strcmp(name, "float16") == 0)
        return qmi_format_dense(QMI_F16);
    return qmi_format_dense(QMI_BF16);
}

static qmoe_status fill_sketch(
    qmoe_model *model, const cJSON *config, const char *file, qmi_error *err)
{
    if (!cJSON_IsObject(config))
        return qmi_fail(err, QMOE_E_FORMAT, "%s: not a JSON object", file);
    model->sketch_format = sketch_format(config);
    return build(model, config, file, err);
}

qmoe_status qmi_model_sketch(
    qmoe_model **out, qmi_hooks *hooks, const cJSON *config, const char *file)
{
    *out = NULL;
    qmoe_model *model = new_model(hooks);
    if (model == NULL)
        return QMOE_E_NOMEM;
    return hand_over(
        out, model, fill_sketch(model, config, file, &hooks->error));
}

/* Weights first: their data lie in the checkpoint's maps.  The hooks go last,
 * since closing may free the context. */
static void destroy(qmoe_model *model)
{
    qmi_hooks *hooks = model->hooks;
    for (size_t i = 0; i < model->n_weights; i++) {
        qmi_free((char *)model->weights[i].name);
        qmi_free((char *)model->weights[i].source);
        qmi_free(model->weights[i].mats);
        qmi_free((void *)model->weights[i].checked);
        qmi_weight_release(&model->weights[i]);
    }
    qmi_free(model->weights);
    qmi_free(model->blocks);
    qmi_graph_free(&model->graph);
    qmi_chat_template_close(model->chat);
    qmi_tokenizer_close(model->tokenizer);
    qmi_checkpoint_close(model->checkpoint);
    qmi_free(model);
    qmi_hooks_release(hooks);
}

void qmi_model_retain(qmoe_model *model)
{
    /* Relaxed: who adds a user holds the model already. */
    __atomic_add_fetch(&model->n_users, 1, __ATOMIC_RELAXED);
}

void qmi_model_release(qmoe_model *model)
{
    /* Acquire and release: the last user sees what all others did. */
    if (__atomic_sub_fetch(&model->n_users, 1, __ATOMIC_ACQ_REL) == 0)
        destroy(model);
}

void qmoe_model_close(qmoe_model *model)
{
    if (model != NULL)
        qmi_model_release(model);
}

qmoe_status qmi_model_call_begin(
    qmoe_model *model, const char *function, bool lacks)
{
    if (model == NULL)
        return QMOE_E_INVALID;
    /* The call before the model: its error text is the context's. */
    QMI_TRY(qmi_call_begin(model->hooks, function, lacks));
    qmi_model_retain(model);
    return QMOE_OK;
}

qmoe_status qmi_model_call_end(qmoe_model *model, qmoe_status status)
{
    /* Read before the model may go. */
    qmi_hooks *hooks = model->hooks;
    qmi_model_release(model);
    return qmi_call_end(hooks, status);
}

void qmoe_model_describe(const qmoe_model *model, qmoe_model_info *out)
{
    if (out == NULL)
        return;
    *out = (qmoe_model_info){0};
    if (model == NULL)
        return;
    /* What is said of one block is said of the first. */
    const qmi_block *first = &model->blocks[0];
    *out = (qmoe_model_info){
        .d_model = model->shape.d_model,
        .d_ff = first->ffn.d_ff,
        .d_kv = first->attention.d_key,
        .n_heads = first->attention.n_heads,
        .n_experts = qmi_model_n_experts(model),
        .vocab_size = model->shape.vocab_size,
        .n_encoder_blocks = qmi_model_block_count(model, QMI_ENCODE),
        .n_decoder_blocks = qmi_model_block_count(model, QMI_DECODE),
        .n_sparse_blocks = qmi_model_sparse_count(model),
        .compressed = model->quantization != NULL,
        .predicts_next = model->shape.objective == QMI_NEXT_TOKEN,
        .synthetic = model->checkpoint != NULL &&
                     qmi_checkpoint_is_generated(model->checkpoint),
    };
    snprintf(out->architecture, sizeof out->architecture, "%s",
        model->arch->model_type);
    snprintf(out->format, sizeof out->format, "%s", model->expert_format);
}

void qmoe_model_generation_defaults(
    const qmoe_model *model, qmoe_generate_options *out)
{
    if (out == NULL)
        return;
    *out = (qmoe_generate_options){.size = sizeof *out};
    if (model == NULL)
        return;
    out->temperature = model->sampling.temperature;
    out->top_k = model->sampling.top_k;
    out->top_p = model->sampling.top_p;
    out->min_p = model->sampling.min_p;
    out->repetition_penalty = model->sampling.repetition_penalty;
}

/* ---- blocks ---- */

/* Doubling: the number of blocks may come from the weights. */
qmoe_status qmi_model_add_block(
    qmoe_model *model, qmi_block block, qmi_error *err)
{
    if (model->n_blocks == model->block_capacity) {
        const int32_t capacity =
            model->n_blocks == 0 ? 32 : 2 * model->n_blocks;
        qmi_block *grown = qmi_regrow(model->blocks, (size_t)model->n_blocks,
            (size_t)capacity, sizeof *grown, "the list of blocks", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        model->blocks = grown;
        model->block_capacity = capacity;
    }
    model->blocks[model->n_blocks++] = block;
    return QMOE_OK;
}

int64_t qmi_model_block_count(const qmoe_model *model, qmi_program program)
{
    int64_t n = 0;
    for (int32_t i = 0; i < model->n_blocks; i++)
        n += model->blocks[i].program == program;
    return n;
}

int64_t qmi_model_sparse_count(const qmoe_model *model)
{
    int64_t n = 0;
    for (int32_t i = 0; i < model->n_blocks; i++)
        n += qmi_block_is_sparse(&model->blocks[i]);
    return n;
}

/* The largest: dense blocks have none. */
int64_t qmi_model_n_experts(const qmoe_model *model)
{
    int64_t most = 0;
    for (int32_t i = 0; i < model->n_blocks; i++)
        if (model->blocks[i].ffn.n_experts > most)
            most = model->blocks[i].ffn.n_experts;
    return most;
}

/* ---- text ---- */

static qmoe_status tokenize(qmoe_model *model, int32_t *ids, size_t capacity,
    size_t *n, const char *text)
{
    qmi_error *err = &model->hooks->error;
    int32_t *all = NULL;
    /* Bytes that are no UTF-8 have no pieces; the error says where they
     * begin. */
    const size_t n_valid = qmi_utf8_prefix(text, strlen(text));
    if (text[n_valid] != '\0')
        return qmi_fail(err, QMOE_E_INVALID,
            "a text is not UTF-8 from byte %zu on", n_valid);
    QMI_TRY(qmi_model_need_tokenizer(model, err));
    QMI_TRY(qmi_tokenizer_encode(
        model->tokenizer, &all, n, text, strlen(text), NULL, err));
    /* *n is the full number, so that a caller can ask for the size first. */
    for (size_t i = 0; i < *n && i < capacity; i++)
        ids[i] = all[i];
    qmi_free(all);
    return QMOE_OK;
}

qmoe_status qmoe_tokenize(qmoe_model *model, int32_t *ids, size_t capacity,
    size_t *n, const char *text)
{
    if (n != NULL)
        *n = 0;
    QMI_TRY(qmi_model_call_begin(model, __func__,
        n == NULL || text == NULL || (ids == NULL && capacity != 0)));
    return qmi_model_call_end(model, tokenize(model, ids, capacity, n, text));
}

static qmoe_status detokenize(qmoe_model *model, char *text, size_t capacity,
    size_t *n, const int32_t *ids, size_t n_ids)
{
    qmi_error *err = &model->hooks->error;
    char *all = NULL;
    QMI_TRY(qmi_model_need_tokenizer(model, err));
    QMI_TRY(
        qmi_tokenizer_decode(model->tokenizer, &all, ids, n_ids, false, err));
    *n = strlen(all);
    /* Cut to the capacity, with its end; *n is the full length. */
    if (capacity != 0)
        snprintf(text, capacity, "%s", all);
    qmi_free(all);
    return QMOE_OK;
}

qmoe_status qmoe_detokenize(qmoe_model *model, char *text, size_t capacity,
    size_t *n, const int32_t *ids, size_t n_ids)
{
    if (n != NULL)
        *n = 0;
    QMI_TRY(qmi_model_call_begin(model, __func__,
        n == NULL || (text == NULL && capacity != 0) ||
            (ids == NULL && n_ids != 0)));
    return qmi_model_call_end(
        model, detokenize(model, text, capacity, n, ids, n_ids));
}
