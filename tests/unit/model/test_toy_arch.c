/* SPDX-License-Identifier: Apache-2.0
 * An architecture is a file and a line: toy_arch.c and the line below.  All that
 * takes models takes that one: opening, inspection, verification, plans, passes,
 * generation, compression. */
#include <math.h>
#include <stdlib.h>

#include "arch.h"
#include "model.h"
#include "qmoe/exchange.h"
#include "qmoe/plan.h"
#include "qmoe/quant.h"
#include "scratch.h"

extern const qmi_arch qmi_arch_switch, qmi_arch_toy;
/* In place of core/model/arch_table.c. */
const qmi_arch *const qmi_architectures[] = {
    &qmi_arch_switch,
    &qmi_arch_toy,
    NULL,
};

/* ---- a checkpoint ---- */

enum { D = 16, HEAD = 4, HEADS = 2, INNER = HEAD * HEADS, FF = 12 };
enum { EXPERTS = 5, LAYERS = 2, WORDS = 24, MOST_TENSORS = 64 };

typedef struct tensor {
    char name[32];
    int n_rows, n_cols;
    float *data;
} tensor;

static tensor tensors[MOST_TENSORS];
static size_t n_tensors;
static char directory[1024];

static void draw(const char *name, int n_rows, int n_cols)
{
    static uint32_t state = 1;
    tensor *t = &tensors[n_tensors++];
    *t = (tensor){.n_rows = n_rows, .n_cols = n_cols};
    snprintf(t->name, sizeof t->name, "%s", name);
    t->data = malloc((size_t)(n_rows * n_cols) * sizeof *t->data);
    for (int i = 0; i < n_rows * n_cols; i++) {
        state = state * 1664525 + 1013904223;
        t->data[i] = (float)(int32_t)state * 0x1p-32f;
    }
}

static void draw_layer(int layer)
{
    char name[32];
    const struct {
        const char *end;
        int n_rows, n_cols;
    } all[] = {{"before", 1, D}, {"query", INNER, D}, {"key", INNER, D},
        {"value", INNER, D}, {"mix", D, INNER}, {"between", 1, D},
        {"all.in", FF, D}, {"all.out", D, FF}, {"choose", EXPERTS, D}};
    const bool sparse = layer + 1 == LAYERS;
    for (size_t i = 0; i < (sparse ? 9 : 8); i++) {
        snprintf(name, sizeof name, "l%d.%s", layer, all[i].end);
        draw(name, all[i].n_rows, all[i].n_cols);
    }
    for (int e = 0; sparse && e < EXPERTS; e++) {
        snprintf(name, sizeof name, "l%d.no%d.in", layer, e);
        draw(name, FF, D);
        snprintf(name, sizeof name, "l%d.no%d.out", layer, e);
        draw(name, D, FF);
    }
}

static void write_safetensors(const char *path)
{
    static char header[8192];
    size_t n = 0, at = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        const tensor *t = &tensors[i];
        const size_t n_bytes = (size_t)(t->n_rows * t->n_cols) * sizeof(float);
        n += (size_t)snprintf(header + n, sizeof header - n,
            "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d],"
            "\"data_offsets\":[%zu,%zu]}",
            i == 0 ? "{" : ",", t->name, t->n_rows, t->n_cols, at,
            at + n_bytes);
        at += n_bytes;
    }
    n += (size_t)snprintf(header + n, sizeof header - n, "}");
    while (n % 8 != 0)
        header[n++] = ' ';
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    const uint64_t length = n;
    fwrite(&length, sizeof length, 1, file);
    fwrite(header, 1, n, file);
    for (size_t i = 0; i < n_tensors; i++)
        fwrite(tensors[i].data, sizeof(float),
            (size_t)(tensors[i].n_rows * tensors[i].n_cols), file);
    assert_int_equal(fclose(file), 0);
}

static int make_checkpoint(void **state)
{
    char text[512];
    (void)state;
    snprintf(directory, sizeof directory, "%s", scratch_directory("toy"));
    draw("words", WORDS, D);
    for (int layer = 0; layer < LAYERS; layer++)
        draw_layer(layer);
    draw("last", 1, D);
    draw("next", WORDS, D);
    write_safetensors(scratch_path("toy/model.safetensors"));
    snprintf(text, sizeof text,
        "{\"model_type\":\"toy\",\"width\":%d,\"head_width\":%d,\"heads\":%d,"
        "\"expert_width\":%d,\"experts\":%d,\"layers\":%d,\"words\":%d}",
        D, HEAD, HEADS, FF, EXPERTS, LAYERS, WORDS);
    scratch_text("toy/config.json", text);
    return 0;
}

