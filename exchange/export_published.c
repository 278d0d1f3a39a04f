/* SPDX-License-Identifier: Apache-2.0
 * In: a compressed model in ternary-dict with the paper's dictionary.  Out: the
 * files of the published compressed models (docs/publish.md): noexp.pt,
 * sizes.pt, exp00.pt and so on, one per sparse block.  Code words, row offsets
 * and levels are copied as they are, so an import gives back the same bytes. */
#include "export_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "expert_names.h"
#include "published.h"
#include "ternary_dict.h"
#include "torch_writer.h"

/* ---- what can be written ---- */

/* Before the first file: a stack that the layout cannot hold ends the export
 * without a trace. */
static qmoe_status check_stacks(const qmi_export *e)
{
    const qmoe_model *m = e->model;
    int64_t n_stacks = 0;
    for (size_t i = 0; i < m->n_weights; i++)
        n_stacks += m->weights[i].role == QMOE_ROLE_EXPERTS;
    if (n_stacks != QMI_PUB_KINDS * qmi_model_sparse_count(m))
        return qmi_fail(e->err, QMOE_E_UNSUPPORTED,
            "%s: the published layout holds experts of two matrices, and these "
            "have gates",
            qmi_checkpoint_directory(m->checkpoint));
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        if (w->format->dense)
            continue;
        if (w->role != QMOE_ROLE_EXPERTS)
            return qmi_fail(e->err, QMOE_E_UNSUPPORTED,
                "'%s': the published layout holds compressed experts only",
                w->name);
        if (w->format != qmi_published_format || w->codebook != NULL)
            return qmi_fail(e->err, QMOE_E_UNSUPPORTED,
                "'%s': the published layout holds %s with the "
                "paper's dictionary only, not %s%s",
                w->name, qmi_published_format->name, w->format->name,
                w->codebook != NULL ? " with another dictionary" : "");
        QMI_TRY(qmi_published_check_shape(w, e->err));
    }
    return QMOE_OK;
}

/* ---- files ---- */

typedef qmoe_status (*fill_fn)(
    qmi_export *e, qmi_torch_writer *writer, size_t block);

/* `ordered`: as an OrderedDict, which noexp.pt is (docs/publish.md, section
 * 3). */
static qmoe_status write_file(
    qmi_export *e, const char *name, bool ordered, fill_fn fill, size_t block)
{
    uint64_t n_bytes = 0;
    qmi_torch_writer *writer = NULL;
    qmi_new_file file;
    QMI_TRY(qmi_output_create(&e->output, &file, name, e->err));
    qmoe_status status =
        qmi_torch_writer_create(&writer, &file, ordered, e->err);
    if (status == QMOE_OK)
        status = fill(e, writer, block);
    if (status == QMOE_OK)
        status = qmi_torch_writer_finish(writer, &n_bytes, e->err);
    qmi_torch_writer_destroy(writer);
    /* Also counted after a failure, when nobody reads the report. */
    e->report->output_bytes += n_bytes;
    e->report->n_files++;
    if (status == QMOE_OK &&
        cJSON_AddNumberToObject(e->files, name, (double)n_bytes) == NULL)
        status = qmi_fail(e->err, QMOE_E_NOMEM, "out of memory: the file list");
    return status;
}

/* ---- noexp.pt ---- */

/* Tensors are declared before the first is written: the pickle, which names all
 * of them, comes before their data. */
typedef qmoe_status (*visit_fn)(
    qmi_export *e, qmi_torch_writer *writer, const qmi_tensor *t);

static qmoe_status declare_plain(
    qmi_export *e, qmi_torch_writer *writer, const qmi_tensor *t)
{
    e->report->n_tensors++;
    return qmi_torch_writer_tensor(
        writer, t->name, t->dtype, t->shape, t->rank, e->err);
}

static qmoe_status write_plain(
    qmi_export *e, qmi_torch_writer *writer, const qmi_tensor *t)
{
    QMI_TRY(qmi_progress(e->hooks, "export", t->name, e->done, e->total));
    QMI_TRY(qmi_checkpoint_fetch(
        e->model->checkpoint, t->data, t->n_bytes, e->err));
    QMI_TRY(qmi_torch_writer_write(writer, t->data, t->n_bytes, e->err));
    /* Pages are given back: the source may be larger than the memory. */
    qmi_checkpoint_release(e->model->checkpoint, t->data, t->n_bytes);
    return QMOE_OK;
}

static qmoe_status each_plain(
    qmi_export *e, qmi_torch_writer *writer, visit_fn visit)
{
    const qmi_checkpoint *from = e->model->checkpoint;
    for (size_t f = 0; f < qmi_checkpoint_file_count(from); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(from, f);
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            if (!qmi_export_is_part(e, t->name))
                QMI_TRY(visit(e, writer, t));
        }
    }
    return QMOE_OK;
}

static qmoe_status fill_plain(
    qmi_export *e, qmi_torch_writer *writer, size_t block)
{
    (void)block;
    QMI_TRY(each_plain(e, writer, declare_plain));
    return each_plain(e, writer, write_plain);
}

/* ---- experts ---- */

/* The stacks of the block's kinds, in the model's order: wi, wo.  false: there is
 * no such block. */
static bool stacks_of(
    const qmi_export *e, size_t block, const qmi_weight *stacks[QMI_PUB_KINDS])
{
    size_t n = 0;
    for (size_t i = 0; i < e->model->n_weights; i++) {
        const qmi_weight *w = &e->model->weights[i];
        if (w->role == QMOE_ROLE_EXPERTS && n / QMI_PUB_KINDS == block)
            stacks[n % QMI_PUB_KINDS] = w;
        n += w->role == QMOE_ROLE_EXPERTS;
    }
    return QMI_PUB_KINDS * block < n;
}

