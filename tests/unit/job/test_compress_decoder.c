/* SPDX-License-Identifier: Apache-2.0
 * The compressor on tiny decoder-only models: several experts per token, gates,
 * shared experts, dense blocks.  Formats, threads, interruption, experts of few
 * tokens, experts in one tensor, and the names of tensors after an export. */
#include "fused_checkpoint.h"
#include "job_files.h"

#include <math.h>

#include "checkpoint.h"
#include "qmoe/exchange.h"
#include "sanitized.h"

#define GOLDEN(name) QMOE_SOURCE_DIR "/tests/golden/decoders/" name

enum { WORDS = 96, N_LOGITS = 12 * WORDS };

/* Paths that live on: those of scratch.h are reused. */
static char text[1024], source[1024];

/* Letters are tokens 3 to 28, a space is 29; 2 ends a text. */
static void write_tokenizer(const char *name)
{
    char json[2048], path[256];
    size_t n = (size_t)snprintf(json, sizeof json,
        "{\"added_tokens\":[{\"id\":2,\"content\":\"<end>\",\"special\":true,"
        "\"normalized\":false}],\"normalizer\":null,\"pre_tokenizer\":{"
        "\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{"
        "\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int i = 0; i < 26; i++)
        n += (size_t)snprintf(
            json + n, sizeof json - n, "\"%c\":%d,", 'a' + i, 3 + i);
    snprintf(json + n, sizeof json - n, "\"Ġ\":29},\"merges\":[]}}");
    snprintf(path, sizeof path, "%s/tokenizer.json", name);
    scratch_text(path, json);
}

/* The file `name` of a golden model to `to` below the scratch. */
static void copy_file(const char *golden, const char *to, const char *name)
{
    char path[256];
    qmi_map map;
    qmi_error err = {0};
    snprintf(path, sizeof path, "%s/%s", golden, name);
    assert_int_equal(qmi_map_open(&map, path, &err), QMOE_OK);
    snprintf(path, sizeof path, "%s/%s", to, name);
    scratch_write(path, map.data, map.n_bytes);
    qmi_map_close(&map);
}

/* A golden model in the directory `source`, with a tokenizer. */
static void make_source(const char *golden)
{
    static const char name[] = "decoder-source";
    snprintf(source, sizeof source, "%s", scratch_directory(name));
    copy_file(golden, name, "config.json");
    copy_file(golden, name, "model.safetensors");
    write_tokenizer(name);
}

static int write_text(void **state)
{
    char words[1536];
    (void)state;
    uint32_t random = 7;
    for (size_t i = 0; i + 1 < sizeof words; i++) {
        random = random * 1664525 + 1013904223;
        const uint32_t draw = (random >> 16) % 32;
        words[i] = draw < 26 ? (char)('a' + draw) : ' ';
        /* Documents of different lengths. */
        if (i % 301 == 300)
            words[i] = '\n';
    }
    words[sizeof words - 1] = '\0';
    snprintf(text, sizeof text, "%s", scratch_text("decoder-calib.txt", words));
    return 0;
}

static job_run run_to(const char *output)
{
    return (job_run){.source = source,
        .output = output,
        .text = text,
        .options = {.overwrite = true,
            .backend = "reference",
            .passes = 1,
            .context = 64,
            .group_size = 4}};
}

static job_files must_go(job_run *run)
{
    qmoe_context *context = NULL;
    qmoe_verify_report verified;
    if (job_go(run) != QMOE_OK)
        fail_msg("%s", run->error);
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_verify(context, &verified, run->output, NULL, NULL) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    qmoe_context_destroy(context);
    return job_files_load(run->output);
}

static bool are_equal(const job_files *a, const job_files *b)
{
    bool equal = a->n == b->n;
    for (size_t i = 0; equal && i < a->n; i++)
        equal = strcmp(a->items[i].name, b->items[i].name) == 0 &&
                a->items[i].n_bytes == b->items[i].n_bytes &&
                memcmp(a->items[i].data, b->items[i].data,
                    a->items[i].n_bytes) == 0;
    return equal;
}

static void logits_of(
    const char *directory, const char *backend, float logits[N_LOGITS])
{
    static const int32_t ids[12] = {3, 7, 29, 3, 14, 9, 20, 29, 5, 5, 11, 28};
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_model_open(&model, context, directory) != QMOE_OK ||
        qmoe_session_create(&session, model, &options) != QMOE_OK ||
        qmoe_session_logits(session, logits, NULL, 0, ids, 12) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
}

/* Squared distance of two results, relative to the first one's size. */
static double distance(const float *a, const float *b)
{
    double sum = 0, size = 0;
    for (int i = 0; i < N_LOGITS; i++) {
        sum += pow((double)a[i] - (double)b[i], 2);
        size += pow((double)a[i], 2);
    }
    return sum / size;
}

/* Neither threads nor groups nor the place of states change a byte. */
static void check_threads(const job_run *run, const job_files *expected)
{
    job_run other = *run;
    other.n_threads = 1;
    other.output = scratch_path("decoder-two");
    other.options.group_size = 16;
    other.options.work_dir = scratch_path("decoder-states");
    job_files files = must_go(&other);
    assert_true(are_equal(expected, &files));
    job_files_free(&files);
}

/* Nor do threads change what the search for strings of codes finds. */
static void test_tlut_threads(void **state)
{
    job_files expected = {0};
    (void)state;
    make_source(GOLDEN("qwen3-moe"));
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        job_run run = run_to(scratch_path("decoder-tlut"));
        run.options.format = "tlut-2";
        run.options.dense_bits = "4";
        run.n_threads = n_threads;
        job_files files = must_go(&run);
        if (n_threads == 1)
            expected = job_files_copy(&files);
        assert_true(are_equal(&expected, &files));
        job_files_free(&files);
    }
    job_files_free(&expected);
}

