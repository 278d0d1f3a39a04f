/* SPDX-License-Identifier: Apache-2.0
 * In: text.  Out: ids, and back.  A text goes through five steps, as in Hugging
 * Face's tokenizers: added tokens are cut out; the segments between them are
 * normalised, and added tokens are cut out once more; what is left is split
 * into pieces; each piece is encoded; the frame is put around all.  Invariant:
 * a step sees its segment alone, so ids depend on the text and on what is
 * literal in it, not on how often or by whom it is encoded. */
#include "tokenizer_bpe.h"

#include <string.h>

#include "alloc.h"
#include "byte_level.h"
#include "hash.h"
#include "json.h"

static const qmi_bpe_tokenizer *as_bpe(const qmi_tokenizer *tokenizer)
{
    return (const qmi_bpe_tokenizer *)tokenizer;
}

/* ---- pieces seen before -------------------------------------------------- */

/* Texts repeat their words: a table of short pieces saves their merges.  It
 * belongs to one call, so a tokenizer does not change. */
enum { CACHED_BYTES = 22, CACHED_IDS = 10, MAX_CACHED = 1 << 14 };

typedef struct cached_piece {
    uint8_t n_bytes, n_ids; /* n_bytes 0: free */
    char bytes[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
} cached_piece;

/* ---- encoding ------------------------------------------------------------ */

typedef struct encoding {
    const qmi_bpe_tokenizer *t;
    qmi_matcher *matcher;
    qmi_text normal[2]; /* buffers of the normalizer */
    qmi_text mask;      /* what is literal in normalised text */
    qmi_text joined;    /* a segment normalised in parts */
    qmi_pieces pieces;
    qmi_bpe_work work;
    cached_piece *cache; /* [n_cached], a power of two; NULL: none */
    size_t n_cached;
    qmi_id_list *ids;
    qmi_error *err;
} encoding;

static qmoe_status encode_piece(encoding *e, const char *piece, size_t n)
{
    const qmi_bpe *bpe = &e->t->bpe;
    if (e->cache == NULL || n > CACHED_BYTES)
        return qmi_bpe_encode(bpe, &e->work, e->ids, piece, n, e->err);
    cached_piece *c = &e->cache[qmi_hash64(piece, n) & (e->n_cached - 1)];
    if (c->n_bytes == n && memcmp(c->bytes, piece, n) == 0)
        return qmi_id_list_add(e->ids, c->ids, c->n_ids, e->err);
    const size_t start = e->ids->n;
    QMI_TRY(qmi_bpe_encode(bpe, &e->work, e->ids, piece, n, e->err));
    const size_t n_ids = e->ids->n - start;
    if (n_ids > CACHED_IDS)
        return QMOE_OK;
    c->n_bytes = (uint8_t)n;
    c->n_ids = (uint8_t)n_ids;
    memcpy(c->bytes, piece, n);
    if (n_ids != 0)
        memcpy(c->ids, e->ids->ids + start, n_ids * sizeof *c->ids);
    return QMOE_OK;
}

/* Normalised text without added tokens. */
static qmoe_status encode_plain(
    encoding *e, const char *text, size_t n, bool first)
{
    if (n == 0)
        return QMOE_OK;
    QMI_TRY(qmi_pre_tokenize(
        &e->t->pre_tokenizer, e->matcher, &e->pieces, text, n, first, e->err));
    const qmi_spans *pieces = &e->pieces.current;
    for (size_t i = 0; i < pieces->n; i++)
        QMI_TRY(encode_piece(
            e, e->pieces.text + pieces->spans[i].start, pieces->spans[i].n));
    return QMOE_OK;
}

typedef qmoe_status segment_function(encoding *e, const char *text, size_t n,
    const uint8_t *literal, bool first);

/* Cuts the tokens of `list` out of a text; `between` gets the rest. */
static qmoe_status cut_added(encoding *e, const qmi_added_tokens *list,
    segment_function *between, const char *text, size_t n,
    const uint8_t *literal, bool first)
{
    size_t done = 0;
    qmi_added_match match = {.next = 0};
    do {
        qmi_added_tokens_next(&match, list, text, n, literal, match.next);
        if (match.start > done)
            QMI_TRY(between(e, text + done, match.start - done,
                literal != NULL ? literal + done : NULL, first && done == 0));
        if (match.token != NULL)
            QMI_TRY(qmi_id_list_add(e->ids, &match.token->id, 1, e->err));
        /* It may lie in the white space that the one before has taken in; then
         * what is behind it is text again, as it is for Hugging Face. */
        done = match.end;
    } while (match.token != NULL);
    return QMOE_OK;
}

static qmoe_status encode_between(
    encoding *e, const char *text, size_t n, const uint8_t *literal, bool first)
{
    (void)literal;
    return encode_plain(e, text, n, first);
}

static qmoe_status normalize(
    encoding *e, const char **out, size_t *n_out, const char *text, size_t n)
{
    return qmi_normalize(
        &e->t->normalizer, e->matcher, e->normal, out, n_out, text, n, e->err);
}

/* What is literal in the normal form of a segment: the parts that are and those
 * that are not are normalised alone.  If together they are not what the whole
 * becomes, all of it is. */
static qmoe_status mask_normal(encoding *e, const char *normal, size_t n_normal,
    const char *text, size_t n, const uint8_t *literal)
{
    e->mask.n = e->joined.n = 0;
    qmi_text whole = {.err = e->err};
    qmi_text_bytes(&whole, normal, n_normal);
    qmoe_status status = QMOE_OK;
    for (size_t at = 0, end = 0; at < n && status == QMOE_OK; at = end) {
        const char *part = NULL;
        size_t n_part = 0;
        while (end < n && literal[end] == literal[at])
            end++;
        status = normalize(e, &part, &n_part, text + at, end - at);
        if (status != QMOE_OK)
            break;
        qmi_text_bytes(&e->joined, part, n_part);
        for (size_t i = 0; i < n_part; i++)
            qmi_text_bytes(&e->mask, (const char *)&literal[at], 1);
    }
    if (whole.failed || e->joined.failed || e->mask.failed)
        status = QMOE_E_NOMEM;
    const bool is_sum =
        e->joined.n == whole.n &&
        (whole.n == 0 || memcmp(e->joined.data, whole.data, whole.n) == 0);
    if (status == QMOE_OK && !is_sum) {
        e->mask.n = 0;
        for (size_t i = 0; i < whole.n; i++)
            qmi_text_bytes(&e->mask, "\1", 1);
        status = e->mask.failed ? QMOE_E_NOMEM : QMOE_OK;
    }
    qmi_free(whole.data);
    return status;
}

/* A segment of the text as it is. */
static qmoe_status encode_segment(
    encoding *e, const char *text, size_t n, const uint8_t *literal, bool first)
{
    const qmi_added_tokens *list = &e->t->normalized;
    const char *normal = NULL;
    size_t n_normal = 0;
    QMI_TRY(normalize(e, &normal, &n_normal, text, n));
    if (list->n == 0)
        return encode_plain(e, normal, n_normal, first);
    if (literal != NULL && normal != text) {
        QMI_TRY(mask_normal(e, normal, n_normal, text, n, literal));
        literal = (const uint8_t *)e->mask.data;
        /* The parts have overwritten the buffers. */
        QMI_TRY(normalize(e, &normal, &n_normal, text, n));
    }
    return cut_added(e, list, encode_between, normal, n_normal, literal, first);
}

/* A table in proportion to the text: a prompt should not pay for one. */
static void open_cache(encoding *e, size_t n_bytes)
{
    size_t n = 256;
    if (n_bytes < 4096)
        return;
    while (n < MAX_CACHED && n < n_bytes / 16)
        n *= 2;
    e->cache = qmi_calloc(n, sizeof *e->cache, "a table of pieces", NULL);
    e->n_cached = n;
}

static void close_encoding(encoding *e)
{
    qmi_matcher_free(e->matcher);
    qmi_free(e->normal[0].data);
    qmi_free(e->normal[1].data);
    qmi_free(e->mask.data);
    qmi_free(e->joined.data);
    qmi_pieces_free(&e->pieces);
    qmi_bpe_work_free(&e->work);
    qmi_free(e->cache);
}

static qmoe_status encode_all(encoding *e, const char *text, size_t n_bytes,
    const qmi_encode_options *options)
{
    const uint8_t *literal = options->literal;
    qmi_text all = {.err = e->err};
    QMI_TRY(qmi_matcher_create(&e->matcher, e->err));
    open_cache(e, n_bytes);
    if (options->frame)
        QMI_TRY(
            qmi_id_list_add(e->ids, e->t->before.ids, e->t->before.n, e->err));
    if (options->all_literal && n_bytes != 0) {
        all.data = qmi_calloc(n_bytes, 1, "a mask of a text", e->err);
        if (all.data == NULL)
            return QMOE_E_NOMEM;
        memset(all.data, 1, n_bytes);
        literal = (const uint8_t *)all.data;
    }
    qmoe_status status = cut_added(
        e, &e->t->added, encode_segment, text, n_bytes, literal, true);
    qmi_free(all.data);
    QMI_TRY(status);
    if (!options->frame)
        return QMOE_OK;
    return qmi_id_list_add(e->ids, e->t->after.ids, e->t->after.n, e->err);
}

static qmoe_status encode(const qmi_tokenizer *tokenizer, qmi_id_list *ids,
    const char *text, size_t n_bytes, const qmi_encode_options *options,
    qmi_error *err)
{
    encoding e = {.t = as_bpe(tokenizer), .ids = ids, .err = err};
    const size_t n_valid = qmi_utf8_prefix(text, n_bytes);
    if (n_valid != n_bytes)
        return qmi_fail(err, QMOE_E_INVALID,
            "a text is not UTF-8 from byte %zu on", n_valid);
    e.normal[0].err = e.normal[1].err = e.mask.err = e.joined.err = err;
    e.pieces.texts[0].err = e.pieces.texts[1].err = err;
    const qmoe_status status = encode_all(&e, text, n_bytes, options);
    close_encoding(&e);
    return status;
}

/* ---- decoding ------------------------------------------------------------ */

/* What one id adds. */
static void decode_id(const qmi_bpe_tokenizer *t, qmi_decoding *state,
    qmi_text *text, int32_t id, bool specials)
{
    size_t n = 0;
    uint8_t byte = 0;
    const qmi_token_kind kind = qmi_tokenizer_kind(&t->base, id, &byte);
    if (kind == QMI_TOKEN_NOTHING || (kind == QMI_TOKEN_CONTROL && !specials))
        return;
    const char *bytes = qmi_vocabulary_bytes(&t->bpe.vocabulary, id, &n);
    if (kind == QMI_TOKEN_BYTE)
        qmi_decode_byte(&t->decoder, state, text, (char)byte);
    else
        qmi_decode_text(&t->decoder, state, text, bytes, n);
}

static qmoe_status decode(const qmi_tokenizer *tokenizer, qmi_text *text,
    const int32_t *ids, size_t n, bool specials, qmi_error *err)
{
    const qmi_bpe_tokenizer *t = as_bpe(tokenizer);
    qmi_decoding state = {0};
    (void)err;
    for (size_t i = 0; i < n; i++)
        decode_id(t, &state, text, ids[i], specials);
    qmi_decode_end(&t->decoder, &state, text);
    return text->failed ? QMOE_E_NOMEM : QMOE_OK;
}

typedef struct stream {
    const qmi_bpe_tokenizer *t;
    qmi_decoding state;
} stream;

static qmoe_status stream_create(
    void **state, const qmi_tokenizer *tokenizer, qmi_error *err)
{
    stream *s = qmi_calloc(1, sizeof *s, "a token stream", err);
    *state = s;
    if (s == NULL)
        return QMOE_E_NOMEM;
    s->t = as_bpe(tokenizer);
    return QMOE_OK;
}

static qmoe_status stream_add(
    void *state, qmi_text *text, int32_t id, bool last, qmi_error *err)
{
    stream *s = state;
    (void)err;
    decode_id(s->t, &s->state, text, id, false);
    if (last)
        qmi_decode_end(&s->t->decoder, &s->state, text);
    return text->failed ? QMOE_E_NOMEM : QMOE_OK;
}

/* ---- tokens -------------------------------------------------------------- */

static int32_t id_of(const qmi_tokenizer *tokenizer, const char *text, size_t n)
{
    const qmi_bpe_tokenizer *t = as_bpe(tokenizer);
    const qmi_vocabulary *v = &t->bpe.vocabulary;
    const qmi_added_token *found = qmi_added_tokens_find(&t->added, text, n);
    if (found != NULL)
        return found->id;
    /* Their contents in the list are normalised. */
    for (size_t i = 0; i < t->normalized.n; i++) {
        const int32_t id = t->normalized.tokens[i].id;
        size_t n_there = 0;
        const char *there = qmi_vocabulary_bytes(v, id, &n_there);
        if (n_there == n && memcmp(there, text, n) == 0)
            return id;
    }
    return qmi_vocabulary_find(v, text, n);
}

/* The value of "<0xHH>"; -1: it is no such token. */
static int byte_value(const char *token, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    const char *high = memchr(digits, token[3], 16);
    const char *low = memchr(digits, token[4], 16);
    return high == NULL || low == NULL
               ? -1
               : (int)(16 * (high - digits) + (low - digits));
}

static qmi_token_kind kind_of(
    const qmi_tokenizer *tokenizer, int32_t id, uint8_t *byte)
{
    const qmi_bpe_tokenizer *t = as_bpe(tokenizer);
    if (t->kinds[id] == QMI_TOKEN_BYTE) {
        size_t n = 0;
        const char *token = qmi_vocabulary_bytes(&t->bpe.vocabulary, id, &n);
        *byte = (uint8_t)byte_value(token, n);
    }
    return (qmi_token_kind)t->kinds[id];
}

/* ---- construction -------------------------------------------------------- */

static void close_bpe(qmi_tokenizer *tokenizer)
{
    qmi_bpe_tokenizer *t = (qmi_bpe_tokenizer *)tokenizer;
    qmi_added_tokens_free(&t->added);
    qmi_added_tokens_free(&t->normalized);
    qmi_normalizer_free(&t->normalizer);
    qmi_pre_tokenizer_free(&t->pre_tokenizer);
    qmi_bpe_free(&t->bpe);
    qmi_token_decoder_free(&t->decoder);
    qmi_free(t->before.ids);
    qmi_free(t->after.ids);
    qmi_free(t->kinds);
    qmi_free(t);
}

static const qmi_tokenizer_type BPE = {close_bpe, id_of, kind_of, encode,
    decode, stream_create, qmi_free, stream_add};

qmoe_status qmi_bpe_tokenizer_create(qmi_bpe_tokenizer **out, qmi_error *err)
{
    qmi_bpe_tokenizer *t = qmi_calloc(1, sizeof *t, "a tokenizer", err);
    *out = t;
    if (t == NULL)
        return QMOE_E_NOMEM;
    t->base.type = &BPE;
    t->base.bos = t->base.eos = t->base.pad = -1;
    t->bpe = (qmi_bpe)QMI_BPE_INIT;
    return QMOE_OK;
}

/* A token that is searched in normalised text is normalised itself. */
static qmoe_status add_normalized(
    qmi_bpe_tokenizer *t, const qmi_added_token *token, qmi_error *err)
{
    qmi_added_token normal = *token;
    qmi_matcher *matcher = NULL;
    qmi_text work[2] = {{.err = err}, {.err = err}};
    const char *content = NULL;
    QMI_TRY(qmi_matcher_create(&matcher, err));
    qmoe_status status = qmi_normalize(&t->normalizer, matcher, work, &content,
        &normal.n, token->content, token->n, err);
    normal.content = (char *)content;
    if (status == QMOE_OK)
        status = qmi_added_tokens_add(&t->normalized, &normal, err);
    qmi_matcher_free(matcher);
    qmi_free(work[0].data);
    qmi_free(work[1].data);
    return status;
}

/* Its bytes in the vocabulary, unless they are there.  In a byte-level file an
 * added token is spelled like the others, so it may be one of them, unless it
 * has a character that stands for no byte. */
static qmoe_status put_content(
    qmi_bpe_tokenizer *t, const qmi_added_token *token, qmi_error *err)
{
    qmi_vocabulary *v = &t->bpe.vocabulary;
    char unspelled[QMI_MAX_ADDED_BYTES];
    const char *bytes = token->content;
    size_t n = token->n, n_there = 0;
    bool findable = true;
    if (n > sizeof unspelled)
        return QMOE_OK; /* refused when it is added */
    if (t->byte_level) {
        findable = qmi_bytes_of_token(unspelled, &n, token->content, token->n);
        bytes = findable ? unspelled : token->content;
        n = findable ? n : token->n;
    }
    const int32_t other = findable ? qmi_vocabulary_find(v, bytes, n) : -1;
    const char *there = token->id >= 0 && token->id < v->size
                            ? qmi_vocabulary_bytes(v, token->id, &n_there)
                            : NULL;
    if (n_there == 0 && other < 0)
        return qmi_vocabulary_put(v, token->id, bytes, n, false, err);
    if (n_there == n && memcmp(there, bytes, n) == 0)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "added token %d '%.200s' is another token of the vocabulary",
        (int)token->id, token->content);
}

