/* SPDX-License-Identifier: Apache-2.0
 * Conversations as ids.  In: messages.  Out: the ids of what the model's
 * template makes of them.  The template is opened by the first call; bytes that
 * it took from messages stay text for the tokenizer. */
#include "alloc.h"
#include "model.h"

static qmoe_status encode(const qmoe_model *model, int32_t **ids, size_t *n,
    const qmi_jinja_text *text, qmi_error *err)
{
    /* The template puts what begins a text itself. */
    const qmi_encode_options options = {.literal = text->literal};
    return qmi_tokenizer_encode(
        model->tokenizer, ids, n, text->text, text->n_bytes, &options, err);
}

static qmoe_status render(qmoe_model *model, qmi_jinja_text *out,
    const qmoe_chat_message *messages, size_t n_messages,
    const qmoe_chat_options *options, qmi_error *err)
{
    const qmi_chat_options how = {
        .add_generation_prompt = options->add_generation_prompt,
        .variables = options->variables,
    };
    if (model->chat == NULL)
        QMI_TRY(qmi_chat_template_open(
            &model->chat, qmi_checkpoint_directory(model->checkpoint), err));
    qmi_chat_message *list =
        qmi_calloc(n_messages, sizeof *list, "messages", err);
    if (list == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n_messages; i++)
        list[i] = (qmi_chat_message){
            .role = messages[i].role, .content = messages[i].content};
    qmoe_status status =
        qmi_chat_render(model->chat, out, list, n_messages, &how, err);
    qmi_free(list);
    return status;
}

static qmoe_status tokenize(qmoe_model *model, int32_t *ids, size_t capacity,
    size_t *n, const qmoe_chat_message *messages, size_t n_messages,
    const qmoe_chat_options *options)
{
    qmi_error *err = &model->hooks->error;
    qmi_jinja_text text = {0};
    int32_t *all = NULL;
    for (size_t i = 0; i < n_messages; i++)
        if (messages[i].role == NULL || messages[i].content == NULL)
            return qmi_fail(
                err, QMOE_E_INVALID, "message %zu has no role or content", i);
    QMI_TRY(qmi_model_need_tokenizer(model, err));
    QMI_TRY(render(model, &text, messages, n_messages, options, err));
    qmoe_status status = encode(model, &all, n, &text, err);
    qmi_jinja_text_release(&text);
    QMI_TRY(status);
    /* *n is the full number, so that a caller can ask for the size first. */
    for (size_t i = 0; i < *n && i < capacity; i++)
        ids[i] = all[i];
    qmi_free(all);
    return QMOE_OK;
}

qmoe_status qmoe_chat_tokenize(qmoe_model *model, int32_t *ids, size_t capacity,
    size_t *n, const qmoe_chat_message *messages, size_t n_messages,
    const qmoe_chat_options *options)
{
    if (n != NULL)
        *n = 0;
    QMI_TRY(qmi_model_call_begin(model, __func__,
        n == NULL || (messages == NULL) != (n_messages == 0) ||
            (ids == NULL && capacity != 0)));
    qmoe_chat_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    return qmi_model_call_end(
        model, tokenize(model, ids, capacity, n, messages, n_messages, &known));
}
