/* SPDX-License-Identifier: Apache-2.0
 * Hostile tokenizer files: each must be refused with an error that names the
 * file, and nothing may reach standard error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "map.h"
#include "mt19937.h"
#include "spiece_check.h"
#include "tokenizer.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini/spiece.model"
#define PATH QMOE_TEST_DIR "/test_spiece_check.model"

/* ---- a small writer of model files --------------------------------------- */

enum { CAPACITY = 1 << 17 };
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4 };

typedef struct buffer {
    uint8_t data[CAPACITY];
    size_t n;
} buffer;

static void put_byte(buffer *b, unsigned value)
{
    assert_true(b->n < CAPACITY);
    b->data[b->n++] = (uint8_t)value;
}

static void put_varint(buffer *b, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put_byte(b, (unsigned)(value & 0x7f) | 0x80);
    put_byte(b, (unsigned)value);
}

static void put_field(buffer *b, unsigned number, const void *data, size_t n)
{
    put_varint(b, (uint64_t)number << 3 | 2);
    put_varint(b, n);
    assert_true(n <= CAPACITY - b->n);
    if (n != 0)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_piece(
    buffer *b, const void *text, size_t n, int type, float score)
{
    static buffer piece;
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    piece.n = 0;
    put_field(&piece, 1, text, n);
    put_varint(&piece, 2 << 3 | 5);
    for (int shift = 0; shift < 32; shift += 8)
        put_byte(&piece, bits >> shift & 0xff);
    put_varint(&piece, 3 << 3 | 0);
    put_varint(&piece, (uint64_t)type);
    put_field(b, 1, piece.data, piece.n);
}

/* Pieces of a usable model: <unk>, a, b, the space symbol before both. */
static void put_pieces(buffer *b)
{
    b->n = 0;
    put_piece(b, "<unk>", 5, UNKNOWN, 0.0f);
    put_piece(b, "a", 1, NORMAL, -1.0f);
    put_piece(b, "b", 1, NORMAL, -1.0f);
    put_piece(b, "\xe2\x96\x81", 3, NORMAL, -1.0f);
    put_piece(b,
        "\xe2\x96\x81"
        "a",
        4, NORMAL, -1.5f);
    put_piece(b,
        "\xe2\x96\x81"
        "b",
        4, NORMAL, -1.5f);
}

static void put_normalizer(buffer *b, unsigned number, const buffer *charsmap)
{
    static buffer spec;
    spec.n = 0;
    put_field(&spec, 1, "test", 4);
    if (charsmap != NULL)
        put_field(&spec, 2, charsmap->data, charsmap->n);
    put_field(b, number, spec.data, spec.n);
}

static void save(const void *data, size_t n)
{
    FILE *file = fopen(PATH, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static qmi_tokenizer *open_good(const buffer *b)
{
    qmi_tokenizer *tokenizer = NULL;
    qmi_error err = {0};
    save(b->data, b->n);
    if (qmi_tokenizer_open_spiece(&tokenizer, PATH, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return tokenizer;
}

/* The file is E_FORMAT, and the text names it and has `part` in it. */
static void check_refused(const void *data, size_t n, const char *part)
{
    qmi_tokenizer *tokenizer = NULL;
    qmi_error err = {0};
    save(data, n);
    qmoe_status status = qmi_tokenizer_open_spiece(&tokenizer, PATH, &err);
    if (status == QMOE_OK)
        fail_msg("accepted, but: %s", part);
    assert_int_equal(status, QMOE_E_FORMAT);
    assert_null(tokenizer);
    assert_non_null(strstr(err.text, PATH));
    if (strstr(err.text, part) == NULL)
        fail_msg("'%s' does not say '%s'", err.text, part);
}

static void first_ids(const qmi_tokenizer *t, int32_t *first, const char *text)
{
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(
        qmi_tokenizer_encode(t, &ids, &n, text, strlen(text), NULL, NULL),
        QMOE_OK);
    assert_true(n > 0);
    *first = ids[0];
    qmi_free(ids);
}

/* ---- character maps ------------------------------------------------------ */

/* A trie that maps "a" to the replacement at byte `value`, as 32-bit units. */
enum { N_UNITS = 256, ROOT_BASE = 1, NODE = ROOT_BASE ^ 'a', NODE_BASE = 0x80 };

static void set_unit(uint32_t *units, uint32_t at, uint32_t base, uint32_t bits)
{
    units[at] = (at ^ base) << 10 | bits;
}

static void fill_trie(uint32_t *units, uint32_t n_units, uint32_t value)
{
    /* Unused units look like leaves, which no label equals. */
    for (uint32_t i = 0; i < n_units; i++)
        units[i] = 0x80000000u;
    set_unit(units, 0, ROOT_BASE, 0);
    set_unit(units, NODE, NODE_BASE, 0x100 | 'a');
    units[NODE_BASE] = 0x80000000u | value;
}

static void put_u32(buffer *b, uint32_t value)
{
    for (int shift = 0; shift < 32; shift += 8)
        put_byte(b, value >> shift & 0xff);
}

static void put_charsmap(buffer *b, const uint32_t *units, uint32_t n_units,
    const void *texts, size_t n)
{
    b->n = 0;
    put_u32(b, 4 * n_units);
    for (uint32_t i = 0; i < n_units; i++)
        put_u32(b, units[i]);
    memcpy(b->data + b->n, texts, n);
    b->n += n;
}

static buffer model, map;

static void make_model(unsigned normalizer_field)
{
    put_pieces(&model);
    if (normalizer_field != 3)
        put_normalizer(&model, 3, NULL);
    put_normalizer(&model, normalizer_field, &map);
}

static void check_map(const uint32_t *units, uint32_t n_units,
    const void *texts, size_t n, const char *part)
{
    put_charsmap(&map, units, n_units, texts, n);
    for (unsigned field = 3; field <= 5; field += 2) {
        make_model(field);
        check_refused(model.data, model.n, part);
    }
}

static void small_models_work(void **state)
{
    (void)state;
    uint32_t units[N_UNITS];
    int32_t id = -1;
    put_pieces(&model);
    put_normalizer(&model, 3, NULL);
    qmi_tokenizer *tokenizer = open_good(&model);
    assert_int_equal(qmi_tokenizer_size(tokenizer), 106);
    first_ids(tokenizer, &id, "a");
    assert_int_equal(id, 4);
    qmi_tokenizer_close(tokenizer);

    fill_trie(units, N_UNITS, 1);
    put_charsmap(&map, units, N_UNITS, "\0b", 3);
    make_model(3);
    tokenizer = open_good(&model);
    first_ids(tokenizer, &id, "a");
    assert_int_equal(id, 5);
    qmi_tokenizer_close(tokenizer);
}

static void map_sizes(void **state)
{
    (void)state;
    static const uint32_t bad[] = {
        0, 4, 1020, 1028, 2048, 0x7ffffc00, 0xfffffc00, UINT32_MAX};
    uint32_t units[N_UNITS];
    fill_trie(units, N_UNITS, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_charsmap(&map, units, N_UNITS, "\0b", 3);
        memcpy(map.data, &bad[i], sizeof bad[i]);
        make_model(3);
        check_refused(model.data, model.n, "a trie of");
    }
    for (size_t n = 1; n <= 4 + 1023; n += n < 8 || n >= 1020 ? 1 : 23) {
        put_charsmap(&map, units, N_UNITS, "\0b", 3);
        map.n = n;
        make_model(3);
        check_refused(model.data, model.n, "a trie of");
    }
    put_charsmap(&map, units, N_UNITS, "", 0);
    make_model(3);
    check_refused(model.data, model.n, "outside of the file");
}

static void map_pointers(void **state)
{
    (void)state;
    uint32_t units[2 * N_UNITS];
    static const uint32_t outside[] = {256, 300, 0x1fffff};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        fill_trie(units, N_UNITS, 1);
        set_unit(units, 0, outside[i], 0);
        check_map(units, N_UNITS, "\0b", 3, "outside of the trie");
        fill_trie(units, N_UNITS, 1);
        set_unit(units, NODE, outside[i], 0x100 | 'a');
        check_map(units, N_UNITS, "\0b", 3, "outside of the trie");
    }
    fill_trie(units, N_UNITS, 1);
    units[NODE] = 0x200 | 0x100 | 'a' | 1u << 10; /* offset in blocks */
    check_map(units, N_UNITS, "\0b", 3, "outside of the trie");

    /* A child that is its own parent's node: keys without end. */
    fill_trie(units, N_UNITS, 1);
    set_unit(units, NODE, ROOT_BASE, 'a');
    check_map(units, N_UNITS, "\0b", 3, "a key is too long");
}

static void map_replacements(void **state)
{
    (void)state;
    uint32_t units[N_UNITS];
    char text[300];
    static const uint32_t outside[] = {3, 4, 1u << 20, 0x7fffffff};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        fill_trie(units, N_UNITS, outside[i]);
        check_map(units, N_UNITS, "\0b", 3, "outside of the file");
    }
    fill_trie(units, N_UNITS, 0);
    check_map(units, N_UNITS, "bbb", 3, "a replacement is too long");
    memset(text, 'b', sizeof text);
    text[256] = '\0';
    check_map(units, N_UNITS, text, sizeof text, "a replacement is too long");
    check_map(units, N_UNITS, "\xe2\x96", 3, "not UTF-8");
}

/* n keys a, aa, aaa, ...: node i lies in block i, its leaf at the start of
 * block i + 1. */
static void nest_keys(uint32_t *units, uint32_t n)
{
    for (uint32_t i = 0; i < 256 * (n + 2); i++)
        units[i] = 0x80000000u;
    set_unit(units, 0, 256, 0);
    for (uint32_t i = 1; i <= n; i++)
        set_unit(units, 256 * i ^ 'a', 256 * (i + 1), 0x100 | 'a');
}

static void map_nesting(void **state)
{
    (void)state;
    static uint32_t units[256 * 40];
    int32_t id = -1;
    const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    nest_keys(units, 32);
    put_charsmap(&map, units, 256 * 34, "b", 2);
    make_model(3);
    qmi_tokenizer *tokenizer = open_good(&model);
    first_ids(tokenizer, &id, text);
    assert_int_equal(id, 5);
    qmi_tokenizer_close(tokenizer);
    nest_keys(units, 33);
    check_map(units, 256 * 35, "b", 2, "prefixes of one another");
}

/* The bound on text length follows from the longest replacement. */
static void growth_is_bounded(void **state)
{
    (void)state;
    uint32_t units[N_UNITS];
    qmi_spiece_info info;
    fill_trie(units, N_UNITS, 0);
    put_charsmap(&map, units, N_UNITS, "b b b", 6);
    make_model(3);
    assert_int_equal(
        qmi_spiece_check(&info, model.data, model.n, "x", NULL), QMOE_OK);
    assert_int_equal(info.n_pieces, 6);
    assert_int_equal(info.max_growth, 5 + 2 * 2);
    put_pieces(&model);
    put_normalizer(&model, 3, NULL);
    assert_int_equal(
        qmi_spiece_check(&info, model.data, model.n, "x", NULL), QMOE_OK);
    assert_int_equal(info.max_growth, 3);

    qmi_tokenizer *tokenizer = open_good(&model);
    int32_t *ids = NULL;
    size_t n = 0;
    qmi_error err = {0};
    assert_int_equal(qmi_tokenizer_encode(tokenizer, &ids, &n, "a",
                         (size_t)INT32_MAX / 3 + 1, NULL, &err),
        QMOE_E_INVALID);
    assert_non_null(strstr(err.text, "too long"));
    qmi_tokenizer_close(tokenizer);
}

/* ---- pieces and wire format ---------------------------------------------- */

static void check_piece(
    const void *text, size_t n, int type, float score, const char *part)
{
    put_pieces(&model);
    put_piece(&model, text, n, type, score);
    put_normalizer(&model, 3, NULL);
    check_refused(model.data, model.n, part);
}

static void pieces(void **state)
{
    (void)state;
    char text[600];
    memset(text, 'x', sizeof text);
    check_piece("", 0, NORMAL, 0.0f, "piece 6 is empty");
    check_piece("c\0d", 3, NORMAL, 0.0f, "piece 6 is not UTF-8 text");
    check_piece("\xc3", 1, NORMAL, 0.0f, "piece 6 is not UTF-8 text");
    check_piece("c", 1, NORMAL, NAN, "score");
    check_piece("c", 1, NORMAL, -INFINITY, "score");
    check_piece(text, 513, NORMAL, 0.0f, "piece 6 is too long");
    check_piece(text, 65, USER_DEFINED, 0.0f, "piece 6 is too long");
    check_piece("b", 1, NORMAL, 0.0f, "not a usable SentencePiece model");
    check_piece("<unk2>", 6, UNKNOWN, 0.0f, "not a usable SentencePiece model");

    put_pieces(&model);
    put_piece(&model, text, 512, NORMAL, 0.0f);
    put_piece(&model, text, 64, USER_DEFINED, 0.0f);
    put_normalizer(&model, 3, NULL);
    qmi_tokenizer_close(open_good(&model));

    model.n = 0;
    put_normalizer(&model, 3, NULL);
    check_refused(model.data, model.n, "no pieces");
    put_piece(&model, "a", 1, NORMAL, 0.0f);
    check_refused(model.data, model.n, "not a usable SentencePiece model");
    put_pieces(&model);
    check_refused(model.data, model.n, "no normalizer");
}

static void wire_format(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } tails[] = {
        {"\x00\x00", 2}, /* field number 0 */
        {"\x0a", 1},     /* no length */
        {"\x0a\x05"
         "abc",
            5}, /* length beyond the end */
        {"\x0b", 1},
        {"\x0c", 1}, /* groups */
        {"\x0e", 1},
        {"\x0f", 1},                     /* no such wire type */
        {"\x0d\x01\x02\x03", 4},         /* cut 32-bit value */
        {"\x09\x01\x02\x03\x04\x05", 6}, /* cut 64-bit value */
        {"\x08\xff", 2},                 /* cut varint */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12},
        {"\x8a\x80\x80\x80\x80\x01\x00", 7}, /* tag beyond 32 bits */
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},
    };
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        put_pieces(&model);
        put_normalizer(&model, 3, NULL);
        memcpy(model.data + model.n, tails[i].bytes, tails[i].n);
        model.n += tails[i].n;
        check_refused(model.data, model.n, "broken protocol buffer");
    }
    check_refused("", 0, "no pieces");
    check_refused("This is text, not a model.\n", 27, "not a SentencePiece");
    check_refused("{\"a\": 1}", 8, "not a SentencePiece");
}

