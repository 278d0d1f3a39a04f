/* SPDX-License-Identifier: Apache-2.0
 * In: text files, a tokenizer, a seed.  Out: span-corrupted samples, in the
 * order of files and documents.  The random numbers are drawn only for
 * documents that are used, so the same files and seed give the same samples,
 * however many are asked for. */
#include "samples.h"

#include "alloc.h"
#include "cancel.h"
#include "documents.h"

struct qmi_samples {
    const qmi_tokenizer *tokenizer;
    qmi_samples_options options;
    size_t next_path;
    qmi_documents *documents; /* of the current file; NULL between files */
    qmi_mt19937 rng;
    uint64_t n_skipped;
};

qmoe_status qmi_samples_open(qmi_samples **out, const qmi_tokenizer *tokenizer,
    const qmi_samples_options *options, qmi_error *err)
{
    *out = NULL;
    qmi_samples *s = qmi_calloc(1, sizeof *s, "a sample stream", err);
    if (s == NULL)
        return QMOE_E_NOMEM;
    s->tokenizer = tokenizer;
    s->options = *options;
    qmi_mt19937_seed(&s->rng, options->seed);
    *out = s;
    return QMOE_OK;
}

void qmi_samples_close(qmi_samples *samples)
{
    if (samples == NULL)
        return;
    qmi_documents_close(samples->documents);
    qmi_free(samples);
}

size_t qmi_samples_path(const qmi_samples *samples)
{
    /* Valid once a document came from it. */
    return samples->next_path - 1;
}

uint64_t qmi_samples_skipped(const qmi_samples *samples)
{
    return samples->n_skipped;
}

/* The next document of all files; *text NULL at the end. */
static qmoe_status next_document(
    qmi_samples *s, const char **text, size_t *n_bytes, qmi_error *err)
{
    *text = NULL;
    /* One file is open at a time. */
    for (;;) {
        if (s->documents != NULL) {
            QMI_TRY(qmi_documents_next(s->documents, text, n_bytes, err));
            if (*text != NULL)
                return QMOE_OK;
            qmi_documents_close(s->documents);
            s->documents = NULL;
        }
        if (s->next_path == s->options.n_paths)
            return QMOE_OK;
        QMI_TRY(qmi_documents_open(
            &s->documents, s->options.paths[s->next_path++], err));
    }
}

/* Tokens of a document with the end token; NULL when it is to be skipped. */
static qmoe_status tokenize(qmi_samples *s, int32_t **ids, size_t *n,
    const char *text, size_t n_bytes, qmi_error *err)
{
    int32_t *plain = NULL;
    *ids = NULL;
    QMI_TRY(qmi_tokenizer_encode(
        s->tokenizer, &plain, n, text, n_bytes, NULL, err));
    /* The end token counts, too.  Skipped documents are counted, for a
     * message. */
    if (*n < 1 || *n + 1 > QMI_MAX_DOCUMENT_TOKENS) {
        qmi_free(plain);
        s->n_skipped++;
        return QMOE_OK;
    }
    *ids = qmi_regrow(plain, *n, *n + 1, sizeof **ids, "a document", err);
    if (*ids == NULL) {
        qmi_free(plain);
        return QMOE_E_NOMEM;
    }
    (*ids)[(*n)++] = s->options.end_id;
    return QMOE_OK;
}

qmoe_status qmi_samples_next(
    qmi_samples *samples, qmi_sample *out, qmi_error *err)
{
    *out = (qmi_sample){0};
    int32_t *ids = NULL;
    size_t n = 0;
    while (ids == NULL) {
        const char *text = NULL;
        size_t n_bytes = 0;
        /* Long stretches without a usable document must be able to end. */
        QMI_TRY(qmi_check_cancel(err));
        QMI_TRY(next_document(samples, &text, &n_bytes, err));
        if (text == NULL)
            return QMOE_OK;
        QMI_TRY(tokenize(samples, &ids, &n, text, n_bytes, err));
    }
    qmoe_status status = qmi_sample_make(out, &samples->rng, samples->tokenizer,
        ids, n, samples->options.start_id, samples->options.end_id, err);
    qmi_free(ids);
    return status;
}
