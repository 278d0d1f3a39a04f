/* SPDX-License-Identifier: Apache-2.0
 * The dictionary of "ternary-dict" against its published checksum, known
 * properties and a second construction; encoding and decoding against a second
 * decoder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include "alloc.h"
#include "td_stack.h"

enum { MAX_NONZEROS = 3, NO_CODEWORD = -1 };

/* ---- the dictionary ---- */

/* Runs first: later the dictionary exists. */
static void generic_survives_a_failed_allocation(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= 2; n++) {
        qmi_alloc_fail_after(n);
        assert_null(qmi_dict_generic());
    }
    qmi_alloc_fail_after(0);
}

static void *ask_for_generic(void *unused)
{
    (void)unused;
    return (void *)qmi_dict_generic();
}

static void generic_is_one_for_all_threads(void **state)
{
    enum { N = 4 };
    pthread_t threads[N];
    void *dicts[N];
    (void)state;
    for (int i = 0; i < N; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, ask_for_generic, NULL), 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(pthread_join(threads[i], &dicts[i]), 0);
        assert_non_null(dicts[i]);
        assert_ptr_equal(dicts[i], dicts[0]);
    }
}

static void table_has_the_published_checksum(void **state)
{
    const char *path = QMOE_TEST_DIR "/decode_table.bin";
    const qmi_dict *dict = qmi_dict_generic();
    char sum[65] = "";
    (void)state;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (size_t c = 0; c < QMI_DICT_SIZE; c++)
        for (int i = 0; i < 2; i++)
            for (int shift = 0; shift < 32; shift += 8)
                putc((int)(dict->table[c][i] >> shift & 255), file);
    assert_int_equal(fclose(file), 0);
    file = popen("sha256sum '" QMOE_TEST_DIR "/decode_table.bin'", "r");
    assert_non_null(file);
    assert_int_equal(fread(sum, 1, 64, file), 64);
    assert_int_equal(pclose(file), 0);
    assert_string_equal(sum,
        "c09862c453fe122634070a475357ff81a679aff65829d84a56f806c02a54ed45");
    remove(path);
}

static void table_begins_and_ends_as_known(void **state)
{
    /* Runs of 1 .. 14 zero pairs. */
    static const uint16_t runs[] = {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 25};
    static const uint16_t singles[] = {0, 12, 13, 14, 326, 327, 15, 328, 329};
    /* Pairs 0 0 0 2 0 1 0 | 0 2 0 0 0 0. */
    static const uint32_t last[2] = {0x0102000d, 0x0000020d};
    const qmi_dict *dict = qmi_dict_generic();
    uint32_t largest = 0;
    (void)state;
    for (uint32_t n = 1; n <= QMI_DICT_MAX_PAIRS; n++) {
        assert_int_equal(dict->table[runs[n - 1]][0], n);
        assert_int_equal(dict->table[runs[n - 1]][1], n);
    }
    for (uint32_t pair = 0; pair < 9; pair++) {
        assert_int_equal(dict->root[pair], singles[pair]);
        assert_int_equal(dict->table[singles[pair]][0],
            1 | (pair % 3) << 4 | (pair / 3) << 6);
    }
    assert_int_equal(dict->table[65535][0], last[0]);
    assert_int_equal(dict->table[65535][1], last[1]);
    for (size_t c = 0; c < QMI_DICT_SIZE; c++)
        for (int i = 0; i < 2; i++)
            largest = dict->table[c][i] > largest ? dict->table[c][i] : largest;
    assert_int_equal(largest, 0xa800000c);
}

static void table_has_the_known_counts(void **state)
{
    static const int by_pairs[QMI_DICT_MAX_PAIRS + 1] = {0, 9, 65, 233, 577,
        1161, 2049, 3305, 4993, 7177, 9921, 13289, 17345, 3843, 1569};
    static const int by_nonzeros[MAX_NONZEROS + 1] = {14, 420, 7700, 57402};
    const qmi_dict *dict = qmi_dict_generic();
    int pairs[16] = {0}, nonzeros[29] = {0};
    (void)state;
    for (size_t c = 0; c < QMI_DICT_SIZE; c++) {
        const uint32_t *words = dict->table[c];
        int n = 0;
        for (unsigned i = 0; i < 2 * (words[0] & 15); i++)
            n += plain_code(words, i) != 0;
        assert_int_equal(words[0] & 15, words[1] & 15);
        pairs[words[0] & 15]++;
        nonzeros[n]++;
    }
    for (int i = 0; i <= QMI_DICT_MAX_PAIRS; i++)
        assert_int_equal(pairs[i], by_pairs[i]);
    for (int i = 0; i <= MAX_NONZEROS; i++)
        assert_int_equal(nonzeros[i], by_nonzeros[i]);
}

