/* SPDX-License-Identifier: Apache-2.0
 * In: text files.  Out: their ids, back to back.  A text is tokenised as a
 * whole: windows are cut from ids, never from text. */
#include "token_windows.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "documents.h"
#include "json.h"
#include "map.h"

typedef struct reader {
    qmi_token_text *text;
    const qmi_tokenizer *tokenizer;
    const qmi_token_text_options *options;
    size_t capacity;
    qmi_error *err;
} reader;

static bool is_full(const reader *r)
{
    return r->options->max_ids != 0 && r->text->n >= r->options->max_ids;
}

static qmoe_status append(reader *r, const int32_t *ids, size_t n)
{
    qmi_token_text *t = r->text;
    if (r->capacity - t->n < n) {
        const size_t capacity = 2 * (t->n + n);
        int32_t *grown = qmi_regrow(
            t->ids, t->n, capacity, sizeof *ids, "the ids of a text", r->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        t->ids = grown;
        r->capacity = capacity;
    }
    if (n != 0)
        memcpy(t->ids + t->n, ids, n * sizeof *ids);
    t->n += n;
    return QMOE_OK;
}

/* Only the first text has a beginning: the rest goes on. */
static qmoe_status append_text(reader *r, const char *text, size_t n_bytes)
{
    const qmi_encode_options options = {.frame = r->text->n == 0};
    int32_t *ids;
    size_t n;
    QMI_TRY(qmi_tokenizer_encode(
        r->tokenizer, &ids, &n, text, n_bytes, &options, r->err));
    const int32_t eos = qmi_tokenizer_eos(r->tokenizer);
    /* What a tokenizer puts behind a text is none of it. */
    if (options.frame && n != 0 && eos >= 0 && ids[n - 1] == eos)
        n--;
    qmoe_status status = append(r, ids, n);
    qmi_free(ids);
    return status;
}

static qmoe_status read_documents(reader *r, const char *path)
{
    qmi_documents *documents;
    const char *text;
    size_t n_bytes;
    QMI_TRY(qmi_documents_open(&documents, path, r->err));
    qmoe_status status = QMOE_OK;
    while (status == QMOE_OK && !is_full(r)) {
        status = qmi_documents_next(documents, &text, &n_bytes, r->err);
        if (status != QMOE_OK || text == NULL)
            break;
        if (r->text->n != 0)
            status = append(r, &r->options->end_id, 1);
        if (status == QMOE_OK)
            status = append_text(r, text, n_bytes);
    }
    qmi_documents_close(documents);
    return status;
}

static qmoe_status read_whole(reader *r, const char *path)
{
    qmi_map map;
    QMI_TRY(qmi_map_open(&map, path, r->err));
    const char *text = map.data != NULL ? (const char *)map.data : "";
    const size_t n_valid = qmi_utf8_prefix(text, (size_t)map.n_bytes);
    qmoe_status status = QMOE_OK;
    if (n_valid != map.n_bytes)
        status = qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: not UTF-8 text from byte %zu on", path, n_valid);
    else
        status = append_text(r, text, (size_t)map.n_bytes);
    qmi_map_close(&map);
    return status;
}

qmoe_status qmi_token_text_read(qmi_token_text *out,
    const qmi_tokenizer *tokenizer, const qmi_token_text_options *options,
    qmi_error *err)
{
    reader r = {
        .text = out, .tokenizer = tokenizer, .options = options, .err = err};
    *out = (qmi_token_text){0};
    for (size_t i = 0; i < options->n_paths && !is_full(&r); i++)
        QMI_TRY(options->documents ? read_documents(&r, options->paths[i])
                                   : read_whole(&r, options->paths[i]));
    const int32_t bos = qmi_tokenizer_bos(tokenizer);
    out->begins = out->n != 0 && bos >= 0 && out->ids[0] == bos;
    if (options->max_ids != 0 && out->n > options->max_ids)
        out->n = (size_t)options->max_ids;
    return QMOE_OK;
}

void qmi_token_text_free(qmi_token_text *text)
{
    qmi_free(text->ids);
    *text = (qmi_token_text){0};
}