/* What more bits or calibration give is nearer to the original. */
static void test_formats(void **state)
{
    static const struct {
        const char *method, *format;
        double most; /* distance of the logits */
    } cases[] = {
        {"rtn", "pvq", 0.3},
        {"gptq", "pvq", 0.25},
        {"gptq", "ternary-dict", 0.3},
        {"gptq", "q2", 0.2},
    };
    static float original[N_LOGITS], got[N_LOGITS];
    make_source(GOLDEN("qwen3-moe"));
    double before = INFINITY;
    (void)state;
    logits_of(source, "reference", original);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_run run = run_to(scratch_path("decoder-one"));
        run.options.method = cases[i].method;
        run.options.format = cases[i].format;
        job_files one = must_go(&run);
        assert_int_equal(run.report.n_experts, 2 * 9);
        assert_int_equal(run.report.n_matrices, 3 * 2 * 9);
        assert_int_equal(run.report.n_kinds, 3);
        assert_string_equal(run.report.kinds[1].name, "down_proj");
        if (i == 1)
            check_threads(&run, &one);
        logits_of(run.output, "reference", got);
        static float on_cpu[N_LOGITS];
        logits_of(run.output, "cpu", on_cpu);
        assert_true(distance(got, on_cpu) < 1e-8);
        const double far = distance(original, got);
        printf("  %s %s: input error %.4f (%s %.4f), logits %.4f\n",
            cases[i].method, cases[i].format, run.report.input_error,
            run.report.kinds[1].name, run.report.kinds[1].input_error, far);
        assert_true(far < cases[i].most);
        if (i == 1)
            assert_true(run.report.input_error < before);
        before = run.report.input_error;
        job_files_free(&one);
    }
}

/* Stopped at any step, a run goes on to the same bytes; also while it measures
 * formats. */
static void test_resume(void **state)
{
    make_source(GOLDEN("qwen2-moe"));
    (void)state;
    for (int bits = 0; bits < (is_too_long() ? 1 : 2); bits++) {
        job_run whole = run_to(scratch_path("decoder-whole"));
        whole.options.bits = bits != 0 ? 1.7 : 0;
        job_files expected = must_go(&whole);
        assert_int_equal(whole.report.n_experts, 6);
        for (int stop = 5; stop < 20 - 10 * bits; stop += 10) {
            job_run run = run_to(scratch_path("decoder-stopped"));
            run.options.bits = whole.options.bits;
            run.stop_after = stop;
            assert_int_equal(job_go(&run), QMOE_E_CANCELLED);
            run.stop_after = 0;
            run.options.resume = true;
            job_files files = must_go(&run);
            assert_true(are_equal(&expected, &files));
            job_files_free(&files);
            job_remove(run.output);
        }
        job_files_free(&expected);
    }
}

/* Experts that few tokens reach are rounded, or borrow from the others. */
static void test_few_tokens(void **state)
{
    make_source(GOLDEN("qwen3-moe"));
    job_run run = run_to(scratch_path("decoder-few"));
    (void)state;
    run.options.format = "q2";
    run.options.context = 8;
    run.options.max_samples = 1;
    run.options.borrow = -1;
    job_files files = must_go(&run);
    assert_true(run.report.n_experts_without_tokens > 0);
    assert_int_equal(run.report.n_experts_borrowing, 0);
    job_files_free(&files);
    run.options.borrow = 0;
    files = must_go(&run);
    assert_int_equal(run.report.n_experts_without_tokens, 0);
    assert_int_equal(run.report.n_experts_borrowing, 2 * 9);
    job_files_free(&files);
}

