/* SPDX-License-Identifier: Apache-2.0
 * In: keys tokenizer.* of a GGUF file.  Out: tokenizer.json, the pipeline that
 * the package tokenizers runs.  tokenizer.ggml.model says which kind it is:
 * byte-level merges ("gpt2"), split into words as tokenizer.ggml.pre names it,
 * or merges of characters with bytes as a way out ("llama", from SentencePiece).
 * A name that is not in the table is refused: another way to split gives other
 * ids for the same text. */
#include "gguf_tokenizer.h"

#include <string.h>

#include "alloc.h"

/* ---- how text is split ---- */

typedef struct qmi_gguf_chain {
    const char *name; /* tokenizer.ggml.pre; NULL: of "llama" */
    const char *normalizer, *pre_tokenizer; /* JSON */
    bool ignores_merges; /* a piece that is a token stays whole */
    bool adds_bos;       /* unless the file says otherwise */
} chain;

#define REGEX(pattern)                                                         \
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" pattern                \
    "\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
/* Steps, each in the pieces that the one before leaves; then bytes. */
#define STEPS(steps)                                                           \
    "{\"type\": \"Sequence\", \"pretokenizers\": [" steps                      \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "                  \
    "\"trim_offsets\": true, \"use_regex\": false}]}"
/* The pattern of GPT-2 is built in. */
#define GPT2                                                                   \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "                  \
    "\"trim_offsets\": true, \"use_regex\": true}"
#define DIGITS "{\"type\": \"Digits\", \"individual_digits\": true}, "
#define DIGITS_GPT2                                                            \
    "{\"type\": \"Sequence\", \"pretokenizers\": [" DIGITS GPT2 "]}"
/* An optional character before a word, and what no word has. */
#define BEFORE "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
#define OTHERS(ends)                                                           \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+" ends "|\\\\s*[\\\\r\\\\n]+|"                \
    "\\\\s+(?!\\\\S)|\\\\s+"
/* Qwen2 and Llama 3 differ in how many digits stay together. */
#define WORDS(digits)                                                          \
    STEPS(REGEX("(?i:'s|'t|'re|'ve|'m|'ll|'d)|" BEFORE                         \
                "\\\\p{L}+|" digits OTHERS("[\\\\r\\\\n]*")))
#define LLAMA3 WORDS("\\\\p{N}{1,3}")
#define QWEN2 WORDS("\\\\p{N}")
/* A word ends before a capital letter that follows a small one. */
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define TEKKEN                                                                 \
    STEPS(REGEX(BEFORE UPPER "*" LOWER "+|" BEFORE UPPER "+" LOWER             \
                             "*|\\\\p{N}" OTHERS("[\\\\r\\\\n/]*")))
#define DEEPSEEK_CODER                                                         \
    STEPS(REGEX("[\\\\r\\\\n]") REGEX("\\\\s?\\\\p{L}+")                       \
            REGEX("\\\\s?\\\\p{P}+") REGEX(                                    \
                "[\\\\u4e00-\\\\u9fa5\\\\u0800-\\\\u4e00\\\\uac00-\\\\ud7ff]"  \
                "+") DIGITS)
#define NFC "{\"type\": \"NFC\"}"

static const chain chains[] = {
    {"deepseek-coder", "null", DEEPSEEK_CODER, false, false},
    {"deepseek-r1-qwen", NFC, QWEN2, false, false},
    {"falcon3", "null", LLAMA3, true, true},
    {"gpt-2", "null", GPT2, false, false},
    {"llama-bpe", "null", LLAMA3, true, true},
    {"llama-v3", "null", LLAMA3, true, true},
    {"llama3", "null", LLAMA3, true, true},
    {"olmo", NFC, GPT2, false, false},
    {"pixtral", "null", LLAMA3, true, true},
    {"qwen2", NFC, QWEN2, false, false},
    {"smaug-bpe", "null", LLAMA3, false, false},
    {"smollm", "null", DIGITS_GPT2, false, false},
    {"tekken", "null", TEKKEN, true, true},
};

/* A space is a visible character of its own; one is put before the text, or
 * not. */
#define REPLACE                                                                \
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "               \
    "\"content\": \"\u2581\"}"
static const chain with_space = {NULL,
    "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", "
    "\"prepend\": \"\u2581\"}, " REPLACE "]}",
    "null", false, true};
static const chain without_space = {NULL, REPLACE, "null", false, true};

