/* SPDX-License-Identifier: Apache-2.0
 * In: the path of a GGUF file.  Out: its parts as one model, with values by key
 * and tensors by name.  What is asked for is checked here: kind, range, text.
 * A tensor that nobody used is found at the end, so nothing of a model is left
 * out in silence. */
#include "gguf_source.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "json.h"

enum { MAX_PARTS = 10000, MAX_KEY = 256 };

/* ---- parts ---- */

static qmoe_status open_part(qmi_gguf_source *s, const char *path)
{
    qmi_tensor_file *file = NULL;
    QMI_TRY(qmi_gguf_open(&file, path, s->err));
    qmi_tensor_file_set_index(file, (uint32_t)s->n_files);
    s->is_used[s->n_files] = qmi_calloc(
        qmi_tensor_file_count(file), sizeof **s->is_used, "a list", s->err);
    s->files[s->n_files++] = file;
    return s->is_used[s->n_files - 1] != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* Room for n parts, of which the first may be open. */
static qmoe_status reserve(qmi_gguf_source *s, size_t n)
{
    void *files = qmi_regrow(s->files, s->n_files, n, sizeof *s->files,
        "the parts of a model", s->err);
    if (files == NULL)
        return QMOE_E_NOMEM;
    s->files = files;
    void *used = qmi_regrow(s->is_used, s->n_files, n, sizeof *s->is_used,
        "the parts of a model", s->err);
    if (used == NULL)
        return QMOE_E_NOMEM;
    s->is_used = used;
    return QMOE_OK;
}

/* What part i says of itself must be what its name says. */
static qmoe_status check_part(
    const qmi_gguf_source *s, size_t i, int64_t n_parts)
{
    int64_t number = -1, count = -1;
    const qmi_gguf_value *no = qmi_gguf_find(s->files[i], "split.no");
    const qmi_gguf_value *of = qmi_gguf_find(s->files[i], "split.count");
    if (no == NULL || of == NULL || no->is_array || of->is_array ||
        !qmi_gguf_int(no, 0, &number) || !qmi_gguf_int(of, 0, &count) ||
        number != (int64_t)i || count != n_parts)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: split.no and split.count are not %zu and %lld, as its name "
            "says",
            qmi_tensor_file_path(s->files[i]), i, (long long)n_parts);
    return QMOE_OK;
}

static qmoe_status open_others(
    qmi_gguf_source *s, const char *path, int64_t n_parts)
{
    char tail[32];
    int64_t total = 0;
    size_t n = strlen(path);
    size_t n_tail = (size_t)snprintf(
        tail, sizeof tail, "-00001-of-%05d.gguf", (int)n_parts);
    if (n < n_tail || strcmp(path + n - n_tail, tail) != 0)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: one of %lld parts; give the first, whose name ends in %s",
            path, (long long)n_parts, tail);
    QMI_TRY(reserve(s, (size_t)n_parts));
    QMI_TRY(check_part(s, 0, n_parts));
    char *other = qmi_strdup(path, s->err);
    qmoe_status status = other != NULL ? QMOE_OK : QMOE_E_NOMEM;
    for (int64_t i = 1; status == QMOE_OK && i < n_parts; i++) {
        snprintf(other + n - n_tail, n_tail + 1, "-%05d-of-%05d.gguf",
            (int)i + 1, (int)n_parts);
        status = open_part(s, other);
        if (status == QMOE_OK)
            status = check_part(s, (size_t)i, n_parts);
    }
    qmi_free(other);
    QMI_TRY(status);
    for (size_t i = 0; i < s->n_files; i++)
        total += (int64_t)qmi_tensor_file_count(s->files[i]);
    int64_t announced = total;
    QMI_TRY(qmi_gguf_source_int(
        s, "split.tensors.count", 0, INT64_MAX, &announced));
    if (announced != total)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: split.tensors.count is %lld, but the parts hold %lld tensors",
            path, (long long)announced, (long long)total);
    return QMOE_OK;
}