/* What decides the weights of tokens decides the bytes. */
static void test_weights(void **state)
{
    if (is_too_long())
        skip();
    make_source(GOLDEN("mixtral"));
    job_files files[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        job_run run = run_to(scratch_path("decoder-weights"));
        run.options.format = "q2";
        run.options.frame_weight = i == 1 ? -1 : 0;
        run.options.route_weights = i == 2 ? -1 : 0;
        files[i] = must_go(&run);
    }
    for (int i = 1; i < 3; i++) {
        assert_false(are_equal(&files[0], &files[i]));
        job_files_free(&files[i]);
    }
    job_files_free(&files[0]);
    /* A model of span corruption has no windows. */
    job_run run = run_to(scratch_path("decoder-refused"));
    run.source = QMOE_SOURCE_DIR "/models/switch-mini";
    assert_error(
        job_go(&run), QMOE_E_INVALID, run.error, "has span corruption");
}

static void export_to(
    const char *back, const char *compressed, const char *dtype)
{
    qmoe_context *context = NULL;
    qmoe_export_report exported;
    const qmoe_export_options options = {
        .size = sizeof options, .overwrite = true, .dtype = dtype};
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_export(context, &exported, compressed, back, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    qmoe_context_destroy(context);
}

/* What transformers 5 wrote is compressed to the same stacks, and the export
 * has one number type. */
static void test_new_names(void **state)
{
    static float expected[N_LOGITS], got[N_LOGITS];
    const char *const models[] = {GOLDEN("mixtral"), GOLDEN("mixtral-fused")};
    job_run run;
    (void)state;
    for (int i = 0; i < 2; i++) {
        make_source(models[i]);
        run = run_to(scratch_path("decoder-new"));
        run.options.format = "q2";
        job_files files = must_go(&run);
        logits_of(run.output, "reference", i == 0 ? expected : got);
        job_files_free(&files);
    }
    assert_memory_equal(got, expected, sizeof got);
    const char *back = scratch_path("decoder-new-back");
    export_to(back, run.output, "f32");
    job_files files = job_files_load(back);
    const char *config = (char *)job_files_find(&files, "config.json")->data;
    assert_non_null(strstr(config, "\"torch_dtype\":\t\"float32\""));
    assert_null(strstr(config, "\"dtype\""));
    job_files_free(&files);
    logits_of(back, "reference", got);
    assert_true(distance(expected, got) < 1e-8);
}

/* Exported, every tensor has its name and shape again. */
static void test_export(void **state)
{
    make_source(GOLDEN("qwen2-moe"));
    const char *back = scratch_path("decoder-back");
    static float compressed[N_LOGITS], plain[N_LOGITS];
    qmi_checkpoint *from = NULL, *to = NULL;
    qmi_error err = {0};
    job_run run = run_to(scratch_path("decoder-q2"));
    (void)state;
    run.options.format = "q2";
    job_files files = must_go(&run);
    job_files_free(&files);
    export_to(back, run.output, NULL);
    assert_int_equal(qmi_checkpoint_open(&from, source, &err), QMOE_OK);
    assert_int_equal(qmi_checkpoint_open(&to, back, &err), QMOE_OK);
    size_t n = 0, n_back = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(from); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(from, f);
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++, n++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            const qmi_tensor *found = qmi_checkpoint_find(to, t->name);
            if (found == NULL)
                fail_msg("'%s' is missing", t->name);
            assert_int_equal(found->rank, t->rank);
            for (int d = 0; d < t->rank; d++)
                assert_int_equal(found->shape[d], t->shape[d]);
        }
    }
    for (size_t f = 0; f < qmi_checkpoint_file_count(to); f++)
        n_back += qmi_tensor_file_count(qmi_checkpoint_file(to, f));
    assert_int_equal(n, n_back);
    qmi_checkpoint_close(from);
    qmi_checkpoint_close(to);
    logits_of(run.output, "reference", compressed);
    logits_of(back, "reference", plain);
    assert_true(distance(compressed, plain) < 1e-4);
}