/* ---- the real file, damaged ---------------------------------------------- */

static void truncated(void **state)
{
    (void)state;
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(qmi_read_file(&data, &n, MODEL, 1 << 20, NULL), QMOE_OK);
    for (size_t cut = 0; cut < n; cut += 1 + n / 60)
        check_refused(data, cut, "");
    check_refused(data, n - 1, "broken protocol buffer");
    qmi_free(data);
}

/* Bytes changed at random: refused, or usable without a fault. */
static void flipped(void **state)
{
    (void)state;
    char *data = NULL;
    size_t n = 0;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 20);
    assert_int_equal(qmi_read_file(&data, &n, MODEL, 1 << 20, NULL), QMOE_OK);
    for (int i = 0; i < 80; i++) {
        size_t at = qmi_mt19937_interval(&rng, (uint32_t)n - 1);
        char kept = data[at];
        qmi_tokenizer *tokenizer = NULL;
        qmi_error err = {0};
        data[at] = (char)qmi_mt19937_u32(&rng);
        save(data, n);
        qmoe_status status = qmi_tokenizer_open_spiece(&tokenizer, PATH, &err);
        data[at] = kept;
        assert_true(status == QMOE_OK || status == QMOE_E_FORMAT);
        if (status != QMOE_OK)
            continue;
        int32_t *ids = NULL;
        size_t n_ids = 0;
        const char *text = "\xef\xbc\xa1 \xc2\xbd caf\xc3\xa9 \xef\xac\x81ne "
                           "\xef\xb7\xba \xff The LORD <extra_id_0>";
        assert_int_equal(qmi_tokenizer_encode(tokenizer, &ids, &n_ids, text,
                             strlen(text), NULL, &err),
            QMOE_OK);
        qmi_free(ids);
        qmi_tokenizer_close(tokenizer);
    }
    qmi_free(data);
}