/* A name in two parts would be found in the first alone. */
static qmoe_status check_names(const qmi_gguf_source *s)
{
    for (size_t i = 1; i < s->n_files; i++)
        for (size_t k = 0; k < qmi_tensor_file_count(s->files[i]); k++) {
            const qmi_tensor *t = qmi_tensor_file_at(s->files[i], k);
            const qmi_tensor *first = qmi_gguf_source_find(s, t->name);
            if (first != t)
                return qmi_fail(s->err, QMOE_E_FORMAT,
                    "%s: tensor '%.200s' is in another part, too",
                    qmi_tensor_file_path(s->files[i]), t->name);
        }
    return QMOE_OK;
}

qmoe_status qmi_gguf_source_open(
    qmi_gguf_source *out, const char *path, qmi_error *err)
{
    int64_t n_parts = 1;
    *out = (qmi_gguf_source){.err = err};
    QMI_TRY(reserve(out, 1));
    QMI_TRY(open_part(out, path));
    QMI_TRY(qmi_gguf_source_int(out, "split.count", 0, MAX_PARTS, &n_parts));
    if (n_parts > 1) {
        QMI_TRY(open_others(out, path, n_parts));
        QMI_TRY(check_names(out));
    }
    QMI_TRY(qmi_gguf_source_text(out, "general.architecture", &out->arch));
    if (out->arch == NULL || strlen(out->arch) > MAX_KEY / 2)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: key 'general.architecture' is missing or long", path);
    return QMOE_OK;
}

void qmi_gguf_source_close(qmi_gguf_source *source)
{
    for (size_t i = 0; i < source->n_files; i++) {
        qmi_free(source->is_used[i]);
        qmi_tensor_file_close(source->files[i]);
    }
    qmi_free(source->is_used);
    qmi_free(source->files);
    qmi_free(source->arch);
    *source = (qmi_gguf_source){0};
}

const char *qmi_gguf_source_path(const qmi_gguf_source *source)
{
    return qmi_tensor_file_path(source->files[0]);
}

/* ---- tensors ---- */

const qmi_tensor *qmi_gguf_source_find(
    const qmi_gguf_source *source, const char *name)
{
    for (size_t i = 0; i < source->n_files; i++) {
        const qmi_tensor *t = qmi_tensor_file_find(source->files[i], name);
        if (t != NULL)
            return t;
    }
    return NULL;
}

void qmi_gguf_source_use(qmi_gguf_source *source, const qmi_tensor *tensor)
{
    const qmi_tensor *first =
        qmi_tensor_file_at(source->files[tensor->file], 0);
    source->is_used[tensor->file][tensor - first] = true;
}

qmoe_status qmi_gguf_source_check_used(const qmi_gguf_source *source)
{
    for (size_t i = 0; i < source->n_files; i++)
        for (size_t k = 0; k < qmi_tensor_file_count(source->files[i]); k++)
            if (!source->is_used[i][k])
                return qmi_fail(source->err, QMOE_E_UNSUPPORTED,
                    "%s: tensor '%.200s' has no place in a model of "
                    "architecture '%s'",
                    qmi_tensor_file_path(source->files[i]),
                    qmi_tensor_file_at(source->files[i], k)->name,
                    source->arch);
    return QMOE_OK;
}

void qmi_gguf_source_shape(const qmi_gguf_source *source,
    const qmi_tensor *tensor, int64_t shape[QMI_MAX_RANK])
{
    const qmi_gguf_type *type =
        qmi_gguf_type_of(source->files[tensor->file], tensor);
    memcpy(shape, tensor->shape, sizeof tensor->shape);
    if (type->decode != NULL)
        shape[tensor->rank - 1] =
            shape[tensor->rank - 1] / type->n_bytes * type->n_elements;
}

/* ---- values ---- */

/* The key with the name of the architecture in place of '*'. */
static void full_key(
    char out[MAX_KEY], const qmi_gguf_source *source, const char *key)
{
    const bool of_arch = key[0] == '*';
    snprintf(out, MAX_KEY, "%s%s", of_arch ? source->arch : "",
        of_arch ? key + 1 : key);
}

const qmi_gguf_value *qmi_gguf_source_value(
    const qmi_gguf_source *source, const char *key)
{
    char full[MAX_KEY];
    full_key(full, source, key);
    return qmi_gguf_find(source->files[0], full);
}

static qmoe_status fail_key(const qmi_gguf_source *source, qmoe_status status,
    const char *key, const char *rule)
{
    char full[MAX_KEY];
    full_key(full, source, key);
    return qmi_fail(source->err, status, "%s: key '%s' %s",
        qmi_gguf_source_path(source), full, rule);
}