/* The layout stores the number of codewords, ternary-dict the bytes. */
static uint64_t n_codes(const qmi_weight *w, int64_t expert)
{
    return qmi_matrix_range(w, QMI_TD_CODES, expert, 1).n_bytes /
           sizeof(uint16_t);
}

static qmoe_status declare_matrix(const qmi_export *e, qmi_torch_writer *writer,
    const qmi_weight *w, int64_t expert)
{
    char base[512], name[640];
    const int64_t lengths[QMI_PUB_PARTS] = {
        [QMI_PUB_CODES] = (int64_t)n_codes(w, expert),
        [QMI_PUB_ROWS] = w->n_rows + 1,
        [QMI_PUB_LEVELS] = 2 * w->n_rows,
    };
    qmi_expert_name(base, sizeof base, w, expert);
    for (int part = 0; part < QMI_PUB_PARTS; part++) {
        snprintf(name, sizeof name, "%s.%s", base, qmi_published_suffix[part]);
        QMI_TRY(qmi_torch_writer_tensor(writer, name, qmi_published_dtype(part),
            &lengths[part], 1, e->err));
        e->report->n_tensors++;
    }
    return QMOE_OK;
}

/* Bytes of a stack's parts are those of the layout, so nothing is decoded. */
static qmoe_status write_matrix(qmi_export *e, qmi_torch_writer *writer,
    const qmi_weight *w, int64_t expert)
{
    /* In the order of the declared parts; the dummy has no data. */
    static const int parts[] = {
        QMI_TD_CODES, QMI_TD_ROW_OFFSETS, QMI_TD_LEVELS};
    QMI_TRY(qmi_progress(e->hooks, "export", w->name, e->done, e->total));
    QMI_TRY(qmi_matrix_fetch(e->model, w, expert, e->err));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        qmi_part part = qmi_matrix_range(w, parts[i], expert, 1);
        QMI_TRY(
            qmi_torch_writer_write(writer, part.data, part.n_bytes, e->err));
    }
    qmi_matrix_release(e->model, w, expert);
    e->done += qmi_weight_bytes(w) / (uint64_t)w->n_mats;
    return QMOE_OK;
}

static qmoe_status fill_block(
    qmi_export *e, qmi_torch_writer *writer, size_t block)
{
    const qmi_weight *stacks[QMI_PUB_KINDS] = {NULL};
    stacks_of(e, block, stacks);
    /* Declared and written in the same order. */
    for (int64_t x = 0; x < stacks[0]->n_mats; x++)
        for (int kind = 0; kind < QMI_PUB_KINDS; kind++)
            QMI_TRY(declare_matrix(e, writer, stacks[kind], x));
    for (int64_t x = 0; x < stacks[0]->n_mats; x++)
        for (int kind = 0; kind < QMI_PUB_KINDS; kind++)
            QMI_TRY(write_matrix(e, writer, stacks[kind], x));
    return QMOE_OK;
}

static qmoe_status fill_sizes(
    qmi_export *e, qmi_torch_writer *writer, size_t unused)
{
    char name[512];
    const qmi_weight *stacks[QMI_PUB_KINDS] = {NULL};
    (void)unused;
    /* One integer per matrix, in the same order. */
    for (size_t block = 0; stacks_of(e, block, stacks); block++)
        for (int64_t x = 0; x < stacks[0]->n_mats; x++)
            for (int kind = 0; kind < QMI_PUB_KINDS; kind++) {
                qmi_expert_name(name, sizeof name, stacks[kind], x);
                QMI_TRY(qmi_torch_writer_integer(
                    writer, name, (int64_t)n_codes(stacks[kind], x), e->err));
            }
    return QMOE_OK;
}

/* The files have no place for a mark: this list tells ours from others. */
static qmoe_status write_list(qmi_export *e, const cJSON *list)
{
    char *text = cJSON_Print(list);
    if (text == NULL)
        return qmi_fail(e->err, QMOE_E_NOMEM, "out of memory: the file list");
    qmoe_status status = qmi_output_write(
        &e->output, QMI_EXPORT_NAME, text, strlen(text), e->err);
    cJSON_free(text);
    return status;
}

static qmoe_status write_files(qmi_export *e)
{
    const qmi_weight *stacks[QMI_PUB_KINDS] = {NULL};
    QMI_TRY(write_file(e, "noexp.pt", true, fill_plain, 0));
    QMI_TRY(write_file(e, "sizes.pt", false, fill_sizes, 0));
    /* Blocks are numbered in execution order. */
    for (size_t block = 0; stacks_of(e, block, stacks); block++) {
        char name[32];
        snprintf(name, sizeof name, "exp%02zu.pt", block);
        QMI_TRY(write_file(e, name, false, fill_block, block));
    }
    return qmi_export_config(e, NULL);
}

/* The list is written behind the files it names, with their final sizes. */
qmoe_status qmi_export_published(qmi_export *e)
{
    char creator[64];
    QMI_TRY(check_stacks(e));
    cJSON *list = cJSON_CreateObject();
    snprintf(creator, sizeof creator, "qmoe %s", qmoe_version());
    cJSON *created_by = cJSON_AddStringToObject(list, "created_by", creator);
    e->files = cJSON_AddObjectToObject(list, "files");
    qmoe_status status =
        created_by != NULL && e->files != NULL
            ? write_files(e)
            : qmi_fail(e->err, QMOE_E_NOMEM, "out of memory: the file list");
    if (status == QMOE_OK)
        status = write_list(e, list);
    cJSON_Delete(list);
    return status;
}