static void paths(void **state)
{
    (void)state;
    qmi_tokenizer *tokenizer = (qmi_tokenizer *)&tokenizer;
    qmi_error err = {0};
    assert_int_equal(qmi_tokenizer_open_spiece(&tokenizer,
                         QMOE_TEST_DIR "/no/such/spiece.model", &err),
        QMOE_E_NOT_FOUND);
    assert_null(tokenizer);
    assert_non_null(strstr(err.text, "/no/such/spiece.model"));
    assert_int_equal(
        qmi_tokenizer_open_spiece(&tokenizer, QMOE_TEST_DIR, &err), QMOE_E_IO);
    assert_non_null(strstr(err.text, QMOE_TEST_DIR));
    save("", 0);
    assert_int_equal(truncate(PATH, (64 << 20) + 1), 0);
    assert_int_equal(
        qmi_tokenizer_open_spiece(&tokenizer, PATH, &err), QMOE_E_FORMAT);
    assert_non_null(strstr(err.text, PATH));
    qmi_tokenizer_close(NULL);
}

/* A self-test in the file that fails makes SentencePiece write log lines. */
static void silent(void **state)
{
    (void)state;
    const char *log = QMOE_TEST_DIR "/test_spiece_check.log";
    put_pieces(&model);
    put_normalizer(&model, 3, NULL);
    put_field(&model, 4,
        "\x0a\x06\x0a\x01"
        "a\x12\x01"
        "b",
        8);
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    FILE *file = fopen(log, "w+b");
    assert_non_null(file);
    assert_int_equal(dup2(fileno(file), STDERR_FILENO), STDERR_FILENO);
    qmi_tokenizer *tokenizer = NULL;
    save(model.data, model.n);
    qmoe_status status = qmi_tokenizer_open_spiece(&tokenizer, PATH, NULL);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    assert_int_equal(status, QMOE_E_FORMAT);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    assert_int_equal(ftell(file), 0);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_models_work),
        cmocka_unit_test(map_sizes),
        cmocka_unit_test(map_pointers),
        cmocka_unit_test(map_replacements),
        cmocka_unit_test(map_nesting),
        cmocka_unit_test(growth_is_bounded),
        cmocka_unit_test(pieces),
        cmocka_unit_test(wire_format),
        cmocka_unit_test(truncated),
        cmocka_unit_test(flipped),
        cmocka_unit_test(paths),
        cmocka_unit_test(silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