qmoe_status qmi_gguf_source_int(const qmi_gguf_source *source, const char *key,
    int64_t low, int64_t high, int64_t *out)
{
    const qmi_gguf_value *v = qmi_gguf_source_value(source, key);
    int64_t first = 0, other = 0;
    if (v == NULL)
        return QMOE_OK;
    if (v->n == 0 || !qmi_gguf_int(v, 0, &first))
        return fail_key(source, QMOE_E_FORMAT, key, "is no integer");
    for (uint64_t i = 1; i < v->n; i++)
        if (!qmi_gguf_int(v, i, &other) || other != first)
            return fail_key(source, QMOE_E_UNSUPPORTED, key,
                "differs between blocks, which is not supported");
    if (first < low || first > high)
        return fail_key(source, QMOE_E_FORMAT, key, "is out of range");
    *out = first;
    return QMOE_OK;
}

qmoe_status qmi_gguf_source_require_int(const qmi_gguf_source *source,
    const char *key, int64_t low, int64_t high, int64_t *out)
{
    if (qmi_gguf_source_value(source, key) == NULL)
        return fail_key(source, QMOE_E_FORMAT, key, "is missing");
    return qmi_gguf_source_int(source, key, low, high, out);
}

/* 1e-05 and not 9.99999974737875e-06: what was meant when it was stored. */
static double shortest(double value)
{
    char text[40];
    const float single = (float)value;
    for (int digits = 6; digits < 10; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == single)
            return strtod(text, NULL);
    }
    return value;
}

qmoe_status qmi_gguf_source_real(
    const qmi_gguf_source *source, const char *key, double *out)
{
    const qmi_gguf_value *v = qmi_gguf_source_value(source, key);
    double value = 0;
    if (v == NULL)
        return QMOE_OK;
    if (v->is_array || !qmi_gguf_real(v, 0, &value) || !isfinite(value))
        return fail_key(source, QMOE_E_FORMAT, key, "is no finite number");
    *out = v->kind == QMI_GGUF_F32 ? shortest(value) : value;
    return QMOE_OK;
}

qmoe_status qmi_gguf_source_bool(
    const qmi_gguf_source *source, const char *key, bool *out)
{
    const qmi_gguf_value *v = qmi_gguf_source_value(source, key);
    if (v != NULL && (v->is_array || !qmi_gguf_bool(v, 0, out)))
        return fail_key(source, QMOE_E_FORMAT, key, "is no truth value");
    return QMOE_OK;
}

qmoe_status qmi_gguf_source_copy(const qmi_gguf_source *source,
    const char *what, qmi_gguf_text text, char **out)
{
    *out = NULL;
    if (!qmi_utf8_valid(text.bytes, (size_t)text.n) ||
        memchr(text.bytes, '\0', (size_t)text.n) != NULL)
        return qmi_fail(source->err, QMOE_E_FORMAT,
            "%s: %s is not UTF-8 without NUL", qmi_gguf_source_path(source),
            what);
    *out = qmi_calloc((size_t)text.n + 1, 1, what, source->err);
    if (*out == NULL)
        return QMOE_E_NOMEM;
    memcpy(*out, text.bytes, (size_t)text.n);
    return QMOE_OK;
}

qmoe_status qmi_gguf_source_text(
    const qmi_gguf_source *source, const char *key, char **out)
{
    char what[MAX_KEY + 8];
    const qmi_gguf_value *v = qmi_gguf_source_value(source, key);
    *out = NULL;
    if (v == NULL)
        return QMOE_OK;
    if (v->is_array || v->kind != QMI_GGUF_STRING)
        return fail_key(source, QMOE_E_FORMAT, key, "is no text");
    const uint8_t *at = v->data;
    snprintf(what, sizeof what, "key '%s'", v->key);
    return qmi_gguf_source_copy(source, what, qmi_gguf_next_text(&at), out);
}

qmoe_status qmi_gguf_source_array(
    const qmi_gguf_source *source, const char *key, const qmi_gguf_value **out)
{
    *out = qmi_gguf_source_value(source, key);
    if (*out != NULL && !(*out)->is_array)
        return fail_key(source, QMOE_E_FORMAT, key, "is no array");
    return QMOE_OK;
}