static qmoe_status find_byte_level(
    const chain **out, const qmi_gguf_source *s, const char *pre)
{
    for (size_t i = 0; pre != NULL && i < sizeof chains / sizeof *chains; i++)
        if (strcmp(chains[i].name, pre) == 0) {
            *out = &chains[i];
            return QMOE_OK;
        }
    return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
        "%s: key 'tokenizer.ggml.pre': splitting '%.40s' is not supported",
        qmi_gguf_source_path(s), pre != NULL ? pre : "(missing)");
}

static qmoe_status find_chain(
    const chain **out, const qmi_gguf_source *s, const char *model)
{
    bool is_byte_level = strcmp(model, "gpt2") == 0, has_space = true;
    bool squeezes = false;
    char *pre = NULL;
    if (!is_byte_level && strcmp(model, "llama") != 0)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: key 'tokenizer.ggml.model': tokenizers of kind '%.40s' are "
            "not supported",
            qmi_gguf_source_path(s), model);
    if (is_byte_level) {
        QMI_TRY(qmi_gguf_source_text(s, "tokenizer.ggml.pre", &pre));
        qmoe_status status = find_byte_level(out, s, pre);
        qmi_free(pre);
        QMI_TRY(status);
        has_space = false;
    }
    QMI_TRY(
        qmi_gguf_source_bool(s, "tokenizer.ggml.add_space_prefix", &has_space));
    QMI_TRY(qmi_gguf_source_bool(
        s, "tokenizer.ggml.remove_extra_whitespaces", &squeezes));
    if (squeezes || (is_byte_level && has_space) ||
        qmi_gguf_source_value(s, "tokenizer.ggml.precompiled_charsmap") != NULL)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: the tokenizer changes text before it is split, which is not "
            "supported (tokenizer.ggml.remove_extra_whitespaces, "
            "add_space_prefix or precompiled_charsmap)",
            qmi_gguf_source_path(s));
    if (!is_byte_level)
        *out = has_space ? &with_space : &without_space;
    return QMOE_OK;
}

/* ---- special tokens ---- */

static qmoe_status read_id(const qmi_gguf_source *s, const char *key,
    const qmi_gguf_vocabulary *v, int32_t *out)
{
    int64_t id = -1;
    QMI_TRY(qmi_gguf_source_int(s, key, 0, v->n - 1, &id));
    *out = (int32_t)id;
    return QMOE_OK;
}

static void add_end(qmi_gguf_special *special, int32_t id)
{
    for (int i = 0; i < special->n_ends; i++)
        if (special->ends[i] == id)
            return;
    if (id >= 0)
        special->ends[special->n_ends++] = id;
}

static qmoe_status read_special(qmi_gguf_tokenizer *t, const qmi_gguf_source *s)
{
    int32_t turn = -1, message = -1;
    qmi_gguf_special *special = &t->special;
    const qmi_gguf_vocabulary *v = &t->vocabulary;
    QMI_TRY(read_id(s, "tokenizer.ggml.bos_token_id", v, &special->bos));
    QMI_TRY(read_id(s, "tokenizer.ggml.eos_token_id", v, &special->eos));
    QMI_TRY(read_id(s, "tokenizer.ggml.padding_token_id", v, &special->pad));
    QMI_TRY(read_id(s, "tokenizer.ggml.unknown_token_id", v, &special->unk));
    QMI_TRY(read_id(s, "tokenizer.ggml.eot_token_id", v, &turn));
    QMI_TRY(read_id(s, "tokenizer.ggml.eom_token_id", v, &message));
    add_end(special, special->eos);
    add_end(special, turn);
    add_end(special, message);
    special->adds_bos = t->chain->adds_bos && special->bos >= 0;
    QMI_TRY(qmi_gguf_source_bool(
        s, "tokenizer.ggml.add_bos_token", &special->adds_bos));
    QMI_TRY(qmi_gguf_source_bool(
        s, "tokenizer.ggml.add_eos_token", &special->adds_eos));
    if ((special->adds_bos && special->bos < 0) ||
        (special->adds_eos && special->eos < 0))
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: a token is added to every text that has no id "
            "(tokenizer.ggml.bos_token_id, eos_token_id)",
            qmi_gguf_source_path(s));
    return QMOE_OK;
}

