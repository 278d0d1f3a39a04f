/* SPDX-License-Identifier: Apache-2.0
 * In: special tokens, chat templates and sampling settings of a GGUF file.
 * Out: the members of the small files that say so beside tokenizer.json. */
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "gguf_tokenizer.h"

/* ---- ids ---- */

void qmi_gguf_tokenizer_ids(
    qmi_json_writer *w, const qmi_gguf_tokenizer *tokenizer)
{
    const qmi_gguf_special *special = &tokenizer->special;
    if (special->bos >= 0)
        qmi_json_put_count(w, "bos_token_id", special->bos);
    if (special->n_ends == 1) {
        qmi_json_put_count(w, "eos_token_id", special->ends[0]);
    } else if (special->n_ends > 1) {
        qmi_json_open_flat(w, "eos_token_id", '[');
        for (int i = 0; i < special->n_ends; i++)
            qmi_json_put_count(w, NULL, special->ends[i]);
        qmi_json_close(w, ']');
    }
    if (special->pad >= 0)
        qmi_json_put_count(w, "pad_token_id", special->pad);
}

/* ---- tokenizer_config.json ---- */

static void put_token(qmi_json_writer *w, const char *key,
    const qmi_gguf_vocabulary *v, int32_t id)
{
    if (id >= 0)
        qmi_json_put_string(w, key, v->tokens[id].text);
}

static void put_template(qmi_json_writer *w, const char *name, const char *text)
{
    qmi_json_open(w, NULL, '{');
    qmi_json_put_string(w, "name", name);
    qmi_json_put_string(w, "template", text);
    qmi_json_close(w, '}');
}

/* Keys "tokenizer.chat_template.NAME". */
static qmoe_status put_named_templates(
    qmi_json_writer *w, const qmi_gguf_source *s, bool *has_any)
{
    static const char prefix[] = "tokenizer.chat_template.";
    for (size_t i = 0; i < qmi_gguf_count(s->files[0]); i++) {
        const char *key = qmi_gguf_at(s->files[0], i)->key;
        char *text = NULL;
        if (strncmp(key, prefix, sizeof prefix - 1) != 0)
            continue;
        *has_any = true;
        if (w == NULL)
            return QMOE_OK;
        QMI_TRY(qmi_gguf_source_text(s, key, &text));
        put_template(w, key + sizeof prefix - 1, text);
        qmi_free(text);
    }
    return QMOE_OK;
}

/* A text or, where there are several, a list with names. */
static qmoe_status put_templates(qmi_json_writer *w, const qmi_gguf_source *s)
{
    bool has_others = false;
    char *text = NULL;
    QMI_TRY(put_named_templates(NULL, s, &has_others));
    QMI_TRY(qmi_gguf_source_text(s, "tokenizer.chat_template", &text));
    qmoe_status status = QMOE_OK;
    if (!has_others) {
        if (text != NULL)
            qmi_json_put_string(w, "chat_template", text);
    } else {
        qmi_json_open(w, "chat_template", '[');
        if (text != NULL)
            put_template(w, "default", text);
        status = put_named_templates(w, s, &has_others);
        qmi_json_close(w, ']');
    }
    qmi_free(text);
    return status;
}

qmoe_status qmi_gguf_tokenizer_config(qmi_json_writer *w,
    const qmi_gguf_tokenizer *tokenizer, const qmi_gguf_source *source,
    int64_t n_positions)
{
    const qmi_gguf_special *special = &tokenizer->special;
    const qmi_gguf_vocabulary *v = &tokenizer->vocabulary;
    qmi_json_open(w, NULL, '{');
    /* The class that takes all from tokenizer.json. */
    qmi_json_put_string(w, "tokenizer_class", "PreTrainedTokenizerFast");
    put_token(w, "bos_token", v, special->bos);
    put_token(w, "eos_token", v, special->eos);
    put_token(w, "pad_token", v, special->pad);
    put_token(w, "unk_token", v, special->unk);
    qmi_json_put_bool(w, "add_bos_token", special->adds_bos);
    qmi_json_put_bool(w, "add_eos_token", special->adds_eos);
    qmi_json_put_bool(w, "clean_up_tokenization_spaces", false);
    qmi_json_put_count(w, "model_max_length", n_positions);
    QMI_TRY(put_templates(w, source));
    qmi_json_close(w, '}');
    return QMOE_OK;
}

/* ---- generation_config.json ---- */

qmoe_status qmi_gguf_generation_config(qmi_json_writer *w,
    const qmi_gguf_tokenizer *tokenizer, const qmi_gguf_source *source)
{
    static const struct {
        const char *key, *name;
    } settings[] = {{"general.sampling.temp", "temperature"},
        {"general.sampling.top_p", "top_p"},
        {"general.sampling.min_p", "min_p"},
        {"general.sampling.penalty_repeat", "repetition_penalty"}};
    bool is_sampled = false;
    int64_t top_k = -1;
    qmi_json_open(w, NULL, '{');
    qmi_gguf_tokenizer_ids(w, tokenizer);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        double value = -1;
        QMI_TRY(qmi_gguf_source_real(source, settings[i].key, &value));
        if (value < 0)
            continue;
        is_sampled = true;
        qmi_json_put_real(w, settings[i].name, value);
    }
    QMI_TRY(qmi_gguf_source_int(
        source, "general.sampling.top_k", 0, INT32_MAX, &top_k));
    if (top_k >= 0)
        qmi_json_put_count(w, "top_k", top_k);
    if (is_sampled || top_k >= 0)
        qmi_json_put_bool(w, "do_sample", true);
    qmi_json_close(w, '}');
    return QMOE_OK;
}
