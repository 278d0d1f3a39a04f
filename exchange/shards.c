/* SPDX-License-Identifier: Apache-2.0
 * In: a list of tensors and somebody who writes their data.  Out: shards and
 * the index that names the shard of each.  The list is cut first, since the
 * name of a shard holds their number.  Tensors of a shard are neighbours in the
 * list; one larger than a shard gets one of its own. */
#include "shards.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

/* 5 GB (docs/publish.md, section 2). */
static const uint64_t default_bytes = UINT64_C(5000000000);

typedef struct sharder {
    const qmi_shard_list *list;
    qmi_output *output;
    qmi_shard_report *report;
    size_t n_shards;
    cJSON *index, *map;
    uint64_t n_bytes; /* of data */
    qmi_error *err;
} sharder;

/* Shapes are those of tensors in memory or in files, so nothing overflows. */
static uint64_t data_bytes(const qmi_shard_tensor *t)
{
    uint64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= (uint64_t)t->shape[i];
    return n * qmi_dtype_bits(t->dtype) / 8;
}

/* The end of the shard that begins at `first`; *n_bytes of data. */
static size_t shard_end(const sharder *s, size_t first, uint64_t *n_bytes)
{
    const uint64_t limit =
        s->list->shard_bytes != 0 ? s->list->shard_bytes : default_bytes;
    size_t last = first;
    *n_bytes = 0;
    for (; last < s->list->n; last++) {
        qmi_shard_tensor t;
        s->list->describe(s->list->user, last, &t);
        const uint64_t more = data_bytes(&t);
        /* An empty shard takes a tensor of any size. */
        if (*n_bytes != 0 && *n_bytes + more > limit)
            break;
        *n_bytes += more;
    }
    return last;
}

static qmoe_status declare(
    sharder *s, size_t i, qmi_st_writer *writer, const char *file)
{
    qmi_shard_tensor t;
    s->list->describe(s->list->user, i, &t);
    QMI_TRY(qmi_st_writer_declare(
        writer, t.name, t.dtype, t.shape, t.rank, s->err));
    if (cJSON_AddStringToObject(s->map, t.name, file) == NULL)
        return qmi_fail(s->err, QMOE_E_NOMEM, "out of memory: the index");
    return QMOE_OK;
}

static qmoe_status fill_shard(sharder *s, size_t first, size_t last,
    qmi_st_writer *writer, const char *file)
{
    uint64_t hash = 0, n_bytes = 0;
    /* What transformers asks of a file before it reads it. */
    QMI_TRY(qmi_st_writer_metadata(writer, "format", "pt", s->err));
    for (size_t i = first; i < last; i++)
        QMI_TRY(declare(s, i, writer, file));
    QMI_TRY(s->list->write(s->list->user, first, last, writer));
    QMI_TRY(qmi_st_writer_finish(writer, &hash, &n_bytes, s->err));
    s->report->n_bytes += n_bytes;
    s->report->n_files++;
    return QMOE_OK;
}

static qmoe_status write_shard(
    sharder *s, size_t number, size_t first, size_t last)
{
    char name[64];
    qmi_new_file file;
    qmi_st_writer *writer = NULL;
    snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", number,
        s->n_shards);
    QMI_TRY(qmi_output_create(s->output, &file, name, s->err));
    qmoe_status status = qmi_st_writer_create(&writer, &file, s->err);
    if (status == QMOE_OK)
        status = fill_shard(s, first, last, writer, name);
    qmi_st_writer_destroy(writer);
    return status;
}

static qmoe_status write_shards(sharder *s)
{
    uint64_t n_bytes = 0;
    size_t number = 0;
    for (size_t at = 0; at < s->list->n; at = shard_end(s, at, &n_bytes))
        s->n_shards++;
    for (size_t at = 0; at < s->list->n;) {
        const size_t last = shard_end(s, at, &n_bytes);
        QMI_TRY(write_shard(s, ++number, at, last));
        s->n_bytes += n_bytes;
        at = last;
    }
    return QMOE_OK;
}

/* total_size is what loaders of Hugging Face expect; it counts data without
 * headers. */
static qmoe_status write_index(sharder *s)
{
    cJSON *metadata = cJSON_AddObjectToObject(s->index, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)s->n_bytes);
    char *text = cJSON_Print(s->index);
    if (metadata == NULL || text == NULL) {
        cJSON_free(text);
        return qmi_fail(s->err, QMOE_E_NOMEM, "out of memory: the index");
    }
    qmoe_status status = qmi_output_write(
        s->output, "model.safetensors.index.json", text, strlen(text), s->err);
    cJSON_free(text);
    return status;
}

qmoe_status qmi_shards_write(const qmi_shard_list *list, qmi_output *output,
    qmi_shard_report *report, qmi_error *err)
{
    sharder s = {.list = list, .output = output, .report = report, .err = err};
    *report = (qmi_shard_report){0};
    s.index = cJSON_CreateObject();
    s.map = cJSON_AddObjectToObject(s.index, "weight_map");
    qmoe_status status =
        s.map != NULL ? QMOE_OK
                      : qmi_fail(err, QMOE_E_NOMEM, "out of memory: the index");
    if (status == QMOE_OK)
        status = write_shards(&s);
    if (status == QMOE_OK)
        status = write_index(&s);
    cJSON_Delete(s.index);
    return status;
}
