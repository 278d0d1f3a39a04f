/* SPDX-License-Identifier: Apache-2.0
 * In: a GGUF file, or the first part of a split one.  Out: a checkpoint of
 * Hugging Face: config.json, shards, the tokenizer's files.  All that is small
 * is read, checked and written to memory first; the output is opened behind
 * that, and tensors pass through it one by one. */
#include "import_gguf.h"

#include <string.h>

#include "alloc.h"
#include "arch.h"
#include "gguf_tensors.h"
#include "gguf_tokenizer.h"
#include "journal.h"
#include "model.h"
#include "shards.h"

/* The small files. */
enum { CONFIG, TOKENIZER, TOKENIZER_CONFIG, GENERATION, N_TEXTS };
static const char *const text_names[N_TEXTS] = {"config.json", "tokenizer.json",
    "tokenizer_config.json", "generation_config.json"};

typedef struct importer {
    qmi_hooks *hooks;
    const qmoe_import_options *options;
    qmoe_import_report *report;
    qmi_gguf_source source;
    qmi_gguf_model model;
    qmi_gguf_tokenizer tokenizer;
    qmi_gguf_entries entries;
    qmi_json_writer texts[N_TEXTS]; /* empty: the file is not written */
    qmi_output output;
    qmi_dtype dtype;      /* of every tensor; QMI_DTYPE_COUNT: what it has */
    uint64_t done, total; /* elements */
    qmi_error *err;
} importer;

/* ---- what is written ---- */

/* torch_dtype is that of the embedding: most weights have it, too. */
static const char *dtype_name(const importer *m)
{
    switch (m->entries.list[0].dtype) {
    case QMI_F16:
        return "float16";
    case QMI_BF16:
        return "bfloat16";
    default:
        return "float32";
    }
}

static const struct {
    const char *option;
    qmi_dtype dtype;
} dtypes[] = {{"bf16", QMI_BF16}, {"f16", QMI_F16}, {"f32", QMI_F32}};

/* QMI_DTYPE_COUNT: none is wanted. */
static qmoe_status read_dtype(importer *m, const char *option)
{
    m->dtype = QMI_DTYPE_COUNT;
    for (size_t i = 0; option != NULL && i < sizeof dtypes / sizeof *dtypes;
         i++)
        if (strcmp(option, dtypes[i].option) == 0)
            m->dtype = dtypes[i].dtype;
    if (option != NULL && m->dtype == QMI_DTYPE_COUNT)
        return qmi_fail(m->err, QMOE_E_INVALID,
            "a checkpoint is written as bf16, f16 or f32, not '%s'", option);
    return QMOE_OK;
}

static qmoe_status write_texts(importer *m)
{
    qmi_json_writer *w = &m->texts[CONFIG];
    qmi_json_open(w, NULL, '{');
    QMI_TRY(qmi_gguf_config(w, &m->model, &m->source));
    qmi_gguf_tokenizer_ids(w, &m->tokenizer);
    QMI_TRY(qmi_gguf_list(&m->entries, &m->model, &m->source, m->dtype));
    qmi_json_put_string(w, "torch_dtype", dtype_name(m));
    qmi_json_close(w, '}');
    QMI_TRY(qmi_gguf_generation_config(
        &m->texts[GENERATION], &m->tokenizer, &m->source));
    if (m->tokenizer.exists) {
        qmi_gguf_tokenizer_json(&m->texts[TOKENIZER], &m->tokenizer);
        QMI_TRY(qmi_gguf_tokenizer_config(&m->texts[TOKENIZER_CONFIG],
            &m->tokenizer, &m->source, m->model.n_positions));
    }
    for (int i = 0; i < N_TEXTS; i++)
        if (m->texts[i].text.failed)
            return QMOE_E_NOMEM;
    return QMOE_OK;
}

static qmoe_status read_source(importer *m, const char *path)
{
    QMI_TRY(qmi_gguf_source_open(&m->source, path, m->err));
    QMI_TRY(qmi_gguf_model_read(&m->model, &m->source));
    QMI_TRY(
        qmi_gguf_tokenizer_read(&m->tokenizer, &m->source, m->model.n_tokens));
    QMI_TRY(write_texts(m));
    qmoe_import_report *r = m->report;
    for (size_t i = 0; i < m->source.n_files; i++)
        r->source_bytes += qmi_tensor_file_bytes(m->source.files[i]);
    for (size_t i = 0; i < m->entries.n; i++)
        m->total += (uint64_t)qmi_gguf_entry_elements(&m->entries.list[i]);
    r->n_tensors = m->entries.n;
    r->n_weights = m->total;
    r->has_tokenizer = m->tokenizer.exists;
    return QMOE_OK;
}

