/* SPDX-License-Identifier: Apache-2.0
 * In: the files of a published directory, one block at a time.  Out: one shard
 * per stack.  In ternary-dict the bytes are passed on as they are; in another
 * format each matrix is decoded and rounded again.  One file and one matrix are
 * in memory at a time, and each is checked (published.c) before it is used. */
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "import_job.h"
#include "published.h"
#include "rotation.h"
#include "stack_writer.h"
#include "ternary_dict.h"

/* The codes as they are: borrowed from the file. */
static qmi_encoded borrow(const qmi_weight *w)
{
    qmi_encoded encoded = {
        .format = w->format, .n_rows = w->n_rows, .n_cols = w->n_cols};
    /* Row offsets, levels and codes are neighbours in ternary-dict's list of
     * parts; expert offsets are the writer's. */
    for (int i = QMI_TD_ROW_OFFSETS; i <= QMI_TD_CODES; i++) {
        encoded.parts[i] = (uint8_t *)(uintptr_t)w->parts[i].data;
        encoded.part_bytes[i] = (size_t)w->parts[i].n_bytes;
    }
    return encoded;
}

/* The rotation is the one that `qmoe compress` takes by default. */
static qmi_stack_recipe stack_recipe(const qmi_importer *m, const qmi_weight *w)
{
    qmi_stack_recipe r = {
        .quantiser = m->recipe.quantiser, .quant = m->recipe.quant};
    if (r.quantiser->format->rotates)
        r.quant.rotation = qmi_rotation_for(w->n_cols);
    return r;
}

static qmoe_status recode(
    qmi_importer *m, qmi_stack_writer *writer, const qmi_weight *w)
{
    qmi_encoded encoded = {0};
    qmi_quant_result result = {0};
    float *wide = qmi_calloc(
        (size_t)(w->n_rows * w->n_cols), sizeof *wide, "a matrix", m->err);
    if (wide == NULL)
        return QMOE_E_NOMEM;
    /* The matrix passed its check, so decoding cannot run past it. */
    qmi_weight_decode(w, 0, 0, w->n_rows, wide);
    const qmi_stack_recipe r = stack_recipe(m, w);
    qmoe_status status = r.quantiser->run(
        &encoded, &result, wide, w->n_rows, w->n_cols, NULL, &r.quant, m->err);
    qmi_free(wide);
    if (status == QMOE_OK)
        status = qmi_stack_writer_add(writer, &encoded, m->err);
    /* Per matrix, so that large ones do not outweigh small ones; the caller
     * makes the mean. */
    if (result.energy > 0)
        m->report->weight_error += result.error / result.energy;
    qmi_encoded_free(&encoded);
    return status;
}

bool qmi_import_is_recoded(const qmi_importer *m)
{
    return m->recipe.quantiser->format != qmi_published_format;
}

/* Found, checked, written, given back: memory holds one matrix. */
static qmoe_status import_matrix(qmi_importer *m, qmi_stack_writer *writer,
    const qmi_weight *stack, int64_t expert)
{
    qmi_weight w;
    uint64_t offsets[2];
    qmi_published_matrix found;
    QMI_TRY(qmi_progress(
        m->hooks, "import", stack->name, m->done, m->report->expert_weights));
    QMI_TRY(qmi_published_find(
        &found, m->experts, m->sizes, stack, expert, m->err));
    QMI_TRY(
        qmi_published_check(&w, offsets, &found, m->experts, stack, m->err));
    /* Both ways give the writer the same kind of matrix. */
    if (qmi_import_is_recoded(m)) {
        QMI_TRY(recode(m, writer, &w));
    } else {
        qmi_encoded encoded = borrow(&w);
        QMI_TRY(qmi_stack_writer_add(writer, &encoded, m->err));
    }
    /* Only after the writer has copied the bytes. */
    qmi_published_release(&found, m->experts);
    m->done += (uint64_t)(stack->n_rows * stack->n_cols);
    return QMOE_OK;
}

