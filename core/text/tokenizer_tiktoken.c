/* SPDX-License-Identifier: Apache-2.0
 * In: a tiktoken.model as the Kimi models have it: a line per token, its bytes
 * in base64 and its rank, which is its id.  Out: a byte-pair tokenizer.  Two
 * neighbours merge to the token that their bytes spell, the least rank first.
 * The file has no pattern and no special tokens: the pattern is that of the
 * Kimi models, the tokens are in tokenizer_config.json. */
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "hints.h"
#include "map.h"
#include "tokenizer_bpe.h"

enum { MAX_FILE_BYTES = 64 << 20, N_SPECIALS = 256 };

/* Letters and marks by case, without Han: a class of everything else, negated,
 * since all categories together are all characters. */
#define NO_LETTER "\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}\\p{Han}"
#define UPPER "[^\\p{Ll}" NO_LETTER "]"
#define LOWER "[^\\p{Lu}\\p{Lt}" NO_LETTER "]"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
#define SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
static const char KIMI[] =
    "[\\p{Han}]+|" BEFORE UPPER "*" LOWER "+" SHORT "|" BEFORE UPPER "+" LOWER
    "*" SHORT "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

typedef struct reader {
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
    QMI_TRY(qmi_pattern_compile(&step->pattern, KIMI, false, r->path, r->err));
    QMI_TRY(read_lines(r));
    QMI_TRY(fill_ranks(r));
    return qmi_bpe_tokenizer_seal(t, r->path, r->err);
}

qmoe_status qmi_tokenizer_open_tiktoken(
    qmi_tokenizer **out, const char *path, qmi_error *err)
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
    reader r = {.t = t, .path = path, .at = text, .end = text + n, .err = err};
    if (status == QMOE_OK)
        status = read_file(&r);
    qmi_free(text);
    if (status == QMOE_OK)
        *out = &t->base;
    else if (t != NULL)
        qmi_tokenizer_close(&t->base);
    return status;
}

/* tokenizer_config.json has named some; the others have the names that Kimi's
 * code gives them. */
qmoe_status qmi_tokenizer_end_tiktoken(
    qmi_tokenizer *tokenizer, const char *path, qmi_error *err)
{
    qmi_bpe_tokenizer *t = (qmi_bpe_tokenizer *)tokenizer;
    const int32_t first = (int32_t)t->bpe.vocabulary.n_used;
    for (int32_t id = first; id < first + N_SPECIALS; id++) {
        char name[40];
        size_t n_there = 0;
        if (id < t->bpe.vocabulary.size)
            qmi_vocabulary_bytes(&t->bpe.vocabulary, id, &n_there);
        if (n_there != 0)
            continue;
        snprintf(name, sizeof name, "<|reserved_token_%d|>", (int)id);
        const qmi_added_token token = {
            .content = name, .n = strlen(name), .id = id, .special = true};
        QMI_TRY(qmi_bpe_tokenizer_add(t, &token, path, err));
    }
    return qmi_bpe_tokenizer_seal(t, path, err);
}