static void entries_say_what_the_table_says(void **state)
{
    const qmi_dict *dict = qmi_dict_generic();
    (void)state;
    for (size_t c = 0; c < QMI_DICT_SIZE; c++) {
        const qmi_dict_entry *entry = &dict->entries[c];
        unsigned k = 0;
        assert_int_equal(entry->n_weights, 2 * (dict->table[c][0] & 15));
        for (unsigned i = 0; i < entry->n_weights; i++) {
            unsigned code = plain_code(dict->table[c], i);
            if (code == 0)
                continue;
            assert_int_equal(entry->position[k], i);
            assert_int_equal(entry->code[k], code);
            k++;
        }
        assert_int_equal(entry->n_nonzeros, k);
        for (; k < MAX_NONZEROS; k++) {
            assert_int_equal(entry->position[k], 0);
            assert_int_equal(entry->code[k], QMI_CODE_ZERO);
        }
    }
}

/* True when the sequence of `longer` is that of `c` and then `pair`. */
static bool extends(
    const qmi_dict *dict, size_t c, unsigned pair, size_t longer)
{
    const uint32_t *a = dict->table[c], *b = dict->table[longer];
    unsigned n = 2 * (a[0] & 15);
    if ((b[0] & 15) != (a[0] & 15) + 1)
        return false;
    for (unsigned i = 0; i < n; i++)
        if (plain_code(a, i) != plain_code(b, i))
            return false;
    return plain_code(b, n) == pair % 3 && plain_code(b, n + 1) == pair / 3;
}

static void trie_holds_every_codeword_once(void **state)
{
    const qmi_dict *dict = qmi_dict_generic();
    /* The root is one more node of nine children. */
    int by_children[10] = {[9] = 1}, n_reached = 9;
    (void)state;
    for (size_t c = 0; c < QMI_DICT_SIZE; c++) {
        int n = 0;
        for (unsigned pair = 0; pair < 9; pair++) {
            uint32_t child = dict->child[c][pair];
            if (child == (uint32_t)NO_CODEWORD)
                continue;
            assert_true(child < QMI_DICT_SIZE);
            assert_true(extends(dict, c, pair, child));
            n++;
        }
        by_children[n]++;
        n_reached += n;
    }
    /* Different parents or pairs give different sequences, so reaching as many
     * nodes as there are codewords is reaching all of them. */
    assert_int_equal(n_reached, QMI_DICT_SIZE);
    assert_int_equal(by_children[0], 18545);
    assert_int_equal(by_children[1], 42654);
    assert_int_equal(by_children[5], 4040);
    assert_int_equal(by_children[9], 298);
}

/* ---- a second construction: all candidates, sorted ---- */

typedef struct sequence {
    double p;
    uint8_t n, pairs[QMI_DICT_MAX_PAIRS];
} sequence;

typedef struct sequences {
    sequence *items;
    size_t n, capacity;
    double p[9];
} sequences;

static void list_extensions(sequences *s, const sequence *x, int n_nonzeros)
{
    for (uint8_t pair = 0; pair < 9 && x->n < QMI_DICT_MAX_PAIRS; pair++) {
        int n = n_nonzeros + (pair % 3 != 0) + (pair / 3 != 0);
        sequence y = *x;
        if (n > MAX_NONZEROS)
            continue;
        y.p *= s->p[pair];
        y.pairs[y.n++] = pair;
        assert_true(s->n < s->capacity);
        s->items[s->n++] = y;
        list_extensions(s, &y, n);
    }
}

static int compare_sequences(const void *a, const void *b)
{
    const sequence *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    int order = memcmp(x->pairs, y->pairs, x->n < y->n ? x->n : y->n);
    return order != 0 ? order : x->n - y->n;
}

static void assert_same_codeword(const uint32_t words[2], const sequence *s)
{
    assert_int_equal(words[0] & 15, s->n);
    for (unsigned i = 0; i < 2u * s->n; i++) {
        unsigned pair = s->pairs[i / 2];
        assert_int_equal(plain_code(words, i), i % 2 ? pair / 3 : pair % 3);
    }
}