qmoe_status qmi_bpe_tokenizer_add(qmi_bpe_tokenizer *t,
    const qmi_added_token *token, const char *file, qmi_error *err)
{
    qmoe_status status = put_content(t, token, err);
    if (status == QMOE_OK)
        status = token->normalized
                     ? add_normalized(t, token, err)
                     : qmi_added_tokens_add(&t->added, token, err);
    return status == QMOE_OK || status == QMOE_E_NOMEM
               ? status
               : qmi_error_prefix(err, status, "%s", file);
}

static void set_kinds(qmi_bpe_tokenizer *t, const qmi_added_tokens *list)
{
    for (size_t i = 0; i < list->n; i++)
        t->kinds[list->tokens[i].id] =
            list->tokens[i].special ? QMI_TOKEN_CONTROL : QMI_TOKEN_ADDED;
}

/* Pieces, gaps, and the bytes that characters without a token become. */
static qmoe_status fill_kinds(qmi_bpe_tokenizer *t, qmi_error *err)
{
    const qmi_vocabulary *v = &t->bpe.vocabulary;
    qmi_free(t->kinds);
    t->kinds = qmi_calloc((size_t)v->size, 1, "kinds of tokens", err);
    if (t->kinds == NULL)
        return QMOE_E_NOMEM;
    t->base.size = v->size;
    for (int32_t id = 0; id < v->size; id++) {
        size_t n = 0;
        const char *token = qmi_vocabulary_bytes(v, id, &n);
        const bool is_byte =
            t->decoder.by_characters && byte_value(token, n) >= 0;
        if (n != 0)
            t->kinds[id] = is_byte ? QMI_TOKEN_BYTE : QMI_TOKEN_PIECE;
    }
    set_kinds(t, &t->added);
    set_kinds(t, &t->normalized);
    return QMOE_OK;
}

static void fill_bytes(qmi_bpe *bpe)
{
    for (int byte = 0; byte < 256; byte++) {
        static const char digits[] = "0123456789ABCDEF";
        const char named[] = {
            '<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'};
        const char plain = (char)byte;
        bpe->bytes[byte] =
            bpe->by_bytes
                ? qmi_vocabulary_find(&bpe->vocabulary, &plain, 1)
                : qmi_vocabulary_find(&bpe->vocabulary, named, sizeof named);
    }
}

qmoe_status qmi_bpe_tokenizer_seal(
    qmi_bpe_tokenizer *t, const char *file, qmi_error *err)
{
    if (t->bpe.vocabulary.size == 0)
        return qmi_fail(err, QMOE_E_FORMAT, "%s: no tokens", file);
    qmi_added_tokens_sort(&t->added);
    qmi_added_tokens_sort(&t->normalized);
    fill_bytes(&t->bpe);
    return fill_kinds(t, err);
}
