/* SPDX-License-Identifier: Apache-2.0
 * In: a published compressed directory (docs/publish.md).  Out: a compressed
 * directory of ours.  Its config.json says which matrices there must be, its
 * files give them, and everything is checked before it is written (experts:
 * import_experts.c).  Nothing in the files is trusted: names, shapes, dtypes
 * and counts must be those of the model that config.json describes, and the
 * result is opened once before it gets its name. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "arch.h"
#include "clock.h"
#include "hints.h"
#include "import_gguf.h"
#include "import_job.h"
#include "journal.h"
#include "published.h"
#include "safetensors_writer.h"
#include "side_files.h"
#include "torch_file.h"

/* ---- opening ---- */

qmoe_status qmi_import_open_torch(
    qmi_importer *m, qmi_tensor_file **out, const char *name)
{
    char *path = qmi_path_join(m->source, name, m->err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_torch_open(out, path, m->err);
    qmi_free(path);
    return status;
}

/* sizes.pt alone may hold integers; elsewhere they would be lost. */
qmoe_status qmi_import_no_integers(const qmi_tensor_file *file, qmi_error *err)
{
    if (qmi_torch_integer_count(file) == 0)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: holds an integer, '%.200s', not tensors alone",
        qmi_tensor_file_path(file), qmi_torch_integer_name(file, 0));
}

/* Every file counts into the fingerprint, in the order in which it is
 * opened. */
static void count_file(qmi_importer *m, const qmi_tensor_file *file)
{
    m->report->source_bytes += qmi_tensor_file_bytes(file);
    m->fingerprint = qmi_file_fingerprint(m->fingerprint, file);
}