static void build_agrees_with_sorting(void **state)
{
    static const double zero_probabilities[] = {0.5, 0.8, 0.885, 0.97};
    sequences s = {.capacity = 200000};
    s.items = exact_block(s.capacity, sizeof *s.items);
    (void)state;
    for (int i = 0; i < 4; i++) {
        double p0 = zero_probabilities[i];
        double a[3] = {p0, (1 - p0) / 2, (1 - p0) / 2};
        const sequence empty = {.p = 1};
        qmi_dict *dict = NULL;
        for (int pair = 0; pair < 9; pair++)
            s.p[pair] = a[pair / 3] * a[pair % 3];
        s.n = 0;
        list_extensions(&s, &empty, 0);
        assert_int_equal(s.n, 110054);
        qsort(s.items, s.n, sizeof *s.items, compare_sequences);
        assert_int_equal(qmi_dict_build(&dict, p0, NULL), QMOE_OK);
        for (size_t c = 0; c < QMI_DICT_SIZE; c++)
            assert_same_codeword(dict->table[c], &s.items[c]);
        qmi_free(dict);
    }
    free(s.items);
}

static void build_refuses_what_is_no_probability(void **state)
{
    static const double bad[] = {0, 1, -0.1, 1.5, NAN, INFINITY};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qmi_error err = {0};
        qmi_dict *dict = (qmi_dict *)&err;
        assert_int_equal(qmi_dict_build(&dict, bad[i], &err), QMOE_E_INVALID);
        assert_null(dict);
        assert_non_null(strstr(err.text, "not between 0 and 1"));
    }
    for (uint64_t n = 1; n <= 2; n++) {
        qmi_error err = {0};
        qmi_dict *dict = (qmi_dict *)&err;
        qmi_alloc_fail_after(n);
        assert_int_equal(qmi_dict_build(&dict, 0.9, &err), QMOE_E_NOMEM);
        assert_null(dict);
    }
    qmi_alloc_fail_after(0);
}

/* Every row must be encodable, whatever the probability. */
static void build_knows_all_single_pairs(void **state)
{
    static const double extremes[] = {1e-300, 1e-9, 0.1, 0.999999, 1 - 0x1p-53};
    (void)state;
    for (size_t i = 0; i < sizeof extremes / sizeof *extremes; i++) {
        qmi_dict *dict = NULL;
        assert_int_equal(qmi_dict_build(&dict, extremes[i], NULL), QMOE_OK);
        for (int pair = 0; pair < 9; pair++)
            assert_true(dict->root[pair] < QMI_DICT_SIZE);
        qmi_free(dict);
    }
}

/* ---- encode, check, decode ---- */

