/* SPDX-License-Identifier: Apache-2.0
 * In: a tokenizer.model of SentencePiece with pieces of type BPE (Llama,
 * Mixtral).  Out: a byte-pair tokenizer.  Two neighbours merge to the piece
 * that they spell, the one of highest score first, the leftmost of equals.  A
 * space becomes U+2581, and one stands before the text.  Models that normalise
 * more than this are refused. */
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "dtype.h"
#include "map.h"
#include "protobuf.h"
#include "spiece_check.h"
#include "tokenizer_bpe.h"

enum { MAX_FILE_BYTES = 64 << 20 };

/* Field numbers and values of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { TRAINER_TYPE = 3, TRAINER_SUFFIX = 24, TRAINER_BYTE_FALLBACK = 35 };
enum { TRAINER_BOS = 41, TRAINER_EOS = 42, TRAINER_PAD = 43 };
enum { NORMALIZER_CHARSMAP = 2, NORMALIZER_PREFIX = 3 };
enum { NORMALIZER_REMOVE = 4, NORMALIZER_ESCAPE = 5 };
enum { TYPE_BPE = 2 };
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

#define SPACE "\xe2\x96\x81"

typedef struct scored_piece {
    float score;
    int32_t id;
} scored_piece;

typedef struct reader {
    qmi_bpe_tokenizer *t;
    const char *path;
    scored_piece *pieces; /* [n] that merges can make */
    size_t n, n_pieces;
    int64_t type, bos, eos, pad;
    bool suffix, charsmap, prefix, remove, escape;
    qmi_error *err;
} reader;

static qmoe_status refuse(const reader *r, const char *what)
{
    return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
        "%s: a SentencePiece model %s is not supported", r->path, what);
}

/* ---- settings ---- */

static void read_trainer(reader *r, qmi_message in)
{
    qmi_field f = {0};
    while (in.next != in.end && qmi_read_field(&in, &f)) {
        if (f.wire != QMI_WIRE_VARINT)
            continue;
        const int32_t value = (int32_t)f.value;
        if (f.number == TRAINER_TYPE)
            r->type = value;
        else if (f.number == TRAINER_SUFFIX)
            r->suffix = value != 0;
        else if (f.number == TRAINER_BYTE_FALLBACK)
            r->t->bpe.byte_fallback = value != 0;
        else if (f.number == TRAINER_BOS)
            r->bos = value;
        else if (f.number == TRAINER_EOS)
            r->eos = value;
        else if (f.number == TRAINER_PAD)
            r->pad = value;
    }
}

static void read_normalizer(reader *r, qmi_message in)
{
    qmi_field f = {0};
    while (in.next != in.end && qmi_read_field(&in, &f)) {
        const bool value = f.wire == QMI_WIRE_VARINT && f.value != 0;
        if (f.number == NORMALIZER_CHARSMAP && f.wire == QMI_WIRE_BYTES)
            r->charsmap = qmi_message_bytes(f.bytes) != 0;
        else if (f.number == NORMALIZER_PREFIX)
            r->prefix = value;
        else if (f.number == NORMALIZER_REMOVE)
            r->remove = value;
        else if (f.number == NORMALIZER_ESCAPE)
            r->escape = value;
    }
}

static qmoe_status check_settings(const reader *r)
{
    if (r->type != TYPE_BPE)
        return refuse(r, "of another type than BPE");
    if (r->charsmap)
        return refuse(r, "with a character map");
    if (r->remove)
        return refuse(r, "that removes extra white space");
    if (!r->escape || r->suffix)
        return refuse(r, "that keeps spaces, or has them behind words");
    return QMOE_OK;
}

/* ---- pieces ---- */

static qmoe_status put_piece(
    reader *r, int32_t id, qmi_message text, float score, int type)
{
    qmi_bpe *bpe = &r->t->bpe;
    const char *bytes = (const char *)text.next;
    const size_t n = qmi_message_bytes(text);
    /* Bytes are found by their names, but are not what a merge makes. */
    const bool find = type == NORMAL || type == BYTE;
    if (type == UNUSED)
        return refuse(r, "with unused pieces");
    qmoe_status status =
        qmi_vocabulary_put(&bpe->vocabulary, id, bytes, n, find, r->err);
    if (status != QMOE_OK)
        return qmi_error_prefix(r->err, status, "%s", r->path);
    if (type == NORMAL)
        r->pieces[r->n++] = (scored_piece){score, id};
    if (type == UNKNOWN)
        bpe->unk = id;
    if (type != CONTROL && type != USER_DEFINED && type != UNKNOWN)
        return QMOE_OK;
    const qmi_added_token token = {.content = (char *)bytes,
        .n = n,
        .id = id,
        .special = type != USER_DEFINED};
    return qmi_bpe_tokenizer_add(r->t, &token, r->path, r->err);
}

static qmoe_status read_piece(reader *r, int32_t id, qmi_message in)
{
    qmi_field f = {0};
    qmi_message text = {in.next, in.next};
    float score = 0;
    int type = NORMAL;
    while (in.next != in.end && qmi_read_field(&in, &f)) {
        if (f.number == PIECE_TEXT && f.wire == QMI_WIRE_BYTES)
            text = f.bytes;
        if (f.number == PIECE_TYPE && f.wire == QMI_WIRE_VARINT)
            type = f.value <= BYTE ? (int)f.value : NORMAL;
        if (f.number == PIECE_SCORE && f.wire == QMI_WIRE_32) {
            const uint32_t bits = qmi_load_u32(f.bytes.next);
            memcpy(&score, &bits, sizeof score);
        }
    }
    return put_piece(r, id, text, score, type);
}

