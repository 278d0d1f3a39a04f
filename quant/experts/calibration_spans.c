/* SPDX-License-Identifier: Apache-2.0
 * In: calibration texts of a span corruption model.  Out: the ids of all
 * samples, one list for the encoder and one for the decoder, and a mark per
 * token that counts.  Sample s is sequence s of both lists. */
#include "calibration.h"

#include <string.h>

#include "alloc.h"
#include "samples.h"

/* A token set while it grows. */
typedef struct growing {
    qmi_token_set *set;
    size_t id_capacity, sequence_capacity;
} growing;

/* Doubling: the number of samples is not known before the text ends. */
static size_t next_capacity(size_t capacity, size_t needed)
{
    size_t grown = capacity == 0 ? 1024 : 2 * capacity;
    return grown < needed ? needed : grown;
}

/* Room for n_ids more tokens and for one more sequence, which has two ends:
 * begin[n_sequences] is the end of the last one. */
static qmoe_status reserve(growing *g, size_t n_ids, qmi_error *err)
{
    static const char what[] = "calibration tokens";
    qmi_token_set *set = g->set;
    size_t n_tokens = (size_t)set->n_tokens;
    if (n_tokens + n_ids > g->id_capacity) {
        size_t capacity = next_capacity(g->id_capacity, n_tokens + n_ids);
        int32_t *ids =
            qmi_regrow(set->ids, n_tokens, capacity, sizeof *ids, what, err);
        if (ids == NULL)
            return QMOE_E_NOMEM;
        set->ids = ids;
        g->id_capacity = capacity;
    }
    if (set->n_sequences + 2 > g->sequence_capacity) {
        size_t capacity =
            next_capacity(g->sequence_capacity, set->n_sequences + 2);
        int64_t *begin = qmi_regrow(set->begin, set->n_sequences + 1, capacity,
            sizeof *begin, what, err);
        if (begin == NULL)
            return QMOE_E_NOMEM;
        set->begin = begin;
        g->sequence_capacity = capacity;
    }
    return QMOE_OK;
}

static qmoe_status append(
    growing *g, const int32_t *ids, size_t n, qmi_error *err)
{
    qmi_token_set *set = g->set;
    /* The first call finds begin[0] = 0 in the zeroed array. */
    QMI_TRY(reserve(g, n, err));
    memcpy(set->ids + set->n_tokens, ids, n * sizeof *ids);
    set->n_tokens += (int64_t)n;
    set->begin[++set->n_sequences] = set->n_tokens;
    if ((int64_t)n > set->longest)
        set->longest = (int64_t)n;
    return QMOE_OK;
}

/* Draws until there are enough samples or the text ends.  A failure between the
 * two sets leaves them unequal; the caller drops both. */
static qmoe_status draw(growing sets[QMI_N_PROGRAMS], qmi_samples *samples,
    uint64_t max_samples, qmi_error *err)
{
    /* 0: as many as the text gives. */
    while (
        max_samples == 0 || sets[QMI_ENCODE].set->n_sequences < max_samples) {
        qmi_sample sample;
        QMI_TRY(qmi_samples_next(samples, &sample, err));
        if (sample.encoder_ids == NULL)
            break;
        qmoe_status status = append(
            &sets[QMI_ENCODE], sample.encoder_ids, sample.n_encoder, err);
        if (status == QMOE_OK)
            status = append(
                &sets[QMI_DECODE], sample.decoder_ids, sample.n_decoder, err);
        qmi_sample_free(&sample);
        QMI_TRY(status);
    }
    return QMOE_OK;
}

/* Special-token masking (paper section 3.2): sentinels are marks of the
 * objective, not text. */
static qmoe_status mark_counted(
    qmi_calibration *c, const qmi_tokenizer *tokenizer, qmi_error *err)
{
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        qmi_token_set *set = &c->sets[p];
        set->weight = qmi_calloc((size_t)set->n_tokens, sizeof *set->weight,
            "calibration tokens", err);
        if (set->weight == NULL)
            return QMOE_E_NOMEM;
    }
    const qmi_token_set *encoder = &c->sets[QMI_ENCODE];
    for (int64_t t = 0; t < encoder->n_tokens; t++)
        encoder->weight[t] = !qmi_is_sentinel(tokenizer, encoder->ids[t]);
    const qmi_token_set *decoder = &c->sets[QMI_DECODE];
    /* The last position of a sequence predicts nothing, so it is not
     * counted. */
    for (size_t s = 0; s < decoder->n_sequences; s++)
        for (int64_t t = decoder->begin[s]; t + 1 < decoder->begin[s + 1]; t++)
            decoder->weight[t] =
                !qmi_is_sentinel(tokenizer, decoder->ids[t + 1]);
    return QMOE_OK;
}

qmoe_status qmi_calibration_spans(qmi_calibration *c, const qmoe_model *model,
    const qmi_calibration_options *options, qmi_error *err)
{
    const qmi_samples_options stream = {
        .paths = options->paths,
        .n_paths = options->n_paths,
        .seed = options->seed,
        .start_id = model->shape.start_id,
        .end_id = model->shape.end_ids[0],
    };
    qmi_samples *samples = NULL;
    growing sets[QMI_N_PROGRAMS] = {
        [QMI_ENCODE] = {.set = &c->sets[QMI_ENCODE]},
        [QMI_DECODE] = {.set = &c->sets[QMI_DECODE]}};
    QMI_TRY(qmi_samples_open(&samples, model->tokenizer, &stream, err));
    qmoe_status status = draw(sets, samples, options->max_samples, err);
    c->n_skipped = qmi_samples_skipped(samples);
    qmi_samples_close(samples);
    QMI_TRY(status);
    if (c->sets[QMI_ENCODE].n_sequences == 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: no document of 2 to %d tokens to calibrate with",
            options->paths[0], QMI_MAX_DOCUMENT_TOKENS);
    return mark_counted(c, model->tokenizer, err);
}
