/* SPDX-License-Identifier: Apache-2.0
 * In: calibration texts of a model that predicts the next token.  Out: the ids
 * of all texts, cut into windows, which are the sequences, and the weight of
 * each token in the moments. */
#include "calibration.h"

#include "alloc.h"
#include "token_windows.h"

/* The borders of windows of so many ids; the last one may be shorter, but not a
 * single token, which has seen nothing. */
static qmoe_status cut(
    qmi_token_set *set, int64_t n, int window, qmi_error *err)
{
    const int64_t rest = n % window;
    set->n_tokens = rest == 1 && n > 1 ? n - 1 : n;
    set->n_sequences = (size_t)((set->n_tokens + window - 1) / window);
    set->longest = set->n_tokens < window ? set->n_tokens : window;
    set->begin = qmi_calloc(
        set->n_sequences + 1, sizeof *set->begin, "calibration tokens", err);
    if (set->begin == NULL)
        return QMOE_E_NOMEM;
    for (size_t s = 0; s < set->n_sequences; s++)
        set->begin[s] = (int64_t)s * window;
    set->begin[set->n_sequences] = set->n_tokens;
    return QMOE_OK;
}

/* Tokens that are marks, not text: special ones, and those that end a text. */
static bool is_frame(const qmoe_model *m, int32_t id)
{
    uint8_t byte;
    return qmi_tokenizer_kind(m->tokenizer, id, &byte) == QMI_TOKEN_CONTROL ||
           qmi_shape_is_end(&m->shape, id);
}

/* The first token of a window attends to itself alone, and many models put
 * values there that no other token has; frame tokens are alike. */
static qmoe_status weigh(qmi_token_set *set, const qmoe_model *model,
    float frame_weight, qmi_error *err)
{
    set->weight = qmi_calloc(
        (size_t)set->n_tokens, sizeof *set->weight, "calibration tokens", err);
    if (set->weight == NULL)
        return QMOE_E_NOMEM;
    for (int64_t t = 0; t < set->n_tokens; t++)
        set->weight[t] = is_frame(model, set->ids[t]) ? frame_weight : 1;
    for (size_t s = 0; s < set->n_sequences; s++)
        set->weight[set->begin[s]] = frame_weight;
    return QMOE_OK;
}

qmoe_status qmi_calibration_windows(qmi_calibration *c, const qmoe_model *model,
    const qmi_calibration_options *options, qmi_error *err)
{
    qmi_token_set *set = &c->sets[QMI_DECODE];
    qmi_token_text text = {0};
    /* So many that no list holds them are all. */
    uint64_t max_ids = 0;
    if (!qmi_mul_u64(options->max_samples, (uint64_t)options->window, &max_ids))
        max_ids = 0;
    const qmi_token_text_options how = {.paths = options->paths,
        .n_paths = options->n_paths,
        .documents = true,
        .end_id = model->shape.end_ids[0],
        .max_ids = max_ids};
    qmoe_status status =
        qmi_token_text_read(&text, model->tokenizer, &how, err);
    if (status != QMOE_OK) {
        qmi_token_text_free(&text);
        return status;
    }
    /* It was read up to the end of a document. */
    const uint64_t n =
        how.max_ids != 0 && text.n > how.max_ids ? how.max_ids : text.n;
    set->ids = text.ids;
    if (n < 2)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: no text of at least 2 tokens to calibrate with",
            options->paths[0]);
    QMI_TRY(cut(set, (int64_t)n, options->window, err));
    return weigh(set, model, (float)options->frame_weight, err);
}