/* Blanks what a compressed directory says of the bytes of its source. */
static void forget_source(job_files *files)
{
    static const char *const keys[] = {
        "\"fingerprint\"", "\"bytes\"", "\"config_xxh3\""};
    job_file *config = job_files_find(files, "config.json");
    for (int i = 0; i < 3; i++) {
        char *line = strstr((char *)config->data, keys[i]);
        assert_non_null(line);
        while (*line != '\n')
            *line++ = ' ';
    }
}

/* The path of `source` written anew with the experts of a block together. */
static const char *make_fused(const char *golden, fused_options options)
{
    static char path[1024];
    static const char name[] = "decoder-fused";
    snprintf(path, sizeof path, "%s", fused_checkpoint(source, name, options));
    copy_file(golden, name, "config.json");
    write_tokenizer(name);
    return path;
}

/* However the experts are stored, they are the same experts. */
static void check_fused(const char *golden)
{
    static float expected[N_LOGITS], got[N_LOGITS];
    make_source(golden);
    job_run run = run_to(scratch_path("decoder-each"));
    run.options.format = "q2";
    job_files each = must_go(&run);
    forget_source(&each);
    logits_of(source, "cpu", expected);
    for (int transposed = 0; transposed < 2; transposed++) {
        run.source = make_fused(
            golden, (fused_options){.is_transposed = transposed != 0});
        run.output = scratch_path("decoder-fused-q2");
        logits_of(run.source, "cpu", got);
        assert_memory_equal(got, expected, sizeof got);
        job_files fused = must_go(&run);
        forget_source(&fused);
        assert_true(are_equal(&each, &fused));
        job_files_free(&fused);
    }
    job_files_free(&each);
    run.source = make_fused(golden, (fused_options){.keeps = true});
    assert_error(
        job_go(&run), QMOE_E_FORMAT, run.error, "experts must be stored once");
}

static void test_fused(void **state)
{
    (void)state;
    check_fused(GOLDEN("qwen2-moe"));
    check_fused(GOLDEN("mixtral"));
}

/* The source with its embedding once more as the head; `changed`: but for one
 * number. */
static void add_head(const char *golden, bool changed)
{
    static uint8_t file[1 << 20];
    char entry[160], path[1100];
    qmi_checkpoint *checkpoint;
    qmi_map map;
    qmi_error err = {0};
    uint64_t n_header = 0;
    make_source(golden);
    assert_int_equal(qmi_checkpoint_open(&checkpoint, source, &err), QMOE_OK);
    const qmi_tensor *t =
        qmi_checkpoint_find(checkpoint, "model.embed_tokens.weight");
    snprintf(path, sizeof path, "%s/model.safetensors", source);
    assert_int_equal(qmi_map_open(&map, path, &err), QMOE_OK);
    memcpy(&n_header, map.data, 8);
    const uint64_t n_data = map.n_bytes - 8 - n_header;
    const int n = snprintf(entry, sizeof entry,
        "{\"lm_head.weight\":{\"dtype\":\"%s\",\"shape\":[%d,%d],"
        "\"data_offsets\":[%d,%d]},",
        qmi_dtype_name(t->dtype), (int)t->shape[0], (int)t->shape[1],
        (int)n_data, (int)(n_data + t->n_bytes));
    assert_true(map.n_bytes + (uint64_t)n + t->n_bytes < sizeof file);
    uint8_t *at = file + 8 + n;
    memcpy(file + 8, entry, (size_t)n);
    memcpy(at, (const uint8_t *)map.data + 9, map.n_bytes - 9);
    at += map.n_bytes - 9;
    memcpy(at, t->data, t->n_bytes);
    at[t->n_bytes - 1] ^= changed;
    n_header += (uint64_t)n - 1;
    memcpy(file, &n_header, 8);
    at += t->n_bytes;
    qmi_checkpoint_close(checkpoint);
    qmi_map_close(&map);
    scratch_write(
        "decoder-source/model.safetensors", file, (size_t)(at - file));
}

/* A head that is the embedding is stored once; another is kept. */
static void test_second_copy(void **state)
{
    static const char golden[] = GOLDEN("qwen2");
    (void)state;
    for (int changed = 0; changed < 2; changed++) {
        job_run run = run_to(scratch_path("decoder-head"));
        qmi_checkpoint *checkpoint;
        qmi_error err = {0};
        add_head(golden, changed != 0);
        run.options.dense_bits = "dense_ffn=8";
        run.options.method = "rtn";
        run.text = NULL;
        job_files files = must_go(&run);
        assert_int_equal(
            qmi_checkpoint_open(&checkpoint, run.output, &err), QMOE_OK);
        assert_int_equal(
            qmi_checkpoint_find(checkpoint, "lm_head.weight") != NULL, changed);
        qmi_checkpoint_close(checkpoint);
        job_files_free(&files);
    }
}

