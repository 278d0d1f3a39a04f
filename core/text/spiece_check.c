/* SPDX-License-Identifier: Apache-2.0
 * In: the bytes of a SentencePiece ModelProto (protocol buffer wire format).
 * Out: whether the library may see them, and what its arrays need.  Pieces are
 * checked, and the double-array trie of the normalizer's character map, which
 * the library walks without bounds: after this every walk stays inside. */
#include "spiece_check.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "dtype.h"
#include "hints.h"
#include "json.h"
#include "protobuf.h"

enum { MAX_PIECES = INT32_MAX - 1000 };

/* The library collects at most 64 matches of user-defined pieces and 32 of
 * character map keys at one position in arrays on its stack. */
enum { MAX_PIECE_BYTES = 512, MAX_USER_PIECE_BYTES = 64, MAX_MATCHES = 32 };

/* The released models have 45,000 units, keys of a few characters and
 * replacements of 33 bytes at most. */
enum { MAX_UNITS = 1 << 20, MAX_KEY_BYTES = 200, MAX_REPLACEMENT_BYTES = 255 };

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { NORMALIZER_CHARSMAP = 2 };
enum { TYPE_USER_DEFINED = 4 };

/* ---- character map ------------------------------------------------------- */

/* A trie in Darts' double-array form.  Unit i with offset o has its children
 * at i ^ o ^ label; a child belongs to it when its own label field says so. */
typedef struct charsmap {
    const uint8_t *units;
    uint32_t n_units;
    const char *texts; /* NUL-terminated replacements */
    size_t n_text_bytes;
    uint8_t *matches; /* [n_units] 1 + most matches below; 0 = not visited */
    int32_t max_growth;
    const char *rule; /* the broken one */
} charsmap;

static bool break_rule(charsmap *map, const char *rule)
{
    map->rule = rule;
    return false;
}

static bool check_replacement(charsmap *map, uint32_t at)
{
    if (at >= map->n_text_bytes)
        return break_rule(map, "a replacement lies outside of the file");
    const char *text = map->texts + at;
    size_t n_left = map->n_text_bytes - at;
    size_t n = strnlen(text, n_left);
    if (n == n_left || n > MAX_REPLACEMENT_BYTES)
        return break_rule(map, "a replacement is too long");
    if (!qmi_utf8_valid(text, n))
        return break_rule(map, "a replacement is not UTF-8");
    int32_t growth = (int32_t)n;
    for (size_t i = 0; i < n; i++)
        growth += text[i] == ' ' ? 2 : 0; /* becomes U+2581, three bytes */
    if (growth > map->max_growth)
        map->max_growth = growth;
    return true;
}

/* Visits the subtree of unit `at`, reached by a key of `depth` bytes.  Depth
 * bounds the recursion and ends cycles. */
static bool visit_unit(charsmap *map, uint32_t at, int depth)
{
    /* A unit that several keys share is checked once: the time is linear in the
     * units. */
    if (map->matches[at] != 0)
        return true;
    if (depth > MAX_KEY_BYTES)
        return break_rule(map, "a key is too long");
    uint32_t unit = qmi_load_u32(map->units + 4 * (size_t)at);
    uint32_t base = at ^ ((unit >> 10) << ((unit & 0x200) >> 6));
    /* All 256 children at once. */
    if ((base | 0xff) >= map->n_units)
        return break_rule(map, "a unit points outside of the trie");
    bool has_leaf = (unit & 0x100) != 0;
    uint32_t leaf = qmi_load_u32(map->units + 4 * (size_t)base) & 0x7fffffff;
    if (has_leaf && !check_replacement(map, leaf))
        return false;

    int most = 0;
    for (uint32_t label = 0; label < 256; label++) {
        uint32_t child = base ^ label;
        uint32_t child_unit = qmi_load_u32(map->units + 4 * (size_t)child);
        if ((child_unit & 0x800000ff) != label)
            continue;
        if (!visit_unit(map, child, depth + 1))
            return false;
        if (map->matches[child] - 1 > most)
            most = map->matches[child] - 1;
    }
    most += has_leaf ? 1 : 0;
    if (most > MAX_MATCHES)
        return break_rule(map, "too many keys are prefixes of one another");
    map->matches[at] = (uint8_t)(most + 1);
    return true;
}