static int free_tensors(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_tensors; i++)
        free(tensors[i].data);
    return 0;
}

/* ---- the same model, written plainly ---- */

static const float *named(const char *format, int layer, int expert)
{
    char name[32];
    snprintf(name, sizeof name, format, layer, expert);
    for (size_t i = 0; i < n_tensors; i++)
        if (strcmp(tensors[i].name, name) == 0)
            return tensors[i].data;
    fail_msg("no tensor '%s'", name);
    return NULL;
}

static void times(
    double *dst, const float *w, const double *src, int n_rows, int n_cols)
{
    for (int r = 0; r < n_rows; r++) {
        dst[r] = 0;
        for (int c = 0; c < n_cols; c++)
            dst[r] += w[r * n_cols + c] * src[c];
    }
}

static void normalise(double *dst, const double *src, const float *w)
{
    double sum = 0;
    for (int i = 0; i < D; i++)
        sum += src[i] * src[i];
    for (int i = 0; i < D; i++)
        dst[i] = src[i] / sqrt(sum / D + 1e-5) * w[i];
}

/* x += scale * out relu(in normed) */
static void feed(double *x, const double *normed, const float *in,
    const float *out, double scale)
{
    double hidden[FF], result[D];
    times(hidden, in, normed, FF, D);
    for (int i = 0; i < FF; i++)
        hidden[i] = fmax(hidden[i], 0);
    times(result, out, hidden, D, FF);
    for (int i = 0; i < D; i++)
        x[i] += scale * result[i];
}

/* The two likeliest experts, by their probabilities among all. */
static void feed_experts(double *x, const double *normed, int layer)
{
    double p[EXPERTS], sum = 0;
    times(p, named("l%d.choose", layer, 0), normed, EXPERTS, D);
    for (int e = 0; e < EXPERTS; e++)
        sum += p[e] = exp(p[e]);
    for (int k = 0; k < 2; k++) {
        int best = 0;
        for (int e = 1; e < EXPERTS; e++)
            best = p[e] > p[best] ? e : best;
        feed(x, normed, named("l%d.no%d.in", layer, best),
            named("l%d.no%d.out", layer, best), p[best] / sum);
        p[best] = 0;
    }
}

enum { MOST_IDS = 80 };
static double keys[LAYERS][MOST_IDS][INNER], values[LAYERS][MOST_IDS][INNER];

static void attend(double *x, const double *normed, int layer, int position)
{
    double q[INNER], attended[INNER] = {0}, mixed[D];
    times(q, named("l%d.query", layer, 0), normed, INNER, D);
    times(keys[layer][position], named("l%d.key", layer, 0), normed, INNER, D);
    times(values[layer][position], named("l%d.value", layer, 0), normed, INNER,
        D);
    for (int head = 0; head < HEADS; head++) {
        double p[MOST_IDS], sum = 0;
        for (int t = 0; t <= position; t++) {
            double score = 0;
            for (int i = head * HEAD; i < (head + 1) * HEAD; i++)
                score += q[i] * keys[layer][t][i];
            sum += p[t] = exp(0.5 * score);
        }
        for (int t = 0; t <= position; t++)
            for (int i = head * HEAD; i < (head + 1) * HEAD; i++)
                attended[i] += p[t] / sum * values[layer][t][i];
    }
    times(mixed, named("l%d.mix", layer, 0), attended, D, INNER);
    for (int i = 0; i < D; i++)
        x[i] += mixed[i];
}

/* Logits of a token whose predecessors were given before. */
static void plain_logits(double *logits, int32_t id, int position)
{
    double x[D], normed[D];
    for (int i = 0; i < D; i++)
        x[i] = named("words", 0, 0)[id * D + i];
    for (int layer = 0; layer < LAYERS; layer++) {
        normalise(normed, x, named("l%d.before", layer, 0));
        attend(x, normed, layer, position);
        normalise(normed, x, named("l%d.between", layer, 0));
        if (layer + 1 == LAYERS)
            feed_experts(x, normed, layer);
        feed(x, normed, named("l%d.all.in", layer, 0),
            named("l%d.all.out", layer, 0), 1);
    }
    normalise(normed, x, named("last", 0, 0));
    times(logits, named("next", 0, 0), normed, WORDS, D);
}