qmoe_status qmi_gguf_tokenizer_read(
    qmi_gguf_tokenizer *out, const qmi_gguf_source *source, int64_t n_tokens)
{
    char *model = NULL;
    *out =
        (qmi_gguf_tokenizer){.special = {-1, -1, -1, -1, {0}, 0, false, false}};
    QMI_TRY(qmi_gguf_source_text(source, "tokenizer.ggml.model", &model));
    if (model == NULL || strcmp(model, "none") == 0 ||
        strcmp(model, "no_vocab") == 0) {
        qmi_free(model);
        return QMOE_OK;
    }
    qmoe_status status = find_chain(&out->chain, source, model);
    qmi_free(model);
    QMI_TRY(status);
    QMI_TRY(qmi_gguf_vocabulary_read(&out->vocabulary, source));
    if (out->vocabulary.n != n_tokens)
        return qmi_fail(source->err, QMOE_E_FORMAT,
            "%s: %d tokens, but %lld rows of tensor 'token_embd.weight'",
            qmi_gguf_source_path(source), (int)out->vocabulary.n,
            (long long)n_tokens);
    QMI_TRY(read_special(out, source));
    out->exists = true;
    return QMOE_OK;
}

void qmi_gguf_tokenizer_destroy(qmi_gguf_tokenizer *tokenizer)
{
    qmi_gguf_vocabulary_destroy(&tokenizer->vocabulary);
}

/* ---- tokenizer.json ---- */

static bool is_added(const qmi_gguf_token *t)
{
    return t->type == QMI_GGUF_CONTROL || t->type == QMI_GGUF_UNKNOWN ||
           t->type == QMI_GGUF_USER_DEFINED;
}

/* Tokens that are found in a text before it is split. */
static void put_added(qmi_json_writer *w, const qmi_gguf_vocabulary *v)
{
    qmi_json_open(w, "added_tokens", '[');
    for (int32_t i = 0; i < v->n; i++) {
        const qmi_gguf_token *t = &v->tokens[i];
        if (!is_added(t))
            continue;
        qmi_json_open_flat(w, NULL, '{');
        qmi_json_put_count(w, "id", i);
        qmi_json_put_string(w, "content", t->text);
        qmi_json_put_bool(w, "single_word", false);
        qmi_json_put_bool(w, "lstrip", false);
        qmi_json_put_bool(w, "rstrip", false);
        qmi_json_put_bool(w, "normalized", false);
        qmi_json_put_bool(w, "special", t->type != QMI_GGUF_USER_DEFINED);
        qmi_json_close(w, '}');
    }
    qmi_json_close(w, ']');
}

static void put_template_token(
    qmi_json_writer *w, const qmi_gguf_tokenizer *t, int32_t id, int type)
{
    qmi_json_open(w, NULL, '{');
    qmi_json_open_flat(w, "SpecialToken", '{');
    qmi_json_put_string(w, "id", t->vocabulary.tokens[id].text);
    qmi_json_put_count(w, "type_id", type);
    qmi_json_close(w, '}');
    qmi_json_close(w, '}');
}

/* The text and what is added around it. */
static void put_template_text(
    qmi_json_writer *w, const qmi_gguf_tokenizer *t, const char *text, int type)
{
    const qmi_gguf_special *special = &t->special;
    if (special->adds_bos)
        put_template_token(w, t, special->bos, type);
    qmi_json_open(w, NULL, '{');
    qmi_json_open_flat(w, "Sequence", '{');
    qmi_json_put_string(w, "id", text);
    qmi_json_put_count(w, "type_id", type);
    qmi_json_close(w, '}');
    qmi_json_close(w, '}');
    if (special->adds_eos)
        put_template_token(w, t, special->eos, type);
}

static void put_template_id(
    qmi_json_writer *w, const qmi_gguf_tokenizer *t, int32_t id)
{
    const char *text = t->vocabulary.tokens[id].text;
    qmi_json_open(w, text, '{');
    qmi_json_put_string(w, "id", text);
    qmi_json_open_flat(w, "ids", '[');
    qmi_json_put_count(w, NULL, id);
    qmi_json_close(w, ']');
    qmi_json_open_flat(w, "tokens", '[');
    qmi_json_put_string(w, NULL, text);
    qmi_json_close(w, ']');
    qmi_json_close(w, '}');
}