/* ---- the shards ---- */

static void describe(const void *user, size_t i, qmi_shard_tensor *out)
{
    const importer *m = user;
    const qmi_gguf_entry *e = &m->entries.list[i];
    *out =
        (qmi_shard_tensor){.name = e->name, .dtype = e->dtype, .rank = e->rank};
    memcpy(out->shape, e->shape, sizeof e->shape);
}

static qmoe_status write_entries(
    void *user, size_t first, size_t last, qmi_st_writer *writer)
{
    importer *m = user;
    for (size_t i = first; i < last; i++) {
        const qmi_gguf_entry *e = &m->entries.list[i];
        QMI_TRY(qmi_progress(m->hooks, "import", e->name, m->done, m->total));
        QMI_TRY(qmi_gguf_write_entry(e, &m->source, writer, i - first));
        m->done += (uint64_t)qmi_gguf_entry_elements(e);
    }
    return QMOE_OK;
}

/* ---- the directory ---- */

static qmoe_status open_output(importer *m, const char *path)
{
    qmi_output_source *sources = qmi_calloc(
        m->source.n_files, sizeof *sources, "the parts of a model", m->err);
    if (sources == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < m->source.n_files; i++)
        sources[i].path = qmi_tensor_file_path(m->source.files[i]);
    const qmi_output_options options = {.overwrite = m->options->overwrite,
        .sources = sources,
        .n_sources = m->source.n_files};
    qmoe_status status = qmi_output_open(&m->output, path, &options, m->err);
    qmi_free(sources);
    QMI_TRY(status);
    return qmi_journal_mark(&m->output, "import", m->err);
}

/* Opens what was written before it gets its name, if this build has the
 * architecture: names and shapes are those that the model code asks for. */
static qmoe_status check_result(importer *m)
{
    const qmi_arch *arch = NULL;
    qmoe_model *model = NULL;
    if (qmi_arch_find(&arch, m->model.family->model_type, "", NULL) != QMOE_OK)
        return QMOE_OK;
    QMI_TRY(qmi_model_open(&model, m->hooks, m->output.partial, true));
    qmoe_model_close(model);
    return QMOE_OK;
}

static qmoe_status write_output(importer *m)
{
    const qmi_shard_list list = {.n = m->entries.n,
        .describe = describe,
        .write = write_entries,
        .user = m};
    qmi_shard_report shards;
    QMI_TRY(qmi_shards_write(&list, &m->output, &shards, m->err));
    m->report->output_bytes = shards.n_bytes;
    for (int i = 0; i < N_TEXTS; i++)
        if (m->texts[i].text.n != 0)
            QMI_TRY(qmi_output_write(&m->output, text_names[i],
                m->texts[i].text.data, m->texts[i].text.n, m->err));
    QMI_TRY(check_result(m));
    return qmi_output_commit(&m->output, m->err);
}

static qmoe_status check_options(importer *m)
{
    const qmoe_import_options *o = m->options;
    if (o->format != NULL || o->tokenizer != NULL)
        return qmi_fail(m->err, QMOE_E_INVALID,
            "a GGUF file is imported without a format of experts and with its "
            "own tokenizer");
    return read_dtype(m, o->dtype);
}

/* Every member may still be zero. */
static void clean_up(importer *m)
{
    qmi_output_close(&m->output);
    for (int i = 0; i < N_TEXTS; i++)
        qmi_free(m->texts[i].text.data);
    qmi_free(m->entries.list);
    qmi_gguf_tokenizer_destroy(&m->tokenizer);
    qmi_gguf_source_close(&m->source);
}

qmoe_status qmi_import_gguf(qmi_hooks *hooks, qmoe_import_report *report,
    const char *source, const char *output, const qmoe_import_options *options)
{
    importer m = {.hooks = hooks,
        .options = options,
        .report = report,
        .err = &hooks->error};
    for (int i = 0; i < N_TEXTS; i++)
        m.texts[i].text.err = m.err;
    qmoe_status status = check_options(&m);
    if (status == QMOE_OK)
        status = read_source(&m, source);
    if (status == QMOE_OK)
        status = open_output(&m, output);
    if (status == QMOE_OK)
        status = write_output(&m);
    clean_up(&m);
    return status;
}