static qmoe_status check_charsmap(
    qmi_spiece_info *out, qmi_message bytes, const char *file, qmi_error *err)
{
    size_t n = qmi_message_bytes(bytes);
    if (n == 0)
        return QMOE_OK;
    uint32_t trie_bytes = n < 4 ? 0 : qmi_load_u32(bytes.next);
    /* Tries are built in blocks of 256 units, so that no label leads out. */
    if (trie_bytes == 0 || trie_bytes % 1024 != 0 || trie_bytes > n - 4 ||
        trie_bytes / 4 > MAX_UNITS)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: character map: a trie of %u bytes in %zu is impossible", file,
            (unsigned)trie_bytes, n);
    charsmap map = {
        .units = bytes.next + 4,
        .n_units = trie_bytes / 4,
        .texts = (const char *)bytes.next + 4 + trie_bytes,
        .n_text_bytes = n - 4 - trie_bytes,
    };
    map.matches = qmi_calloc(map.n_units, 1, "the character map check", err);
    if (map.matches == NULL)
        return QMOE_E_NOMEM;
    bool good = visit_unit(&map, 0, 0);
    qmi_free(map.matches);
    if (!good)
        return qmi_fail(
            err, QMOE_E_FORMAT, "%s: character map: %s", file, map.rule);
    if (map.max_growth > out->max_growth)
        out->max_growth = map.max_growth;
    return QMOE_OK;
}

/* ---- messages ------------------------------------------------------------ */

static qmoe_status broken_wire(const char *file, qmi_error *err)
{
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: not a SentencePiece model: broken protocol buffer", file);
}

static qmoe_status check_normalizer(
    qmi_spiece_info *out, qmi_message in, const char *file, qmi_error *err)
{
    qmi_field f = {0};
    while (in.next != in.end) {
        if (!qmi_read_field(&in, &f))
            return broken_wire(file, err);
        if (f.number == NORMALIZER_CHARSMAP && f.wire == QMI_WIRE_BYTES)
            QMI_TRY(check_charsmap(out, f.bytes, file, err));
    }
    return QMOE_OK;
}

static const char *piece_rule(
    qmi_message text, bool has_score, float score, bool user_defined)
{
    size_t n = qmi_message_bytes(text);
    if (n == 0)
        return "is empty";
    if (n > (user_defined ? MAX_USER_PIECE_BYTES : MAX_PIECE_BYTES))
        return "is too long";
    if (memchr(text.next, 0, n) != NULL || !qmi_utf8_valid(text.next, n))
        return "is not UTF-8 text";
    if (has_score && !isfinite(score))
        return "has a score that is not finite";
    return NULL;
}

static qmoe_status check_piece(
    qmi_message in, int32_t index, const char *file, qmi_error *err)
{
    qmi_field f = {0};
    qmi_message text = {in.next, in.next};
    float score = 0.0f;
    bool has_score = false;
    bool user_defined = false;
    while (in.next != in.end) {
        if (!qmi_read_field(&in, &f))
            return broken_wire(file, err);
        if (f.number == PIECE_TEXT && f.wire == QMI_WIRE_BYTES)
            text = f.bytes;
        /* Any occurrence counts: a later value that is no type is ignored
         * by the library. */
        if (f.number == PIECE_TYPE && f.wire == QMI_WIRE_VARINT &&
            (uint32_t)f.value == TYPE_USER_DEFINED)
            user_defined = true;
        if (f.number != PIECE_SCORE || f.wire != QMI_WIRE_32)
            continue;
        uint32_t bits = qmi_load_u32(f.bytes.next);
        memcpy(&score, &bits, sizeof score);
        has_score = true;
    }
    const char *rule = piece_rule(text, has_score, score, user_defined);
    if (rule == NULL)
        return QMOE_OK;
    return qmi_fail(
        err, QMOE_E_FORMAT, "%s: piece %d %s", file, (int)index, rule);
}

qmoe_status qmi_spiece_check(qmi_spiece_info *out, const void *data,
    size_t n_bytes, const char *file, qmi_error *err)
{
    /* A space or a byte that is not UTF-8 becomes three bytes. */
    qmi_spiece_info info = {.n_pieces = 0, .max_growth = 3};
    *out = (qmi_spiece_info){0};
    const uint8_t *start = data;
    /* Fields of other numbers are the library's own business; their lengths
     * were checked. */
    qmi_message in = {start, start + n_bytes};
    bool has_normalizer = false;
    qmi_field f = {0};
    const char *hint = qmi_hint_contents(data, n_bytes);
    if (hint != NULL)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: not a SentencePiece model, but %s", file, hint);
    while (in.next != in.end) {
        if (!qmi_read_field(&in, &f))
            return broken_wire(file, err);
        if (f.wire != QMI_WIRE_BYTES)
            continue;
        if (f.number == MODEL_PIECES) {
            if (info.n_pieces == MAX_PIECES)
                return qmi_fail(
                    err, QMOE_E_FORMAT, "%s: too many pieces", file);
            QMI_TRY(check_piece(f.bytes, info.n_pieces, file, err));
            info.n_pieces++;
        }
        if (f.number == MODEL_NORMALIZER || f.number == MODEL_DENORMALIZER)
            QMI_TRY(check_normalizer(&info, f.bytes, file, err));
        has_normalizer = has_normalizer || f.number == MODEL_NORMALIZER;
    }
    if (info.n_pieces == 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: not a SentencePiece model: it has no pieces", file);
    /* The last part of every file: without it the file was cut short. */
    if (!has_normalizer)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: the SentencePiece model has no normalizer", file);
    *out = info;
    return QMOE_OK;
}
