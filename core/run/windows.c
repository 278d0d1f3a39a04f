/* SPDX-License-Identifier: Apache-2.0
 * In: texts, and how they are to be cut.  Out: windows of equal length that
 * know nothing of each other; what is left at the end of the texts is
 * dropped. */
#include "windows.h"

#include <math.h>
#include <string.h>

enum { GPTQ_LENGTH = 2048, LLAMA_CPP_LENGTH = 512, LEAST_LENGTH = 2 };

qmoe_status qmi_windows_check_texts(
    const qmoe_model *model, const qmoe_text_options *o, qmi_error *err)
{
    QMI_TRY(qmi_model_need_tokenizer(model, err));
    if (o->n_text_paths == 0 || o->text_paths == NULL)
        return qmi_fail(err, QMOE_E_INVALID, "no text to evaluate");
    for (size_t i = 0; i < o->n_text_paths; i++)
        if (o->text_paths[i] == NULL)
            return qmi_fail(err, QMOE_E_INVALID, "text %zu is NULL", i);
    return QMOE_OK;
}

static qmoe_status check(
    const qmoe_model *model, const qmoe_text_options *o, qmi_error *err)
{
    QMI_TRY(qmi_model_need_objective(model, QMI_NEXT_TOKEN, err));
    QMI_TRY(qmi_windows_check_texts(model, o, err));
    if (o->n_context != 0 &&
        (o->n_context < LEAST_LENGTH || o->n_context > INT32_MAX / 2))
        return qmi_fail(err, QMOE_E_INVALID,
            "windows of %d tokens: at least %d are needed", o->n_context,
            LEAST_LENGTH);
    return QMOE_OK;
}

qmoe_status qmi_windows_read(qmi_windows *out, const qmoe_model *model,
    const qmoe_text_options *options, qmi_error *err)
{
    const qmoe_text_options *o = options;
    *out = (qmi_windows){.half = o->second_half, .begin_id = -1};
    QMI_TRY(check(model, o, err));
    out->length = o->n_context;
    if (out->length == 0)
        out->length = o->second_half ? LLAMA_CPP_LENGTH : GPTQ_LENGTH;
    const qmi_token_text_options reading = {
        .paths = o->text_paths,
        .n_paths = o->n_text_paths,
        .documents = o->documents,
        .end_id = model->shape.end_ids[0],
        .max_ids = o->max_windows * (uint64_t)out->length,
    };
    QMI_TRY(qmi_token_text_read(&out->text, model->tokenizer, &reading, err));
    out->n = out->text.n / (size_t)out->length;
    if (out->n == 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: %zu tokens, but a window has %d", o->text_paths[0],
            out->text.n, (int)out->length);
    /* As llama.cpp: models whose texts begin with a token see it first. */
    if (out->half && out->text.begins)
        out->begin_id = out->text.ids[0];
    return QMOE_OK;
}

void qmi_windows_free(qmi_windows *windows)
{
    qmi_token_text_free(&windows->text);
}

void qmi_window_ids(int32_t *ids, const qmi_windows *windows, size_t w)
{
    const size_t length = (size_t)windows->length;
    memcpy(ids, windows->text.ids + w * length, length * sizeof *ids);
    if (windows->begin_id >= 0)
        ids[0] = windows->begin_id;
}

int32_t qmi_window_first_scored(const qmi_windows *windows)
{
    return windows->half ? windows->length / 2 : 0;
}

double qmi_cross_entropy(
    const float *logits, int64_t n, int32_t id, double *log_sum)
{
    double largest = -INFINITY, sum = 0;
    /* Less the largest logit: no exponential overflows, and the sum is at least
     * 1. */
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, logits[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(logits[i] - largest);
    *log_sum = log(sum) + largest;
    return *log_sum - logits[id];
}
