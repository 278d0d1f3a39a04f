/* SPDX-License-Identifier: Apache-2.0
 * Finds the tensors of a weight, checks their shapes, and describes them as a
 * qmi_weight: a matrix, expert matrices each by itself or cut out of a tensor of
 * all, or any of these compressed.  In: names and shapes from an architecture,
 * tensors from files.  Out: entries of model->weights, whose numbers are final.
 * An entry that failed halfway stays in the list, so that closing the model
 * frees it. */
#include "model.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "expert_names.h"

/* A new entry at the end of model->weights, owning `name`. */
static qmoe_status new_weight(qmoe_model *model, qmi_weight **out,
    uint32_t *index, qmoe_role role, const char *name, qmi_error *err)
{
    if (model->n_weights == model->weight_capacity) {
        size_t capacity = model->n_weights == 0 ? 64 : 2 * model->n_weights;
        qmi_weight *grown = qmi_regrow(model->weights, model->n_weights,
            capacity, sizeof *grown, "the weight table", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        model->weights = grown;
        model->weight_capacity = capacity;
    }
    /* Counted only with its name: closing frees the names of all that count. */
    qmi_weight *w = &model->weights[model->n_weights];
    *w = (qmi_weight){.name = qmi_strdup(name, err), .role = role};
    if (w->name == NULL)
        return QMOE_E_NOMEM;
    *index = (uint32_t)model->n_weights++;
    *out = w;
    return QMOE_OK;
}

/* A weight of a sketch: what it would take, but no data.  Dimensions are below
 * 2^24 each (arch_*.c), so that bytes fit 64 bits. */
static void sketch_weight(const qmoe_model *model, qmi_weight *w,
    int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    w->format = model->sketch_format;
    w->n_mats = n_mats;
    w->n_rows = n_rows;
    w->n_cols = n_cols;
    /* 0 bits for a variable part: a sketch is dense. */
    w->parts[0].n_bytes = qmi_stack_size(w->format, n_mats, n_rows, n_cols, 0);
}

/* Checks a float matrix (or vector, when n_rows is 1 and it has rank 1). */
static qmoe_status check_matrix(const qmoe_model *model, const qmi_tensor *t,
    int64_t n_rows, int64_t n_cols, qmi_error *err)
{
    char expected[96];
    snprintf(expected, sizeof expected, "a float matrix [%lld, %lld]",
        (long long)n_rows, (long long)n_cols);
    /* Vectors are stored with one dimension; the model sees a matrix of one
     * row. */
    bool vector = n_rows == 1 && t->rank == 1 && t->shape[0] == n_cols;
    bool matrix =
        t->rank == 2 && t->shape[0] == n_rows && t->shape[1] == n_cols;
    if ((!vector && !matrix) || qmi_format_dense(t->dtype) == NULL)
        return qmi_tensor_wrong(model->checkpoint, t, expected, err);
    return QMOE_OK;
}

/* Payloads are checked on first use; `checked` remembers which were. */
static qmoe_status make_marks(qmi_weight *w, qmi_error *err)
{
    if (w->format->check == NULL)
        return QMOE_OK;
    w->checked = qmi_calloc(
        (size_t)w->n_mats, sizeof *w->checked, "marks of matrices", err);
    return w->checked != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static qmoe_status fetch_view(
    const void *checkpoint, const void *data, uint64_t n_bytes, qmi_error *err)
{
    return qmi_checkpoint_fetch_view(checkpoint, data, n_bytes, err);
}

/* Data that their file holds in another order: made readable on first use
 * (weight.h). */
static void fetch_first(const qmoe_model *model, qmi_weight *w)
{
    w->fetch = fetch_view;
    w->owner = model->checkpoint;
}

/* ---- expert stacks ---- */

/* `cuts`: the experts' matrices; NULL: each is a tensor of the checkpoint. */
static qmoe_status add_scattered(
    qmoe_model *model, qmi_weight *w, const qmi_tensor *cuts, qmi_error *err)
{
    w->mats =
        qmi_calloc((size_t)w->n_mats, sizeof *w->mats, "an expert list", err);
    if (w->mats == NULL)
        return QMOE_E_NOMEM;
    /* Every expert is looked up now, so that a missing one shows when the model
     * is opened. */
    for (int64_t e = 0; e < w->n_mats; e++) {
        char name[512];
        const qmi_tensor *t = cuts != NULL ? &cuts[e] : NULL;
        qmi_expert_tensor(name, sizeof name, w->source, e);
        if (t == NULL)
            QMI_TRY(qmi_checkpoint_require(model->checkpoint, &t, name, err));
        QMI_TRY(check_matrix(model, t, w->n_rows, w->n_cols, err));
        const qmi_format *format = qmi_format_dense(t->dtype);
        /* One format per stack: kernels take no mixture. */
        if (e != 0 && format != w->format)
            return qmi_tensor_wrong(
                model->checkpoint, t, "the dtype of expert 0", err);
        w->format = format;
        w->mats[e] = t->data;
        if (t->is_view)
            fetch_first(model, w);
        w->parts[0].n_bytes += t->n_bytes;
    }
    return make_marks(w, err);
}

static qmoe_status add_fused(qmoe_model *model, qmi_weight *w,
    const qmi_expert_names *names, qmi_error *err)
{
    char name[512];
    const qmi_cut cut = {
        w->n_rows, w->n_cols, names->row, names->is_transposed};
    /* Which of the two the model was trained to, nobody can tell. */
    qmi_expert_tensor(name, sizeof name, w->source, 0);
    if (qmi_checkpoint_find(model->checkpoint, name) != NULL)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: there are tensors '%s' and '%s': experts must be stored once",
            qmi_checkpoint_directory(model->checkpoint), names->fused->name,
            name);
    qmi_tensor *cuts =
        qmi_calloc((size_t)w->n_mats, sizeof *cuts, "an expert list", err);
    if (cuts == NULL)
        return QMOE_E_NOMEM;
    w->fused = names->fused->name;
    qmoe_status status =
        qmi_checkpoint_cut(model->checkpoint, cuts, names->fused, &cut, err);
    if (status == QMOE_OK)
        status = add_scattered(model, w, cuts, err);
    qmi_free(cuts);
    return status;
}

/* ---- compressed weights ---- */

/* Of quantization_config.tensors; NULL: there is none. */
static const cJSON *entry_of(const qmoe_model *model, const char *name)
{
    const cJSON *tensors =
        cJSON_GetObjectItemCaseSensitive(model->quantization, "tensors");
    return cJSON_GetObjectItemCaseSensitive(tensors, name);
}

/* The weight's entry of quantization_config.tensors: its format; shape must be
 * what the model needs. */
static qmoe_status entry_format(
    const qmoe_model *model, qmi_weight *w, qmi_error *err)
{
    const char *file = qmi_checkpoint_config_path(model->checkpoint);
    const cJSON *entry = entry_of(model, w->name);
    const char *name = NULL;
    if (!cJSON_IsObject(entry))
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: quantization_config.tensors has no '%s'", file, w->name);
    QMI_TRY(qmi_json_string(&name, entry, "format", "", file, err));
    w->format = qmi_format_find(name);
    /* A dense name is no format of a compressed weight. */
    if (w->format == NULL || w->format->dense)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "%s: '%s' has the unknown format '%s'", file, w->name, name);
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    const int64_t expected[3] = {w->n_mats, w->n_rows, w->n_cols};
    for (int i = 0; i < 3; i++) {
        uint64_t value = 0;
        /* Read as u64: a JSON number may be negative, fractional or huge. */
        if (!qmi_json_to_u64(&value, cJSON_GetArrayItem(shape, i)) ||
            value != (uint64_t)expected[i] || cJSON_GetArraySize(shape) != 3)
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: shape of '%s' is not [%lld, %lld, %lld]", file, w->name,
                (long long)w->n_mats, (long long)w->n_rows,
                (long long)w->n_cols);
    }
    return QMOE_OK;
}

