/* SPDX-License-Identifier: Apache-2.0
 * In: a file of tiktoken: a line per token, its bytes in base64 and its rank,
 * which is its id.  Out: a byte-pair tokenizer.  Two neighbours merge to the
 * token that their bytes spell, the least rank first.  The file has no pattern
 * and no special tokens: its family has them, and tokenizer_config.json may
 * name the tokens otherwise. */
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "hints.h"
#include "map.h"
#include "tokenizer_bpe.h"

enum { MAX_FILE_BYTES = 64 << 20, MAX_NAMES = 10 };

struct qmi_tiktoken_family {
    const char *pattern;
    size_t n_ranks; /* of its only vocabulary; 0: the name of the file tells */
    int n_specials; /* with the ids behind the ranks */
    /* Names of the first, and of all others: a format for the id, or for the
     * number of the special token, less `n_less`. */
    const char *names[MAX_NAMES];
    const char *others;
    bool names_ids;
    int n_less;
    bool is_nfc;
    /* The first special token begins every text, the second can end it. */
    bool is_framed;
};

/* ---- families ---- */

/* Letters and marks by case, without Han: a class of everything else, negated,
 * since all categories together are all characters. */
#define NO_LETTER "\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}\\p{Han}"
#define UPPER "[^\\p{Ll}" NO_LETTER "]"
#define LOWER "[^\\p{Lu}\\p{Lt}" NO_LETTER "]"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
#define SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define OTHERS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORDS(digits)                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" BEFORE "\\p{L}+|" digits OTHERS

const qmi_tiktoken_family qmi_tiktoken_kimi = {
    .pattern = "[\\p{Han}]+|" BEFORE UPPER "*" LOWER "+" SHORT "|" BEFORE UPPER
               "+" LOWER "*" SHORT "|\\p{N}{1,3}" OTHERS,
    .n_specials = 256,
    .others = "<|reserved_token_%d|>",
    .names_ids = true};

const qmi_tiktoken_family qmi_tiktoken_llama = {.pattern = WORDS("\\p{N}{1,3}"),
    .n_ranks = 128000,
    .n_specials = 256,
    .names = {"<|begin_of_text|>", "<|end_of_text|>",
        "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
        "<|reserved_special_token_2|>", "<|reserved_special_token_3|>",
        "<|start_header_id|>", "<|end_header_id|>",
        "<|reserved_special_token_4|>", "<|eot_id|>"},
    .others = "<|reserved_special_token_%d|>",
    .n_less = 5,
    .is_framed = true};

const qmi_tiktoken_family qmi_tiktoken_qwen = {.pattern = WORDS("\\p{N}"),
    .n_specials = 208,
    .names = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"},
    .others = "<|extra_%d|>",
    .n_less = 3,
    .is_nfc = true};

/* ---- lines ---- */

typedef struct reader {
    const qmi_tiktoken_family *family;
    qmi_bpe_tokenizer *t;
    const char *path;
    const char *at, *end;
    size_t line;
    qmi_error *err;
} reader;

static int sextet(char c)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;
    return found != NULL ? (int)(found - digits) : -1;
}

/* The bytes of base64 text of n characters in out[0..n); false: it is none. */
static bool read_base64(char *out, size_t *n_out, const char *text, size_t n)
{
    size_t n_padding = 0;
    *n_out = 0;
    while (n_padding < 2 && n_padding < n && text[n - 1 - n_padding] == '=')
        n_padding++;
    if (n == 0 || n % 4 != 0)
        return false;
    for (size_t at = 0; at < n; at += 4) {
        uint32_t bits = 0;
        for (size_t i = at; i < at + 4; i++) {
            const int value = i < n - n_padding ? sextet(text[i]) : 0;
            if (value < 0)
                return false;
            bits = bits << 6 | (uint32_t)value;
        }
        out[(*n_out)++] = (char)(bits >> 16);
        out[(*n_out)++] = (char)(bits >> 8);
        out[(*n_out)++] = (char)bits;
    }
    *n_out -= n_padding;
    return true;
}

/* Decimal digits, no more than an id has; -1: it is no number. */
static int64_t read_rank(const char *text, size_t n)
{
    int64_t rank = n == 0 || n > 7 ? -1 : 0;
    for (size_t i = 0; i < n && rank >= 0; i++)
        rank =
            text[i] >= '0' && text[i] <= '9' ? 10 * rank + (text[i] - '0') : -1;
    return rank;
}

static qmoe_status read_line(reader *r, const char *line, size_t n)
{
    enum { MAX_LINE_BYTES = 4096 };
    char bytes[MAX_LINE_BYTES];
    size_t n_bytes = 0;
    const char *space = memchr(line, ' ', n);
    const size_t n_token = space != NULL ? (size_t)(space - line) : n;
    const int64_t rank =
        space != NULL ? read_rank(space + 1, n - n_token - 1) : -1;
    if (rank < 0 || n > MAX_LINE_BYTES ||
        !read_base64(bytes, &n_bytes, line, n_token))
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: line %zu is not a token in base64 and its rank", r->path,
            r->line);
    const qmoe_status status = qmi_vocabulary_put(
        &r->t->bpe.vocabulary, rank, bytes, n_bytes, true, r->err);
    return status == QMOE_OK ? status
                             : qmi_error_prefix(r->err, status, "%s: line %zu",
                                   r->path, r->line);
}