/* Checks a stack and decodes every row by both decoders: same bits. */
static void assert_decoders_agree(const td_stack *s)
{
    const qmi_weight *w = &s->w;
    const plain_stack plain = td_stack_plain(s);
    size_t n = (size_t)w->n_cols, row_bytes = n * sizeof(float);
    float *a = exact_block((size_t)w->n_rows * n, sizeof *a);
    float *b = exact_block(n, sizeof *b);
    qmi_error err = {0};
    if (w->format->open(w, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    for (int64_t m = 0; m < w->n_mats; m++) {
        if (w->format->check(w, m, &err) != QMOE_OK)
            fail_msg("%s", err.text);
        memset(a, 0xff, (size_t)w->n_rows * row_bytes);
        w->format->decode(w, m, 0, w->n_rows, a);
        for (int64_t r = 0; r < w->n_rows; r++) {
            memset(b, 0x2a, row_bytes);
            assert_int_equal(
                plain_decode_row(b, qmi_dict_generic()->table, &plain, m, r),
                w->n_cols + w->n_cols % 2);
            assert_memory_equal(a + r * w->n_cols, b, row_bytes);
            memset(b, 0xff, row_bytes);
            w->format->decode(w, m, r, 1, b);
            assert_memory_equal(a + r * w->n_cols, b, row_bytes);
        }
    }
    free(a);
    free(b);
}

/* The weights come back and every codeword is the longest that fits. */
static void assert_round_trip(const td_stack *s, const uint8_t *weights)
{
    const qmi_dict *dict = qmi_dict_generic();
    const qmi_weight *w = &s->w;
    for (int64_t i = 0; i < w->n_mats * w->n_rows; i++) {
        int64_t m = i / w->n_rows, r = i % w->n_rows, col = 0;
        const uint32_t *offset = s->row_offsets + m * (w->n_rows + 1) + r;
        const uint16_t *codes = s->codes + s->expert_offsets[m];
        const uint8_t *row = weights + i * w->n_cols;
        for (uint32_t k = offset[0]; k < offset[1]; k++) {
            const uint32_t *words = dict->table[codes[k]];
            for (unsigned j = 0; j < 2 * (words[0] & 15); j++, col++)
                assert_int_equal(
                    plain_code(words, j), col < w->n_cols ? row[col] : 0);
            if (col >= w->n_cols)
                continue;
            unsigned second = col + 1 < w->n_cols ? row[col + 1] : 0;
            assert_int_equal(dict->child[codes[k]][row[col] + 3 * second],
                (uint32_t)NO_CODEWORD);
        }
        assert_int_equal(col, w->n_cols + w->n_cols % 2);
    }
}

static void assert_survives(
    const uint8_t *weights, int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    td_stack s = td_stack_encode(weights, n_mats, n_rows, n_cols);
    assert_round_trip(&s, weights);
    assert_decoders_agree(&s);
    td_stack_free(&s);
}

/* All rows of a width as one matrix. */
static void all_short_rows(void **state)
{
    (void)state;
    int64_t n_rows = 1;
    for (int64_t width = 1; width <= 6; width++) {
        n_rows *= 3;
        uint8_t *weights = exact_block((size_t)(n_rows * width), 1);
        for (int64_t r = 0; r < n_rows; r++) {
            int64_t digits = r;
            for (int64_t c = 0; c < width; c++, digits /= 3)
                weights[r * width + c] = (uint8_t)(digits % 3);
        }
        assert_survives(weights, 1, n_rows, width);
        free(weights);
    }
}

static void random_rows(void **state)
{
    static const int64_t widths[] = {
        1, 2, 3, 7, 27, 28, 29, 55, 56, 57, 255, 768, 1001, 2080};
    static const double zero_probabilities[] = {0, 0.3, 0.885, 0.99, 1};
    uint64_t seed = 1;
    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int k = 0; k < 5; k++) {
            int64_t n_rows = 5, n_mats = 3;
            size_t n = (size_t)(n_mats * n_rows * widths[i]);
            uint8_t *weights = exact_block(n, 1);
            random_codes(weights, n, zero_probabilities[k], &seed);
            assert_survives(weights, n_mats, n_rows, widths[i]);
            free(weights);
        }
}

/* Readers take any spelling of a row, not just the encoder's. */
static void every_codeword_alone(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < QMI_DICT_SIZE; c++) {
        uint16_t code = (uint16_t)c;
        td_stack s =
            td_stack_row(&code, 1, qmi_dict_generic()->entries[c].n_weights);
        assert_decoders_agree(&s);
        td_stack_free(&s);
    }
}

static void rows_of_the_longest_and_shortest_codewords(void **state)
{
    enum { N = 200 };
    const qmi_dict *dict = qmi_dict_generic();
    uint16_t codes[N];
    uint64_t seed = 3;
    (void)state;
    for (unsigned n_pairs = 1; n_pairs <= 14; n_pairs += 13) {
        for (int i = 0; i < N; i++) {
            do
                codes[i] = (uint16_t)random_u64(&seed);
            while (n_pairs == 14 && dict->entries[codes[i]].n_weights != 28);
            if (n_pairs == 1)
                codes[i] = (uint16_t)dict->root[random_u64(&seed) % 9];
        }
        td_stack s = td_stack_row(codes, N, 2 * n_pairs * N);
        assert_decoders_agree(&s);
        td_stack_free(&s);
    }
}

static void an_empty_row_has_no_codeword(void **state)
{
    (void)state;
    assert_int_equal(qmi_dict_encode_row(qmi_dict_generic(), NULL, NULL, 0), 0);
}