/* ---- parameters (docs/format.md) ---- */

/* `*value` holds the default of the format and stays when the member is
 * absent. */
static qmoe_status read_number(
    const qmi_parameters *p, double *value, const char *key, qmi_error *err)
{
    return qmi_json_double(value, p->entry, key, *value, p->file, err);
}

static qmoe_status read_integer(const qmi_parameters *p, int64_t *value,
    const char *key, int64_t least, int64_t most, qmi_error *err)
{
    return qmi_json_int(
        value, p->entry, key, false, *value, least, most, p->file, err);
}

/* `w` is the last of the model's weights. */
static qmoe_status read_parameters(
    const qmoe_model *model, qmi_weight *w, qmi_error *err)
{
    /* `others` are the weights before this one: a dictionary may be shared with
     * them. */
    const qmi_parameters from = {
        .file = qmi_checkpoint_config_path(model->checkpoint),
        .entry = entry_of(model, w->name),
        .number = read_number,
        .integer = read_integer,
        .others = model->weights,
        .n_others = model->n_weights - 1,
    };
    if (w->format->configure == NULL)
        return QMOE_OK;
    return w->format->configure(w, &from, err);
}

static qmoe_status check_part(const qmoe_model *model, const qmi_weight *w,
    const qmi_part_spec *spec, const qmi_tensor *t, qmi_error *err)
{
    int64_t shape[3];
    char text[96], expected[160];
    int rank = spec->shape(shape, w->n_mats, w->n_rows, w->n_cols);
    bool same = t->dtype == spec->dtype && t->rank == rank;
    for (int i = 0; same && i < rank; i++)
        /* -1: any size; the format's own check compares it with the offsets. */
        same = shape[i] < 0 || t->shape[i] == shape[i];
    if (same)
        return QMOE_OK;
    snprintf(expected, sizeof expected, "%s %s", qmi_dtype_name(spec->dtype),
        qmi_shape_text(text, sizeof text, shape, rank));
    return qmi_tensor_wrong(model->checkpoint, t, expected, err);
}