static void put_post_processor(qmi_json_writer *w, const qmi_gguf_tokenizer *t)
{
    const qmi_gguf_special *special = &t->special;
    if (!special->adds_bos && !special->adds_eos) {
        qmi_json_put_raw(w, "post_processor", "null");
        return;
    }
    qmi_json_open(w, "post_processor", '{');
    qmi_json_put_string(w, "type", "TemplateProcessing");
    qmi_json_open(w, "single", '[');
    put_template_text(w, t, "A", 0);
    qmi_json_close(w, ']');
    qmi_json_open(w, "pair", '[');
    put_template_text(w, t, "A", 0);
    put_template_text(w, t, "B", 1);
    qmi_json_close(w, ']');
    qmi_json_open(w, "special_tokens", '{');
    if (special->adds_bos)
        put_template_id(w, t, special->bos);
    if (special->adds_eos && special->eos != special->bos)
        put_template_id(w, t, special->eos);
    else if (special->adds_eos && !special->adds_bos)
        put_template_id(w, t, special->eos);
    qmi_json_close(w, '}');
    qmi_json_close(w, '}');
}

/* The reverse of normaliser and splitting. */
static const char *decoder_of(const chain *c)
{
    if (c->name != NULL)
        return "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
               "\"trim_offsets\": true, \"use_regex\": true}";
#define TO_TEXT                                                                \
    "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "         \
    "\"pattern\": {\"String\": \"\u2581\"}, \"content\": \" \"}, "             \
    "{\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}"
    return c == &with_space ? TO_TEXT ", {\"type\": \"Strip\", \"content\": "
                                      "\" \", \"start\": 1, \"stop\": 0}]}"
                            : TO_TEXT "]}";
}

static void put_merges(qmi_json_writer *w, const qmi_gguf_vocabulary *v)
{
    qmi_json_open(w, "merges", '[');
    for (size_t i = 0; i < v->n_merges; i++) {
        const qmi_gguf_token *left = &v->tokens[v->merges[i].left];
        const qmi_gguf_token *right = &v->tokens[v->merges[i].right];
        /* "left right": no token of a merge has a space. */
        char text[2200];
        memcpy(text, left->text, left->n_bytes);
        text[left->n_bytes] = ' ';
        memcpy(text + left->n_bytes + 1, right->text, right->n_bytes + 1);
        qmi_json_put_string(w, NULL, text);
    }
    qmi_json_close(w, ']');
}

static void put_model(qmi_json_writer *w, const qmi_gguf_tokenizer *t)
{
    const qmi_gguf_vocabulary *v = &t->vocabulary;
    const bool has_bytes = t->chain->name == NULL;
    const int32_t unk = has_bytes ? t->special.unk : -1;
    qmi_json_open(w, "model", '{');
    qmi_json_put_string(w, "type", "BPE");
    qmi_json_put_raw(w, "dropout", "null");
    qmi_json_put_string(w, "unk_token", unk >= 0 ? v->tokens[unk].text : NULL);
    qmi_json_put_raw(w, "continuing_subword_prefix", "null");
    qmi_json_put_raw(w, "end_of_word_suffix", "null");
    qmi_json_put_bool(w, "fuse_unk", has_bytes);
    qmi_json_put_bool(w, "byte_fallback", has_bytes);
    qmi_json_put_bool(w, "ignore_merges", t->chain->ignores_merges);
    qmi_json_open(w, "vocab", '{');
    for (int32_t i = 0; i < v->n; i++)
        if (!v->tokens[i].is_padding)
            qmi_json_put_count(w, v->tokens[i].text, i);
    qmi_json_close(w, '}');
    put_merges(w, v);
    qmi_json_close(w, '}');
}

void qmi_gguf_tokenizer_json(
    qmi_json_writer *w, const qmi_gguf_tokenizer *tokenizer)
{
    qmi_json_open(w, NULL, '{');
    qmi_json_put_string(w, "version", "1.0");
    qmi_json_put_raw(w, "truncation", "null");
    qmi_json_put_raw(w, "padding", "null");
    put_added(w, &tokenizer->vocabulary);
    qmi_json_put_raw(w, "normalizer", tokenizer->chain->normalizer);
    qmi_json_put_raw(w, "pre_tokenizer", tokenizer->chain->pre_tokenizer);
    put_post_processor(w, tokenizer);
    qmi_json_put_raw(w, "decoder", decoder_of(tokenizer->chain));
    put_model(w, tokenizer);
    qmi_json_close(w, '}');
}