static qmoe_status read_lines(reader *r)
{
    while (r->at < r->end) {
        const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
        const char *end = newline != NULL ? newline : r->end;
        r->line++;
        if (end != r->at)
            QMI_TRY(read_line(r, r->at, (size_t)(end - r->at)));
        r->at = newline != NULL ? newline + 1 : r->end;
    }
    return QMOE_OK;
}

static qmoe_status fill_ranks(const reader *r)
{
    qmi_bpe *bpe = &r->t->bpe;
    const size_t n = (size_t)bpe->vocabulary.size;
    /* Special tokens have the ids behind the ranks. */
    if (n != bpe->vocabulary.n_used)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: a rank below %zu is missing, or a token is there twice",
            r->path, n);
    if (r->family->n_ranks != 0 && n != r->family->n_ranks)
        return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
            "%s: %zu ranks of tiktoken; only those of Llama 3, %zu, are read "
            "from a file of this name: nothing says how others split text",
            r->path, n, r->family->n_ranks);
    bpe->ranks = qmi_calloc(n, sizeof *bpe->ranks, "ranks", r->err);
    if (bpe->ranks == NULL)
        return QMOE_E_NOMEM;
    for (size_t id = 0; id < n; id++)
        bpe->ranks[id] = (uint32_t)id;
    return QMOE_OK;
}

static qmoe_status read_file(reader *r)
{
    qmi_bpe_tokenizer *t = r->t;
    qmi_split_step *step = &t->pre_tokenizer.steps[t->pre_tokenizer.n++];
    t->bpe.by_bytes = t->bpe.ignore_merges = true;
    step->kind = QMI_SPLIT_PATTERN;
    QMI_TRY(qmi_pattern_compile(
        &step->pattern, r->family->pattern, false, r->path, r->err));
    if (r->family->is_nfc)
        t->normalizer.steps[t->normalizer.n++].kind = QMI_NORMAL_NFC;
    QMI_TRY(read_lines(r));
    QMI_TRY(fill_ranks(r));
    const int32_t first = (int32_t)t->bpe.vocabulary.n_used;
    if (r->family->is_framed)
        QMI_TRY(qmi_id_list_add(&t->before, &first, 1, r->err));
    return qmi_bpe_tokenizer_seal(t, r->path, r->err);
}

qmoe_status qmi_tokenizer_open_tiktoken(qmi_tokenizer **out,
    const qmi_tiktoken_family *family, const char *path, qmi_error *err)
{
    char *text = NULL;
    size_t n = 0;
    qmi_bpe_tokenizer *t = NULL;
    *out = NULL;
    QMI_TRY(qmi_read_file(&text, &n, path, MAX_FILE_BYTES, err));
    const char *hint = qmi_hint_contents(text, n);
    qmoe_status status = qmi_bpe_tokenizer_create(&t, err);
    if (status == QMOE_OK && hint != NULL)
        status = qmi_fail(
            err, QMOE_E_FORMAT, "%s: not a tiktoken file, but %s", path, hint);
    reader r = {.family = family,
        .t = t,
        .path = path,
        .at = text,
        .end = text + n,
        .err = err};
    if (status == QMOE_OK)
        status = read_file(&r);
    qmi_free(text);
    if (status == QMOE_OK)
        *out = &t->base;
    else if (t != NULL)
        qmi_tokenizer_close(&t->base);
    return status;
}

bool qmi_is_tiktoken(const char *path)
{
    char start[256] = "", newline = '\0';
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return false;
    start[fread(start, 1, sizeof start - 1, file)] = '\0';
    fclose(file);
    return sscanf(start, "%*[A-Za-z0-9+/=] %*[0-9]%c", &newline) == 1 &&
           newline == '\n';
}

/* ---- special tokens ---- */

static void put_name(
    char out[40], const qmi_tiktoken_family *family, int32_t first, int i)
{
    const int number = family->names_ids ? (int)first + i : i - family->n_less;
    if (i < MAX_NAMES && family->names[i] != NULL)
        snprintf(out, 40, "%s", family->names[i]);
    else
        snprintf(out, 40, family->others, number);
}

qmoe_status qmi_tokenizer_end_tiktoken(qmi_tokenizer *tokenizer,
    const qmi_tiktoken_family *family, const char *path, qmi_error *err)
{
    qmi_bpe_tokenizer *t = (qmi_bpe_tokenizer *)tokenizer;
    /* Added tokens are not among those in use. */
    const int32_t first = (int32_t)t->bpe.vocabulary.n_used;
    for (int i = 0; i < family->n_specials; i++) {
        const int32_t id = first + i;
        char name[40];
        size_t n_there = 0;
        if (id < t->bpe.vocabulary.size)
            qmi_vocabulary_bytes(&t->bpe.vocabulary, id, &n_there);
        if (n_there != 0)
            continue;
        put_name(name, family, first, i);
        const qmi_added_token token = {
            .content = name, .n = strlen(name), .id = id, .special = true};
        QMI_TRY(qmi_bpe_tokenizer_add(t, &token, path, err));
    }
    if (family->is_framed && t->base.bos < 0)
        t->base.bos = first;
    if (family->is_framed && t->base.eos < 0)
        t->base.eos = first + 1;
    return qmi_bpe_tokenizer_seal(t, path, err);
}