static qmoe_status add_compressed(
    qmoe_model *model, qmi_weight *w, qmi_error *err)
{
    QMI_TRY(entry_format(model, w, err));
    QMI_TRY(read_parameters(model, w, err));
    for (int i = 0; i < w->format->n_parts; i++) {
        const qmi_part_spec *spec = &w->format->parts[i];
        const qmi_tensor *t = NULL;
        char name[512];
        snprintf(name, sizeof name, "%s.%s", w->name, spec->suffix);
        QMI_TRY(qmi_checkpoint_require(model->checkpoint, &t, name, err));
        QMI_TRY(check_part(model, w, spec, t, err));
        w->parts[i] = (qmi_part){t->data, t->n_bytes};
    }
    QMI_TRY(make_marks(w, err));
    qmoe_status status =
        w->format->open != NULL ? w->format->open(w, err) : QMOE_OK;
    /* The format knows the tensor, the directory is known here. */
    if (status != QMOE_OK)
        return qmi_error_prefix(
            err, status, "%s", qmi_checkpoint_directory(model->checkpoint));
    return QMOE_OK;
}

/* ---- matrices ---- */

bool qmi_model_may_compress(qmoe_role role, int64_t n_rows)
{
    switch (role) {
    case QMOE_ROLE_ATTENTION:
    case QMOE_ROLE_DENSE_FFN:
    case QMOE_ROLE_SHARED_FFN:
    case QMOE_ROLE_EMBEDDING:
    case QMOE_ROLE_HEAD:
        /* Biases and gates of one row decide much and take little. */
        return n_rows > 1;
    default:
        return false;
    }
}

bool qmi_model_has_matrix(const qmoe_model *model, const char *name)
{
    return qmi_checkpoint_find(model->checkpoint, name) != NULL ||
           entry_of(model, name) != NULL;
}

static qmoe_status add_plain(qmoe_model *model, qmi_weight *w, qmi_error *err)
{
    const qmi_tensor *t = NULL;
    QMI_TRY(qmi_checkpoint_require(model->checkpoint, &t, w->name, err));
    QMI_TRY(check_matrix(model, t, w->n_rows, w->n_cols, err));
    w->format = qmi_format_dense(t->dtype);
    w->parts[0] = (qmi_part){t->data, t->n_bytes};
    QMI_TRY(make_marks(w, err));
    /* Every run needs it; experts wait until they are chosen. */
    if (t->is_view)
        return qmi_checkpoint_fetch(
            model->checkpoint, t->data, t->n_bytes, err);
    return QMOE_OK;
}

qmoe_status qmi_model_add_matrix(qmoe_model *model, uint32_t *index,
    qmoe_role role, const char *name, int64_t n_rows, int64_t n_cols,
    qmi_error *err)
{
    qmi_weight *w = NULL;
    QMI_TRY(new_weight(model, &w, index, role, name, err));
    w->n_mats = 1;
    w->n_rows = n_rows;
    w->n_cols = n_cols;
    if (model->checkpoint == NULL)
        sketch_weight(model, w, 1, n_rows, n_cols);
    else if (qmi_model_may_compress(role, n_rows) &&
             entry_of(model, name) != NULL)
        return add_compressed(model, w, err);
    else
        return add_plain(model, w, err);
    return QMOE_OK;
}

/* ---- experts ---- */

qmoe_status qmi_model_add_experts(qmoe_model *model, uint32_t *index,
    const qmi_expert_names *names, int64_t n_experts, int64_t n_rows,
    int64_t n_cols, qmi_error *err)
{
    qmi_weight *w = NULL;
    QMI_TRY(new_weight(model, &w, index, QMOE_ROLE_EXPERTS, names->stack, err));
    w->source = qmi_strdup(names->source, err);
    if (w->source == NULL)
        return QMOE_E_NOMEM;
    w->n_mats = n_experts;
    w->n_rows = n_rows;
    w->n_cols = n_cols;
    if (model->checkpoint == NULL)
        sketch_weight(model, w, w->n_mats, n_rows, n_cols);
    else if (model->quantization != NULL)
        QMI_TRY(add_compressed(model, w, err));
    else if (names->fused != NULL)
        QMI_TRY(add_fused(model, w, names, err));
    else
        QMI_TRY(add_scattered(model, w, NULL, err));
    /* A word for people; every weight knows its own format. */
    if (model->expert_format[0] == '\0')
        model->expert_format = w->format->name;
    else if (strcmp(model->expert_format, w->format->name) != 0)
        model->expert_format = "mixed";
    return QMOE_OK;
}