/* qmi_spiece_check has seen all of it. */
static qmoe_status read_model(reader *r, qmi_message in)
{
    qmi_field f = {0};
    int32_t id = 0;
    const qmi_message start = in;
    while (in.next != in.end && qmi_read_field(&in, &f)) {
        if (f.number == MODEL_TRAINER && f.wire == QMI_WIRE_BYTES)
            read_trainer(r, f.bytes);
        if (f.number == MODEL_NORMALIZER && f.wire == QMI_WIRE_BYTES)
            read_normalizer(r, f.bytes);
    }
    QMI_TRY(check_settings(r));
    r->pieces = qmi_calloc(r->n_pieces, sizeof *r->pieces, "pieces", r->err);
    if (r->pieces == NULL)
        return QMOE_E_NOMEM;
    in = start;
    while (in.next != in.end && qmi_read_field(&in, &f))
        if (f.number == MODEL_PIECES && f.wire == QMI_WIRE_BYTES)
            QMI_TRY(read_piece(r, id++, f.bytes));
    return QMOE_OK;
}

/* ---- ranks ---- */

static int compare_pieces(const void *a, const void *b)
{
    const float x = ((const scored_piece *)a)->score;
    const float y = ((const scored_piece *)b)->score;
    return (x < y) - (x > y);
}

/* Equal scores are equal ranks: their order is that of the text. */
static qmoe_status fill_ranks(reader *r)
{
    qmi_bpe *bpe = &r->t->bpe;
    const size_t n = (size_t)bpe->vocabulary.size;
    uint32_t rank = 0;
    bpe->ranks = qmi_calloc(n, sizeof *bpe->ranks, "ranks", r->err);
    if (bpe->ranks == NULL)
        return QMOE_E_NOMEM;
    memset(bpe->ranks, 0xff, n * sizeof *bpe->ranks);
    if (r->n != 0)
        qsort(r->pieces, r->n, sizeof *r->pieces, compare_pieces);
    for (size_t i = 0; i < r->n; i++) {
        if (i != 0 && r->pieces[i].score != r->pieces[i - 1].score)
            rank++;
        bpe->ranks[r->pieces[i].id] = rank;
    }
    return QMOE_OK;
}

/* ---- the tokenizer ---- */

static qmoe_status add_normal_step(reader *r, qmi_normal_kind kind)
{
    qmi_normalizer *normalizer = &r->t->normalizer;
    struct qmi_normal_step *step = &normalizer->steps[normalizer->n++];
    step->kind = kind;
    step->content = qmi_strdup(SPACE, r->err);
    if (step->content == NULL)
        return QMOE_E_NOMEM;
    return kind == QMI_NORMAL_PREPEND ? QMOE_OK
                                      : qmi_pattern_compile(&step->pattern, " ",
                                            true, r->path, r->err);
}

/* An id of the frame; -1: the model has none. */
static int32_t frame_id(const reader *r, int64_t id)
{
    return id >= 0 && id < r->t->bpe.vocabulary.size ? (int32_t)id : -1;
}

static qmoe_status fill(reader *r, qmi_message model)
{
    qmi_bpe_tokenizer *t = r->t;
    t->bpe.fuse_unk = true;
    t->decoder.by_characters = true;
    QMI_TRY(read_model(r, model));
    QMI_TRY(fill_ranks(r));
    if (r->prefix)
        QMI_TRY(add_normal_step(r, QMI_NORMAL_PREPEND));
    QMI_TRY(add_normal_step(r, QMI_NORMAL_REPLACE));
    t->decoder.n_strip = r->prefix ? 1 : 0;
    t->decoder.space = qmi_strdup(SPACE, r->err);
    if (t->decoder.space == NULL)
        return QMOE_E_NOMEM;
    t->base.bos = frame_id(r, r->bos);
    t->base.eos = frame_id(r, r->eos);
    t->base.pad = frame_id(r, r->pad);
    /* As Hugging Face's Llama tokenizer does unless its settings say no. */
    if (t->base.bos >= 0)
        QMI_TRY(qmi_id_list_add(&t->before, &t->base.bos, 1, r->err));
    return qmi_bpe_tokenizer_seal(t, r->path, r->err);
}

qmoe_status qmi_tokenizer_open_piece_bpe(
    qmi_tokenizer **out, const char *path, qmi_error *err)
{
    char *data = NULL;
    size_t n = 0;
    qmi_spiece_info info;
    /* Defaults of the format. */
    reader r = {.path = path,
        .type = 1,
        .bos = 1,
        .eos = 2,
        .pad = -1,
        .prefix = true,
        .remove = true,
        .escape = true,
        .err = err};
    *out = NULL;
    QMI_TRY(qmi_read_file(&data, &n, path, MAX_FILE_BYTES, err));
    qmoe_status status = qmi_spiece_check(&info, data, n, path, err);
    if (status == QMOE_OK)
        status = qmi_bpe_tokenizer_create(&r.t, err);
    if (status == QMOE_OK) {
        const uint8_t *start = (const uint8_t *)data;
        r.n_pieces = (size_t)info.n_pieces;
        status = fill(&r, (qmi_message){start, start + n});
    }
    qmi_free(r.pieces);
    qmi_free(data);
    if (status == QMOE_OK)
        *out = &r.t->base;
    else if (r.t != NULL)
        qmi_tokenizer_close(&r.t->base);
    return status;
}