/* Matrices beside the experts with second moments of their inputs: better than
 * rounded, and of the same bytes for any threads and after a stop anywhere. */
static void test_dense(void **state)
{
    static const char *const models[] = {
        GOLDEN("qwen2-moe"), /* shared experts */
        GOLDEN("llama"),     /* no experts */
        GOLDEN("qwen2"),     /* the head is the embedding */
    };
    static float original[N_LOGITS], got[N_LOGITS];
    (void)state;
    for (int i = 0; i < (is_too_long() ? 1 : 3); i++) {
        double far[2];
        make_source(models[i]);
        logits_of(source, "reference", original);
        for (int calibrated = 0; calibrated < 2; calibrated++) {
            job_run run = run_to(scratch_path("decoder-dense"));
            run.options.dense_bits = "3";
            run.options.method = calibrated ? NULL : "rtn";
            run.options.format = i == 0 ? "tlut-4" : NULL;
            run.text = calibrated || i == 0 ? text : NULL;
            job_files files = must_go(&run);
            logits_of(run.output, "reference", got);
            far[calibrated] = distance(original, got);
            assert_int_equal(
                isfinite(run.report.dense_input_error), calibrated);
            /* Moments that are none would make these two the same. */
            if (calibrated)
                assert_true(run.report.dense_input_error <
                            0.9 * run.report.dense_weight_error);
            if (calibrated)
                check_threads(&run, &files);
            for (int stop = 3; calibrated && stop < 12; stop += 8) {
                job_run stopped = run;
                stopped.output = scratch_path("decoder-stopped");
                stopped.stop_after = stop;
                assert_int_equal(job_go(&stopped), QMOE_E_CANCELLED);
                stopped.stop_after = 0;
                stopped.options.resume = true;
                job_files again = must_go(&stopped);
                assert_true(are_equal(&files, &again));
                job_files_free(&again);
                job_remove(stopped.output);
            }
            job_files_free(&files);
        }
        printf("  %s: logits %.4f calibrated, %.4f rounded\n", models[i],
            far[1], far[0]);
        assert_true(far[1] < far[0]);
    }
}

/* Stopped, a run weighs its rows again and goes on to the same bytes. */
static void check_stop(const job_run *run, const job_files *expected)
{
    job_run stopped = *run;
    stopped.output = scratch_path("decoder-stopped");
    stopped.stop_after = 11;
    assert_int_equal(job_go(&stopped), QMOE_E_CANCELLED);
    stopped.stop_after = 0;
    stopped.options.resume = true;
    job_files again = must_go(&stopped);
    assert_true(are_equal(expected, &again));
    job_files_free(&again);
    job_remove(stopped.output);
}

/* Rows weighed by gradients give other bytes, the same ones for any threads;
 * config.json says so. */
static void test_row_weights(void **state)
{
    static const char *const models[] = {GOLDEN("qwen2-moe"), GOLDEN("llama")};
    (void)state;
    for (int i = 0; i < (is_too_long() ? 1 : 2); i++) {
        make_source(models[i]);
        job_run run = run_to(scratch_path("decoder-rows"));
        run.options.dense_bits = "2";
        run.options.format = i == 0 ? "tlut-2" : NULL;
        run.options.row_weights = -1;
        job_files equal = must_go(&run);
        run.options.row_weights = 1;
        job_files files = must_go(&run);
        assert_false(are_equal(&equal, &files));
        assert_null(strstr((char *)job_files_find(&equal, "config.json")->data,
            "\"row_weights\""));
        assert_non_null(
            strstr((char *)job_files_find(&files, "config.json")->data,
                "\"row_weights\""));
        check_threads(&run, &files);
        if (i == 0)
            check_stop(&run, &files);
        job_files_free(&files);
        job_files_free(&equal);
    }
    make_source(GOLDEN("mixtral"));
    job_run run = run_to(scratch_path("decoder-refused"));
    run.options.row_weights = 1;
    assert_error(
        job_go(&run), QMOE_E_UNSUPPORTED, run.error, "gradients weigh");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_tlut_threads),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_few_tokens),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_fused),
        cmocka_unit_test(test_new_names),
        cmocka_unit_test(test_export),
        cmocka_unit_test(test_second_copy),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_row_weights),
    };
    return cmocka_run_group_tests(tests, write_text, NULL);
}