static qmoe_status finish_stack(qmi_importer *m, qmi_stack_writer *writer,
    const qmi_weight *stack, const char *file)
{
    uint64_t hash = 0, n_bytes = 0;
    const qmi_format *format = m->recipe.quantiser->format;
    QMI_TRY(qmi_stack_writer_finish(writer, &hash, &n_bytes, m->err));
    m->report->output_bytes += n_bytes;
    m->report->expert_bytes += qmi_stack_writer_bytes(writer);
    QMI_TRY(qmi_manifest_add_file(m->manifest, file, hash, n_bytes, m->err));
    for (int i = 0; i < format->n_parts; i++) {
        /* Names of tensors are bounded by the architecture. */
        char tensor[640];
        snprintf(tensor, sizeof tensor, "%s.%s", stack->name,
            format->parts[i].suffix);
        QMI_TRY(qmi_manifest_add_tensor(m->manifest, tensor, file, m->err));
    }
    const qmi_stack_recipe recipe = stack_recipe(m, stack);
    return qmi_manifest_add_stack(m->manifest, stack, &recipe, m->err);
}

static qmoe_status fill_stack(qmi_importer *m, qmi_stack_writer *writer,
    const qmi_weight *stack, const char *file)
{
    for (int64_t expert = 0; expert < stack->n_mats; expert++)
        QMI_TRY(import_matrix(m, writer, stack, expert));
    return finish_stack(m, writer, stack, file);
}

/* The writer is destroyed in any case; an unfinished file goes with the working
 * directory. */
static qmoe_status import_stack(qmi_importer *m, const qmi_weight *stack)
{
    char name[64];
    qmi_new_file file;
    qmi_stack_writer *writer = NULL;
    /* Numbers are given in the order of stacks, which is the order of the
     * index. */
    qmi_import_next_file(m, name);
    QMI_TRY(qmi_output_create(&m->output, &file, name, m->err));
    const qmi_stack_plan plan = {
        .name = stack->name,
        .format = m->recipe.quantiser->format,
        .n_mats = stack->n_mats,
        .n_rows = stack->n_rows,
        .n_cols = stack->n_cols,
    };
    qmoe_status status = qmi_stack_writer_create(&writer, &file, &plan, m->err);
    if (status == QMOE_OK)
        status = fill_stack(m, writer, stack, name);
    qmi_stack_writer_destroy(writer);
    return status;
}

/* A file holds the tensors of its block's experts and nothing else. */
static qmoe_status check_count(const qmi_importer *m, int64_t n_experts)
{
    uint64_t n_matrices = (uint64_t)n_experts * QMI_PUB_KINDS;
    size_t n = qmi_tensor_file_count(m->experts);
    /* Dummies are empty tensors "<expert>.weight" that some files have; they
     * are no part of the codes. */
    uint64_t n_dummies = 0;
    QMI_TRY(qmi_import_no_integers(m->experts, m->err));
    for (size_t i = 0; i < n; i++) {
        const char *dot = strrchr(qmi_tensor_file_at(m->experts, i)->name, '.');
        n_dummies += dot != NULL && strcmp(dot, ".weight") == 0;
    }
    if (n - n_dummies == n_matrices * (QMI_PUB_PARTS - 1))
        return QMOE_OK;
    return qmi_fail(m->err, QMOE_E_FORMAT,
        "%s: %zu tensors beside dummies, expected 3 for each of %llu "
        "matrices",
        qmi_tensor_file_path(m->experts), n - (size_t)n_dummies,
        (unsigned long long)n_matrices);
}

qmoe_status qmi_import_block(qmi_importer *m, size_t block)
{
    const qmi_weight *stacks[QMI_PUB_KINDS];
    qmi_import_stacks_of(m, block, stacks);
    /* One file is open at a time: a model has one per sparse block. */
    QMI_TRY(qmi_import_open_torch(m, &m->experts, m->files[block]));
    qmoe_status status = check_count(m, stacks[0]->n_mats);
    for (int kind = 0; status == QMOE_OK && kind < QMI_PUB_KINDS; kind++)
        status = import_stack(m, stacks[kind]);
    qmi_tensor_file_close(m->experts);
    m->experts = NULL;
    return status;
}