static qmoe_status open_common(qmi_importer *m)
{
    QMI_TRY(qmi_require_directory(m->source, m->err));
    m->config_path = qmi_path_join(m->source, "config.json", m->err);
    if (m->config_path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_json_load(&m->config, m->config_path, m->err);
    if (status == QMOE_E_NOT_FOUND)
        return qmi_fail_no_config(m->err, m->source);
    QMI_TRY(status);
    /* A model without weights: names and shapes of everything there must be. */
    QMI_TRY(qmi_model_sketch(&m->sketch, m->hooks, m->config, m->config_path));
    status = qmi_import_open_torch(m, &m->plain, "noexp.pt");
    if (status == QMOE_E_NOT_FOUND)
        return qmi_fail_not_published(m->err, m->source);
    QMI_TRY(status);
    QMI_TRY(qmi_import_open_torch(m, &m->sizes, "sizes.pt"));
    count_file(m, m->plain);
    count_file(m, m->sizes);
    return QMOE_OK;
}

/* Stacks come in pairs, block by block, in the sketch. */
bool qmi_import_stacks_of(const qmi_importer *m, size_t block,
    const qmi_weight *stacks[QMI_PUB_KINDS])
{
    size_t n = 0;
    for (size_t i = 0; i < m->sketch->n_weights; i++) {
        const qmi_weight *w = &m->sketch->weights[i];
        if (w->role == QMOE_ROLE_EXPERTS && n / QMI_PUB_KINDS == block)
            stacks[n % QMI_PUB_KINDS] = w;
        n += w->role == QMOE_ROLE_EXPERTS;
    }
    return QMI_PUB_KINDS * block < n;
}

/* The block whose experts a file holds; n_blocks when none. */
static size_t block_of(const qmi_importer *m, const qmi_tensor_file *file)
{
    const qmi_weight *stacks[QMI_PUB_KINDS];
    for (size_t block = 0; block < m->n_blocks; block++) {
        qmi_import_stacks_of(m, block, stacks);
        /* The first tensor alone: import_experts.c finds each of them by name
         * later. */
        for (size_t i = 0; i < qmi_tensor_file_count(file) && i < 1; i++) {
            /* Up to the kind: "<block>.experts". */
            const char *name = qmi_tensor_file_at(file, i)->name;
            size_t n =
                (size_t)(strrchr(stacks[0]->name, '.') - stacks[0]->name);
            if (strncmp(name, stacks[0]->name, n) == 0 && name[n] == '.')
                return block;
        }
    }
    return m->n_blocks;
}

/* The file is closed again: a model has one per sparse block, and each would
 * hold a map. */
static qmoe_status place_file(qmi_importer *m, const char *name)
{
    qmi_tensor_file *file = NULL;
    qmoe_status status = qmi_import_open_torch(m, &file, name);
    if (status == QMOE_E_NOT_FOUND)
        return qmi_fail(m->err, status,
            "%s/%s: not there; the model of config.json has %zu such files, "
            "one for each sparse block",
            m->source, name, m->n_blocks);
    QMI_TRY(status);
    size_t block = block_of(m, file);
    count_file(m, file);
    qmi_tensor_file_close(file);
    if (block == m->n_blocks)
        return qmi_fail(m->err, QMOE_E_FORMAT,
            "%s/%s: holds no experts of the model that config.json describes",
            m->source, name);
    /* Two files of a block would mean that another has none. */
    if (m->files[block] != NULL)
        return qmi_fail(m->err, QMOE_E_FORMAT,
            "%s/%s: holds experts of the same block as %s", m->source, name,
            m->files[block]);
    m->files[block] = qmi_strdup(name, m->err);
    return m->files[block] != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* More files than config.json has sparse blocks: part of the model would be
 * lost. */
static qmoe_status check_no_more_files(const qmi_importer *m)
{
    char name[32];
    /* Numbers have no gaps, so looking at the next one is enough. */
    snprintf(name, sizeof name, "exp%02zu.pt", m->n_blocks);
    char *path = qmi_path_join(m->source, name, m->err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    bool more = access(path, F_OK) == 0;
    qmi_free(path);
    return !more ? QMOE_OK
                 : qmi_fail(m->err, QMOE_E_FORMAT,
                       "%s/%s: one too many; config.json describes a model of "
                       "%zu sparse blocks",
                       m->source, name, m->n_blocks);
}

/* Which block is in exp00.pt, exp01.pt, ... is told by the names inside: the
 * numbers of the files have no meaning (docs/publish.md, section 3). */
static qmoe_status place_files(qmi_importer *m)
{
    const qmi_weight *stacks[QMI_PUB_KINDS];
    while (qmi_import_stacks_of(m, m->n_blocks, stacks))
        m->n_blocks++;
    m->files =
        qmi_calloc(m->n_blocks, sizeof *m->files, "the file list", m->err);
    if (m->files == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < m->n_blocks; i++) {
        char name[32];
        snprintf(name, sizeof name, "exp%02zu.pt", i);
        QMI_TRY(qmi_progress(m->hooks, "open", name, i, m->n_blocks));
        QMI_TRY(place_file(m, name));
    }
    m->n_files = 1 + QMI_PUB_KINDS * m->n_blocks;
    return check_no_more_files(m);
}

/* ---- tensors that are no expert's ---- */

/* Some models have the tensor under another name.  It is copied under the one
 * it has; opening knows both. */
static const qmi_tensor *find_plain(const qmi_importer *m, const char *name)
{
    const qmi_tensor *t = qmi_tensor_file_find(m->plain, name);
    const char *other = qmi_arch_other_name(m->sketch->arch, name);
    return t == NULL && other != NULL ? qmi_tensor_file_find(m->plain, other)
                                      : t;
}

/* A norm is a vector in the file and a matrix of one row in the sketch. */
static qmoe_status check_plain(const qmi_importer *m, const qmi_weight *w)
{
    const char *path = qmi_tensor_file_path(m->plain);
    const qmi_tensor *t = find_plain(m, w->name);
    if (t == NULL)
        return qmi_fail(
            m->err, QMOE_E_FORMAT, "%s: tensor '%s' is missing", path, w->name);
    bool vector = w->n_rows == 1 && t->rank == 1 && t->shape[0] == w->n_cols;
    bool matrix =
        t->rank == 2 && t->shape[0] == w->n_rows && t->shape[1] == w->n_cols;
    if ((vector || matrix) && qmi_format_dense(t->dtype) != NULL)
        return QMOE_OK;
    return qmi_fail(m->err, QMOE_E_FORMAT,
        "%s: tensor '%s': %s of rank %d, expected floats [%lld, %lld]", path,
        t->name, qmi_dtype_name(t->dtype), t->rank, (long long)w->n_rows,
        (long long)w->n_cols);
}

/* Nothing may take the name of what is written beside it: the stacks' tensors
 * are called "<block>.experts.<kind>.<part>". */
static qmoe_status check_names(const qmi_importer *m)
{
    for (size_t i = 0; i < qmi_tensor_file_count(m->plain); i++) {
        const char *name = qmi_tensor_file_at(m->plain, i)->name;
        if (strstr(name, ".experts.") != NULL)
            return qmi_fail(m->err, QMOE_E_FORMAT,
                "%s: tensor '%.200s' is an expert's",
                qmi_tensor_file_path(m->plain), name);
    }
    for (size_t i = 0; i < m->sketch->n_weights; i++)
        if (m->sketch->weights[i].role != QMOE_ROLE_EXPERTS)
            QMI_TRY(check_plain(m, &m->sketch->weights[i]));
    return QMOE_OK;
}

/* One shard of plain tensors, then one per stack. */
void qmi_import_next_file(qmi_importer *m, char name[64])
{
    snprintf(name, 64, "model-%05zu-of-%05zu.safetensors", ++m->n_files_done,
        m->n_files);
}

static qmoe_status write_plain(
    qmi_importer *m, qmi_st_writer *writer, const char *name)
{
    uint64_t hash = 0, n_bytes = 0;
    size_t n = qmi_tensor_file_count(m->plain);
    QMI_TRY(qmi_st_writer_metadata(writer, "format", "qmoe", m->err));
    /* Declared first: a safetensors header lists everything before the data. */
    for (size_t i = 0; i < n; i++) {
        const qmi_tensor *t = qmi_tensor_file_at(m->plain, i);
        QMI_TRY(qmi_st_writer_declare(
            writer, t->name, t->dtype, t->shape, t->rank, m->err));
        QMI_TRY(qmi_manifest_add_tensor(m->manifest, t->name, name, m->err));
    }
    for (size_t i = 0; i < n; i++) {
        const qmi_tensor *t = qmi_tensor_file_at(m->plain, i);
        QMI_TRY(qmi_tensor_file_fetch(m->plain, t->data, t->n_bytes, m->err));
        QMI_TRY(qmi_st_writer_write(writer, i, t->data, t->n_bytes, m->err));
        qmi_tensor_file_release(m->plain, t->data, t->n_bytes);
    }
    QMI_TRY(qmi_st_writer_finish(writer, &hash, &n_bytes, m->err));
    m->report->output_bytes += n_bytes;
    return qmi_manifest_add_file(m->manifest, name, hash, n_bytes, m->err);
}

/* The same two passes as compress_copy.c makes, with another kind of source. */
static qmoe_status import_plain(qmi_importer *m)
{
    char name[64];
    qmi_new_file file;
    qmi_st_writer *writer = NULL;
    qmi_import_next_file(m, name);
    QMI_TRY(qmi_output_create(&m->output, &file, name, m->err));
    qmoe_status status = qmi_st_writer_create(&writer, &file, m->err);
    if (status == QMOE_OK)
        status = write_plain(m, writer, name);
    qmi_st_writer_destroy(writer);
    return status;
}

/* ---- the import ---- */

static qmoe_status choose_format(qmi_importer *m)
{
    char names[256];
    const char *format = m->options.format != NULL ? m->options.format
                                                   : qmi_published_format->name;
    m->recipe.quantiser = qmi_quantiser_find("rtn", format);
    if (m->recipe.quantiser == NULL)
        return qmi_fail(m->err, QMOE_E_UNSUPPORTED, "unknown format '%s' (%s)",
            format, qmi_format_names(names, sizeof names, "rtn", NULL));
    /* For people who read config.json: recoding adds an error of its own. */
    m->recipe.method =
        qmi_import_is_recoded(m) ? "published, then rtn" : "published";
    return QMOE_OK;
}

static qmoe_status check_sketch(qmi_importer *m)
{
    qmoe_import_report *r = m->report;
    for (size_t i = 0; i < m->sketch->n_weights; i++) {
        const qmi_weight *w = &m->sketch->weights[i];
        if (w->role != QMOE_ROLE_EXPERTS)
            continue;
        QMI_TRY(qmi_published_check_shape(w, m->err));
        r->n_matrices += (uint64_t)w->n_mats;
        r->expert_weights +=
            (uint64_t)w->n_mats * (uint64_t)(w->n_rows * w->n_cols);
    }
    if (r->n_matrices == 0)
        return qmi_fail(m->err, QMOE_E_UNSUPPORTED,
            "%s: describes a model without experts", m->config_path);
    /* What a tensor in this file would mean is not known, so it is not left out
     * in silence. */
    if (qmi_tensor_file_count(m->sizes) != 0)
        return qmi_fail(m->err, QMOE_E_FORMAT,
            "%s: holds a tensor, '%.200s', not integers alone",
            qmi_tensor_file_path(m->sizes),
            qmi_tensor_file_at(m->sizes, 0)->name);
    QMI_TRY(qmi_import_no_integers(m->plain, m->err));
    if (qmi_torch_integer_count(m->sizes) != r->n_matrices)
        return qmi_fail(m->err, QMOE_E_FORMAT,
            "%s: %zu entries, expected one for each of %llu matrices",
            qmi_tensor_file_path(m->sizes), qmi_torch_integer_count(m->sizes),
            (unsigned long long)r->n_matrices);
    return QMOE_OK;
}

static qmoe_status start(qmi_importer *m, const char *output)
{
    const qmi_output_source sources[] = {
        {m->source, false}, {m->options.tokenizer, false}};
    const qmi_output_options options = {.overwrite = m->options.overwrite,
        .sources = sources,
        .n_sources = m->options.tokenizer != NULL ? 2 : 1};
    /* That of the source, whatever is written. */
    const qmi_manifest_source source = {
        .config = m->config,
        .expert_format = qmi_published_format->name,
        .fingerprint = m->fingerprint,
        .n_bytes = m->report->source_bytes,
    };
    QMI_TRY(qmi_output_open(&m->output, output, &options, m->err));
    QMI_TRY(qmi_journal_mark(&m->output, "import", m->err));
    return qmi_manifest_create(&m->manifest, &source, &m->recipe, NULL, m->err);
}

/* Reads back what was written, before it gets its name: what cannot be opened
 * must not appear. */
static qmoe_status check_result(qmi_importer *m)
{
    qmoe_model *model = NULL;
    QMI_TRY(qmi_model_open(&model, m->hooks, m->output.partial, true));
    m->report->has_tokenizer = model->tokenizer != NULL;
    qmoe_model_close(model);
    return QMOE_OK;
}

/* Checks go from cheap to dear; the output is opened behind the last that needs
 * no expert. */
static qmoe_status run(qmi_importer *m, const char *output)
{
    QMI_TRY(choose_format(m));
    QMI_TRY(open_common(m));
    QMI_TRY(check_sketch(m));
    QMI_TRY(check_names(m));
    QMI_TRY(place_files(m));
    QMI_TRY(start(m, output));
    QMI_TRY(import_plain(m));
    for (size_t block = 0; block < m->n_blocks; block++)
        QMI_TRY(qmi_import_block(m, block));
    QMI_TRY(qmi_copy_side_files(&m->output, m->manifest, NULL,
        m->options.tokenizer != NULL ? m->options.tokenizer : m->source,
        m->err));
    QMI_TRY(qmi_manifest_write(m->manifest, &m->output, m->err));
    QMI_TRY(check_result(m));
    /* A sum over matrices until here. */
    m->report->weight_error /= (double)m->report->n_matrices;
    return qmi_output_commit(&m->output, m->err);
}

/* Every member may still be zero. */
static void clean_up(qmi_importer *m)
{
    qmi_output_close(&m->output);
    qmi_manifest_destroy(m->manifest);
    /* n_blocks may be known before the list exists. */
    for (size_t i = 0; m->files != NULL && i < m->n_blocks; i++)
        qmi_free(m->files[i]);
    qmi_free(m->files);
    qmi_tensor_file_close(m->experts);
    qmi_tensor_file_close(m->plain);
    qmi_tensor_file_close(m->sizes);
    qmoe_model_close(m->sketch);
    cJSON_Delete(m->config);
    qmi_free(m->config_path);
}

static qmoe_status import_published(qmi_hooks *hooks,
    qmoe_import_report *report, const char *source, const char *output,
    const qmoe_import_options *options)
{
    qmi_importer m = {.hooks = hooks,
        .options = *options,
        .source = source,
        .report = report,
        .err = &hooks->error};
    if (options->dtype != NULL)
        return qmi_fail(m.err, QMOE_E_INVALID,
            "a published compressed model is imported without a dtype");
    qmoe_status status = run(&m, output);
    clean_up(&m);
    return status;
}

/* Weights in one file are GGUF; published models are directories. */
static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

qmoe_status qmoe_import(qmoe_context *context, qmoe_import_report *report,
    const char *source, const char *output, const qmoe_import_options *options)
{
    if (report != NULL)
        *report = (qmoe_import_report){0};
    qmi_hooks *hooks = qmi_hooks_of(context);
    QMI_TRY(qmi_call_begin(
        hooks, __func__, report == NULL || source == NULL || output == NULL));
    qmoe_import_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    const double begin = qmi_seconds();
    qmoe_status status =
        is_file(source)
            ? qmi_import_gguf(hooks, report, source, output, &known)
            : import_published(hooks, report, source, output, &known);
    report->seconds = qmi_seconds() - begin;
    return qmi_call_end(hooks, status);
}
