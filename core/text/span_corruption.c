/* SPDX-License-Identifier: Apache-2.0
 * Span corruption of one document, as docs/evaluation.md sections 4 and 5
 * define it. */
#include "span_corruption.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"

/* The values of T5's pre-training objective (docs/evaluation.md). */
static const double NOISE_DENSITY = 0.15;
static const double MEAN_NOISE_SPAN = 3.0;

int32_t qmi_sentinel(const qmi_tokenizer *tokenizer, int k)
{
    char name[24];
    snprintf(name, sizeof name, "<extra_id_%d>", k);
    return qmi_tokenizer_id(tokenizer, name);
}

/* T5's ids fall from the first to the last. */
bool qmi_is_sentinel(const qmi_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id <= qmi_sentinel(tokenizer, 0) &&
           id >= qmi_sentinel(tokenizer, QMI_N_SENTINELS - 1);
}

static void span_counts(int32_t *n_noise, int32_t *n_spans, int32_t n_tokens)
{
    /* rint: halves to even in the default rounding mode, like NumPy's. */
    int32_t noise = (int32_t)rint((double)n_tokens * NOISE_DENSITY);
    if (noise < 1)
        /* At least one token stays, and at least one is noise. */
        noise = 1;
    if (noise > n_tokens - 1)
        noise = n_tokens - 1;
    int32_t spans = (int32_t)rint((double)noise / MEAN_NOISE_SPAN);
    *n_noise = noise;
    *n_spans = spans < 1 ? 1 : spans;
}

/* Splits `total` into n_parts positive parts at random.  `is_cut` is scratch
 * of total - 1 bytes. */
static void draw_composition(qmi_mt19937 *rng, int32_t *parts, int32_t n_parts,
    int32_t total, uint8_t *is_cut)
{
    /* Cuts lie between tokens: n_parts - 1 of them among total - 1 places. */
    int32_t n_places = total - 1;
    memset(is_cut, 0, (size_t)n_places);
    memset(is_cut, 1, (size_t)(n_parts - 1));
    qmi_mt19937_shuffle_bytes(rng, is_cut, (size_t)n_places);
    int32_t part = 0, start = 0;
    for (int32_t i = 0; i < n_places; i++) {
        if (is_cut[i] == 0)
            continue;
        parts[part++] = i + 1 - start;
        start = i + 1;
    }
    parts[part] = total - start;
}

void qmi_span_mask(qmi_mt19937 *rng, int32_t *noise_parts, int32_t *kept_parts,
    int32_t *n_spans, int32_t n_tokens)
{
    int32_t n_noise = 0;
    span_counts(&n_noise, n_spans, n_tokens);
    /* Scratch without an allocation: the array not yet written, then the
     * unused end of the one that is (4 * (n_tokens - n_spans) bytes). */
    draw_composition(
        rng, noise_parts, *n_spans, n_noise, (uint8_t *)kept_parts);
    draw_composition(rng, kept_parts, *n_spans, n_tokens - n_noise,
        (uint8_t *)(noise_parts + *n_spans));
}

static void write_sample(qmi_sample *out, const qmi_tokenizer *tokenizer,
    const int32_t *ids, const int32_t *noise_parts, const int32_t *kept_parts,
    int32_t n_spans, int32_t start_id, int32_t end_id)
{
    /* The arrays were sized by the same counts: one sentinel per span, start
     * and end. */
    int32_t *encoder = out->encoder_ids;
    int32_t *decoder = out->decoder_ids;
    *decoder++ = start_id;
    for (int32_t k = 0; k < n_spans; k++) {
        size_t n_kept = (size_t)kept_parts[k];
        size_t n_noise = (size_t)noise_parts[k];
        int32_t sentinel = qmi_sentinel(tokenizer, k);
        memcpy(encoder, ids, n_kept * sizeof *ids);
        encoder += n_kept;
        *encoder++ = sentinel;
        *decoder++ = sentinel;
        memcpy(decoder, ids + n_kept, n_noise * sizeof *ids);
        decoder += n_noise;
        ids += n_kept + n_noise;
    }
    *encoder++ = end_id;
    *decoder++ = qmi_sentinel(tokenizer, n_spans);
    out->n_encoder = (size_t)(encoder - out->encoder_ids);
    out->n_decoder = (size_t)(decoder - out->decoder_ids);
}

qmoe_status qmi_sample_make(qmi_sample *out, qmi_mt19937 *rng,
    const qmi_tokenizer *tokenizer, const int32_t *ids, size_t n_tokens,
    int32_t start_id, int32_t end_id, qmi_error *err)
{
    memset(out, 0, sizeof *out);
    if (n_tokens < 2 || n_tokens > INT32_MAX)
        return qmi_fail(err, QMOE_E_INVALID,
            "a document of %zu tokens cannot be corrupted: at least 2 needed",
            n_tokens);
    int32_t n_noise = 0, n_spans = 0;
    /* Counted once more by qmi_span_mask: sizes must be known before arrays
     * are. */
    span_counts(&n_noise, &n_spans, (int32_t)n_tokens);
    if (n_spans + 1 > QMI_N_SENTINELS)
        return qmi_fail(err, QMOE_E_INVALID,
            "a document of %zu tokens needs %d sentinels, there are %d",
            n_tokens, (int)n_spans + 1, (int)QMI_N_SENTINELS);

    qmoe_status status = QMOE_E_NOMEM;
    int32_t *noise_parts = qmi_calloc(
        2 * n_tokens, sizeof *noise_parts, "the span lengths of a sample", err);
    /* A sentinel per span, and at most two more: the end in the encoder, start
     * and last sentinel in the decoder. */
    size_t n_added = (size_t)n_spans + 2;
    out->encoder_ids = qmi_calloc(n_tokens - (size_t)n_noise + n_added,
        sizeof *out->encoder_ids, "a sample's encoder ids", err);
    out->decoder_ids = qmi_calloc((size_t)n_noise + n_added,
        sizeof *out->decoder_ids, "a sample's decoder ids", err);
    if (noise_parts == NULL || out->encoder_ids == NULL ||
        out->decoder_ids == NULL)
        goto cleanup;
    int32_t *kept_parts = noise_parts + n_tokens;
    qmi_span_mask(rng, noise_parts, kept_parts, &n_spans, (int32_t)n_tokens);
    write_sample(out, tokenizer, ids, noise_parts, kept_parts, n_spans,
        start_id, end_id);
    status = QMOE_OK;

cleanup:
    qmi_free(noise_parts);
    if (status != QMOE_OK)
        qmi_sample_free(out);
    return status;
}

void qmi_sample_free(qmi_sample *sample)
{
    if (sample == NULL)
        return;
    qmi_free(sample->encoder_ids);
    qmi_free(sample->decoder_ids);
    memset(sample, 0, sizeof *sample);
}