static int32_t plain_best(int32_t id, int position)
{
    double logits[WORDS];
    int32_t best = 0;
    plain_logits(logits, id, position);
    for (int32_t i = 1; i < WORDS; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* ---- tests ---- */

typedef struct opened {
    qmoe_context *context;
    qmoe_model *model;
    qmoe_session *session;
} opened;

static opened open_toy(const char *path)
{
    opened o = {0};
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "cpu"};
    assert_int_equal(qmoe_context_create(&o.context, NULL), QMOE_OK);
    if (qmoe_model_open(&o.model, o.context, path) != QMOE_OK ||
        qmoe_session_create(&o.session, o.model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(o.context));
    return o;
}

static void close_toy(opened o)
{
    qmoe_session_destroy(o.session);
    qmoe_model_close(o.model);
    qmoe_context_destroy(o.context);
}

static void test_logits(void **state)
{
    enum { N = 9 };
    static const int32_t ids[N] = {0, 7, 21, 3, 3, 14, 9, 20, 5};
    float logits[N * WORDS];
    (void)state;
    opened o = open_toy(directory);
    assert_int_equal(
        qmoe_session_logits(o.session, logits, NULL, 0, ids, N), QMOE_OK);
    for (int t = 0; t < N; t++) {
        double want[WORDS];
        plain_logits(want, ids[t], t);
        for (int i = 0; i < WORDS; i++)
            assert_true(fabs(want[i] - (double)logits[t * WORDS + i]) < 1e-5);
    }
    assert_error(qmoe_session_logits(o.session, logits, ids, 2, ids, N),
        QMOE_E_INVALID, qmoe_context_error(o.context), "has no encoder");
    close_toy(o);
}

/* Three prompts of different lengths, one of them empty, and so many tokens that
 * caches grow. */
static void test_generate(void **state)
{
    enum { N_NEW = 70 };
    static const int32_t first[3] = {7, 21, 3}, last[1] = {19};
    const int32_t *prompts[3] = {first, last, last};
    const size_t lengths[3] = {3, 0, 1};
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = N_NEW,
        .ignore_eos = true,
        .prompt_ids = prompts,
        .n_prompt_ids = lengths};
    qmoe_generation *made = NULL;
    qmoe_timing timing;
    (void)state;
    opened o = open_toy(directory);
    assert_int_equal(
        qmoe_session_generate(o.session, &made, &timing, NULL, 3, &options),
        QMOE_OK);
    /* The empty one begins with the start id. */
    assert_int_equal(timing.n_encoded, 5);
    assert_int_equal(timing.n_decoded, 3 * (N_NEW - 1));
    for (int s = 0; s < 3; s++) {
        int position = 0;
        int32_t id = lengths[s] == 0 ? plain_best(0, position++) : 0;
        for (size_t i = 0; i < lengths[s]; i++)
            id = plain_best(prompts[s][i], position++);
        assert_int_equal(
            made[s].n_prompt_ids, lengths[s] != 0 ? lengths[s] : 1);
        assert_int_equal(made[s].n_ids, N_NEW);
        for (int i = 0; i < N_NEW; i++, id = plain_best(id, position++))
            assert_int_equal(made[s].ids[i], id);
    }
    qmoe_generations_free(made, 3);
    close_toy(o);
}

/* Text needs a tokenizer, and its spans are for models that fill gaps; random
 * ids are for all. */
static void test_refused(void **state)
{
    const char *text = scratch_text("toy.txt", "a text\n");
    const qmoe_eval_options random = {
        .size = sizeof random, .random_ids = true, .max_samples = 1};
    const qmoe_eval_options spans = {.size = sizeof spans, .text_path = text};
    const qmoe_compress_options calibrated = {.size = sizeof calibrated,
        .without_tokenizer = true,
        .calibration = &text,
        .n_calibration = 1};
    qmoe_compress_report report;
    qmoe_eval_result result;
    (void)state;
    opened o = open_toy(directory);
    assert_error(qmoe_compress(o.context, &report, directory,
                     scratch_path("toy-none"), &calibrated),
        QMOE_E_NOT_FOUND, qmoe_context_error(o.context), "tokenizer");
    assert_error(qmoe_session_eval(o.session, &result, &spans),
        QMOE_E_UNSUPPORTED, qmoe_context_error(o.context), "type toy");
    assert_int_equal(qmoe_session_eval(o.session, &result, &random), QMOE_OK);
    assert_int_equal(result.n_samples, 1);
    close_toy(o);
}

static void test_inspect(void **state)
{
    size_t n[QMOE_ROLE_COUNT] = {0};
    qmoe_model_info info;
    (void)state;
    opened o = open_toy(directory);
    qmoe_model_describe(o.model, &info);
    assert_string_equal(info.architecture, "toy");
    assert_int_equal(info.n_encoder_blocks, 0);
    assert_int_equal(info.n_decoder_blocks, LAYERS);
    assert_int_equal(info.n_sparse_blocks, 1);
    assert_int_equal(info.n_experts, EXPERTS);
    for (size_t i = 0; i < qmoe_model_weight_count(o.model); i++) {
        qmoe_weight_info w;
        assert_int_equal(qmoe_model_weight(o.model, i, &w), QMOE_OK);
        n[w.role]++;
    }
    assert_int_equal(n[QMOE_ROLE_EXPERTS], 2);
    assert_int_equal(n[QMOE_ROLE_SHARED_FFN], 2);
    assert_int_equal(n[QMOE_ROLE_DENSE_FFN], 2);
    assert_int_equal(n[QMOE_ROLE_ATTENTION], 4 * LAYERS);
    assert_int_equal(n[QMOE_ROLE_NORM], 2 * LAYERS + 1);
    assert_int_equal(n[QMOE_ROLE_POSITION_BIAS], 0);
    close_toy(o);
}

static void test_plan(void **state)
{
    const qmoe_plan_options options = {
        .size = sizeof options, .format = "q2", .memory_rate = 1e9};
    qmoe_context *context = NULL;
    qmoe_plan_report r;
    (void)state;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(qmoe_plan(context, &r, directory, &options), QMOE_OK);
    assert_int_equal(
        r.roles[QMOE_ROLE_EXPERTS].n_weights, 2 * EXPERTS * D * FF);
    assert_int_equal(r.roles[QMOE_ROLE_SHARED_FFN].n_bytes, 2 * 4 * D * FF);
    assert_int_equal(r.roles[QMOE_ROLE_HEAD].token_bytes, 4 * D * WORDS);
    assert_true(r.compress_seconds > 0 && r.n_samples > 0);
    qmoe_context_destroy(context);
}

/* Compressed, exported again, and run both ways. */
static void test_compressed(void **state)
{
    const char *out = scratch_path("toy-q2"), *back = scratch_path("toy-back");
    static const int32_t ids[] = {0, 7, 21};
    float logits[3 * WORDS];
    qmoe_context *context = NULL;
    qmoe_compress_report report;
    qmoe_export_report exported;
    qmoe_verify_report verified;
    const qmoe_compress_options options = {.size = sizeof options,
        .method = "rtn",
        .format = "q2",
        .without_tokenizer = true,
        .overwrite = true};
    const qmoe_export_options to_plain = {
        .size = sizeof to_plain, .overwrite = true};
    (void)state;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_compress(context, &report, directory, out, &options) != QMOE_OK ||
        qmoe_verify(context, &verified, out, NULL, NULL) != QMOE_OK ||
        qmoe_export(context, &exported, out, back, &to_plain) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    assert_int_equal(report.n_matrices, 2 * EXPERTS);
    qmoe_context_destroy(context);
    float plain[3 * WORDS];
    opened o = open_toy(out);
    assert_int_equal(
        qmoe_session_logits(o.session, logits, NULL, 0, ids, 3), QMOE_OK);
    /* Experts were compressed, not copied, too. */
    assert_null(qmi_checkpoint_find(o.model->checkpoint, "l1.no0.in"));
    assert_non_null(qmi_checkpoint_find(o.model->checkpoint, "l1.all.in"));
    close_toy(o);
    o = open_toy(back);
    assert_int_equal(
        qmoe_session_logits(o.session, plain, NULL, 0, ids, 3), QMOE_OK);
    close_toy(o);
    for (int i = 0; i < 3 * WORDS; i++)
        assert_true(fabsf(plain[i] - logits[i]) < 1e-2f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_compressed),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, free_tensors);
}