/* A file map gives tensors at any address. */
static void tensors_may_be_unaligned(void **state)
{
    enum { N_ROWS = 4, N_COLS = 57 };
    uint8_t weights[N_ROWS * N_COLS];
    float expected[N_ROWS * N_COLS], decoded[N_ROWS * N_COLS];
    uint64_t seed = 4;
    (void)state;
    random_codes(weights, sizeof weights, 0.7, &seed);
    td_stack s = td_stack_encode(weights, 1, N_ROWS, N_COLS);
    s.w.format->decode(&s.w, 0, 0, N_ROWS, expected);
    qmi_weight moved = s.w;
    uint8_t *copies[4];
    for (int i = 0; i < 4; i++) {
        size_t n_bytes = (size_t)s.w.parts[i].n_bytes;
        copies[i] = exact_block(n_bytes + 1, 1);
        memcpy(copies[i] + 1, s.w.parts[i].data, n_bytes);
        moved.parts[i].data = copies[i] + 1;
    }
    assert_int_equal(moved.format->open(&moved, NULL), QMOE_OK);
    assert_int_equal(moved.format->check(&moved, 0, NULL), QMOE_OK);
    moved.format->decode(&moved, 0, 0, N_ROWS, decoded);
    assert_memory_equal(decoded, expected, sizeof expected);
    for (int i = 0; i < 4; i++)
        free(copies[i]);
    td_stack_free(&s);
}

/* A stack may bring its own dictionary. */
static void the_codebook_of_the_stack_is_used(void **state)
{
    const qmi_dict *generic = qmi_dict_generic();
    qmi_dict *dict = NULL;
    uint16_t code = 0;
    (void)state;
    assert_int_equal(qmi_dict_build(&dict, 0.97, NULL), QMOE_OK);
    while (dict->entries[code].n_weights == generic->entries[code].n_weights)
        code++;
    unsigned n = dict->entries[code].n_weights;
    td_stack s = td_stack_row(&code, 1, n);
    assert_int_equal(s.w.format->check(&s.w, 0, NULL), QMOE_E_FORMAT);
    s.w.codebook = dict;
    assert_int_equal(s.w.format->check(&s.w, 0, NULL), QMOE_OK);
    float a[28], b[28];
    const plain_stack plain = td_stack_plain(&s);
    s.w.format->decode(&s.w, 0, 0, 1, a);
    assert_int_equal(plain_decode_row(b, dict->table, &plain, 0, 0), n);
    assert_memory_equal(a, b, n * sizeof *a);
    td_stack_free(&s);
    qmi_free(dict);
}

/* ---- size ---- */

/* Compression against 16-bit weights of independent weights with 88.5 %
 * zeros, 64 bits per row included, as the published dictionary has it. */
static void rates_are_the_published_ones(void **state)
{
    static const struct {
        int64_t n_rows, n_cols;
        double rate;
    } cases[] = {{300, 768, 19.3}, {300, 2080, 20.8}, {300, 3072, 21.1},
        {300, 6144, 21.4}};
    uint64_t seed = 5;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = (size_t)(cases[i].n_rows * cases[i].n_cols);
        uint8_t *weights = exact_block(n, 1);
        random_codes(weights, n, 0.885, &seed);
        td_stack s =
            td_stack_encode(weights, 1, cases[i].n_rows, cases[i].n_cols);
        double bits = 16.0 * (double)s.n_codes + 64.0 * (double)cases[i].n_rows;
        double rate = 16 * (double)n / bits;
        if (fabs(rate - cases[i].rate) > 0.1)
            fail_msg("%d columns: %.3f, expected %.1f", (int)cases[i].n_cols,
                rate, cases[i].rate);
        td_stack_free(&s);
        free(weights);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generic_survives_a_failed_allocation),
        cmocka_unit_test(generic_is_one_for_all_threads),
        cmocka_unit_test(table_has_the_published_checksum),
        cmocka_unit_test(table_begins_and_ends_as_known),
        cmocka_unit_test(table_has_the_known_counts),
        cmocka_unit_test(entries_say_what_the_table_says),
        cmocka_unit_test(trie_holds_every_codeword_once),
        cmocka_unit_test(build_agrees_with_sorting),
        cmocka_unit_test(build_refuses_what_is_no_probability),
        cmocka_unit_test(build_knows_all_single_pairs),
        cmocka_unit_test(all_short_rows),
        cmocka_unit_test(random_rows),
        cmocka_unit_test(every_codeword_alone),
        cmocka_unit_test(rows_of_the_longest_and_shortest_codewords),
        cmocka_unit_test(an_empty_row_has_no_codeword),
        cmocka_unit_test(tensors_may_be_unaligned),
        cmocka_unit_test(the_codebook_of_the_stack_is_used),
        cmocka_unit_test(rates_are_the_published_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
