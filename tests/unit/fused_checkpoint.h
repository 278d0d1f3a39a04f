/* SPDX-License-Identifier: Apache-2.0
 * A decoder-only checkpoint with the experts of each block in two tensors,
 * written from one with tensors for each expert. */
#ifndef QMOE_TEST_FUSED_CHECKPOINT_H
#define QMOE_TEST_FUSED_CHECKPOINT_H

#include <stdlib.h>

#include "expert_names.h"
#include "model.h"
#include "safetensors_writer.h"
#include "scratch.h"
#include "scratch_file.h"

/* Two kinds of one block that lie one behind the other, or one. */
typedef struct fused_tensor {
    const qmi_weight *parts[2];
    int n_parts;
    const char *name; /* behind that of the stack's block */
} fused_tensor;

/* Rows of matrix e of all parts, one behind the other, or their transpose. */
static inline void fused_matrix(
    uint8_t *to, const fused_tensor *f, int64_t e, bool is_transposed)
{
    const size_t size = qmi_dtype_bits(f->parts[0]->format->dtype) / 8;
    const int64_t n_rows = f->parts[0]->n_rows, n_cols = f->parts[0]->n_cols;
    for (int64_t row = 0; row < f->n_parts * n_rows; row++) {
        const uint8_t *from = qmi_weight_dense(f->parts[row / n_rows], e);
        from += (size_t)(row % n_rows * n_cols) * size;
        for (int64_t col = 0; col < n_cols; col++)
            memcpy(to + size * (size_t)(is_transposed
                                            ? col * f->n_parts * n_rows + row
                                            : row * n_cols + col),
                from + (size_t)col * size, size);
    }
}

/* Declares it, or writes its data when there is an index. */
static inline void fused_put(qmi_st_writer *w, const fused_tensor *f,
    bool is_transposed, const size_t *index)
{
    const qmi_weight *first = f->parts[0];
    const int64_t rows = f->n_parts * first->n_rows, cols = first->n_cols;
    const int64_t shape[3] = {first->n_mats, is_transposed ? cols : rows,
        is_transposed ? rows : cols};
    const int prefix = (int)(strrchr(first->name, '.') - first->name);
    const size_t each = (size_t)f->n_parts * qmi_dense_bytes(first);
    char name[300];
    qmi_error err = {0};
    snprintf(name, sizeof name, "%.*s.%s", prefix, first->name, f->name);
    if (index == NULL) {
        assert_int_equal(qmi_st_writer_declare(
                             w, name, first->format->dtype, shape, 3, &err),
            QMOE_OK);
        return;
    }
    uint8_t *matrix = malloc(each);
    assert_non_null(matrix);
    for (int64_t e = 0; e < first->n_mats; e++) {
        fused_matrix(matrix, f, e, is_transposed);
        assert_int_equal(
            qmi_st_writer_write(w, *index, matrix, each, &err), QMOE_OK);
    }
    free(matrix);
}

typedef struct fused_options {
    bool is_transposed;
    bool keeps; /* the tensors for each expert, too */
} fused_options;

/* Once to declare all tensors, once to write them: those of no expert in their
 * order, then the experts'. */
static inline void fused_walk(qmi_st_writer *w, const qmoe_model *model,
    fused_options options, bool writes)
{
    const qmi_tensor_file *file = qmi_checkpoint_file(model->checkpoint, 0);
    const qmi_weight *of[3];
    size_t index = 0;
    qmi_error err = {0};
    for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
        const qmi_tensor *t = qmi_tensor_file_at(file, i);
        if (strstr(t->name, ".experts.") != NULL && !options.keeps)
            continue;
        const qmoe_status status =
            writes ? qmi_st_writer_write(w, index++, t->data, t->n_bytes, &err)
                   : qmi_st_writer_declare(
                         w, t->name, t->dtype, t->shape, t->rank, &err);
        assert_int_equal(status, QMOE_OK);
    }
    int n = 0;
    for (size_t i = 0; i < model->n_weights; i++) {
        if (model->weights[i].role != QMOE_ROLE_EXPERTS)
            continue;
        /* Up, down, gate of a block follow each other. */
        of[n++ % 3] = &model->weights[i];
        if (n % 3 != 0)
            continue;
        const fused_tensor gate_up = {{of[2], of[0]}, 2, "gate_up_proj"};
        const fused_tensor down = {{of[1]}, 1, "down_proj"};
        fused_put(w, &gate_up, options.is_transposed, writes ? &index : NULL);
        index++;
        fused_put(w, &down, options.is_transposed, writes ? &index : NULL);
        index++;
    }
}

/* The path of the new directory `name` below the scratch. */
static inline const char *fused_checkpoint(
    const char *source, const char *name, fused_options options)
{
    const char *directory = scratch_directory(name);
    char path[1200];
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    qmi_st_writer *writer = NULL;
    qmi_new_file file;
    qmi_error err = {0};
    uint64_t hash = 0, n_bytes = 0;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_model_open(&model, context, source) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    assert_int_equal(scratch_new_file(&file, path, &err), QMOE_OK);
    assert_int_equal(qmi_st_writer_create(&writer, &file, &err), QMOE_OK);
    fused_walk(writer, model, options, false);
    fused_walk(writer, model, options, true);
    if (qmi_st_writer_finish(writer, &hash, &n_bytes, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    qmi_st_writer_destroy(writer);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return directory;
}

#endif
