/* SPDX-License-Identifier: Apache-2.0
 * Matrices beside the experts, compressed: which ones are, what the model then
 * computes, what an export gives back, and entries and parts that must fail. */
#include "job_files.h"

#include <math.h>

#include "checkpoint.h"
#include "context.h"
#include "model.h"
#include "qmoe/exchange.h"

#define GOLDEN(name) QMOE_SOURCE_DIR "/tests/golden/" name

enum { MAX_LOGITS = 12 * 4096 };

static const char *const sources[] = {
    GOLDEN("decoders/qwen2-moe"), /* shared experts, biases, its own head */
    GOLDEN("decoders/llama"),     /* no experts */
    GOLDEN("decoders/qwen3"), GOLDEN("tied"), /* SwitchTransformers */
};
enum { N_SOURCES = sizeof sources / sizeof *sources };

static job_run run_to(const char *source, const char *output)
{
    return (job_run){.source = source,
        .output = output,
        .options = {.overwrite = true, .method = "rtn", .dense_bits = "8"}};
}

static void must_go(job_run *run)
{
    if (job_go(run) != QMOE_OK)
        fail_msg("%s: %s", run->source, run->error);
}

typedef struct opened {
    qmoe_context *context;
    qmoe_model *model;
} opened;

static opened open_model(const char *directory)
{
    opened o = {0};
    assert_int_equal(qmoe_context_create(&o.context, NULL), QMOE_OK);
    if (qmoe_model_open(&o.model, o.context, directory) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(o.context));
    return o;
}

static void close_model(opened *o)
{
    qmoe_model_close(o->model);
    qmoe_context_destroy(o->context);
}

/* As many logits as there are. */
static size_t logits_of(const char *directory, float *logits)
{
    static const int32_t ids[12] = {3, 7, 29, 3, 14, 9, 20, 29, 5, 5, 11, 28};
    opened o = open_model(directory);
    qmoe_model_info info;
    qmoe_session *session = NULL;
    qmoe_model_describe(o.model, &info);
    const size_t n = 12 * (size_t)info.vocab_size;
    const bool has_encoder = qmi_model_block_count(o.model, QMI_ENCODE) != 0;
    assert_true(n <= MAX_LOGITS);
    if (qmoe_session_create(&session, o.model, NULL) != QMOE_OK ||
        qmoe_session_logits(session, logits, has_encoder ? ids : NULL,
            has_encoder ? 12 : 0, ids, 12) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(o.context));
    qmoe_session_destroy(session);
    close_model(&o);
    return n;
}

/* Squared distance, relative to the first one's size. */
static double distance(const float *a, const float *b, size_t n)
{
    double sum = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        sum += pow((double)a[i] - (double)b[i], 2);
        size += pow((double)a[i], 2);
    }
    return sum / size;
}

/* Every matrix that may be is int8, nothing else is; *n_bytes of them. */
static uint64_t check_formats(const char *directory, uint64_t *n_bytes)
{
    opened o = open_model(directory);
    uint64_t n = 0;
    *n_bytes = 0;
    for (size_t i = 0; i < o.model->n_weights; i++) {
        const qmi_weight *w = &o.model->weights[i];
        const bool may = qmi_model_may_compress(w->role, w->n_rows);
        if (w->role == QMOE_ROLE_EXPERTS)
            continue;
        assert_int_equal(strcmp(w->format->name, "int8") == 0, may);
        assert_false(may && strstr(w->name, "router") != NULL);
        n += may;
        *n_bytes += may ? qmi_weight_bytes(w) : 0;
    }
    close_model(&o);
    return n;
}

/* int8 alone moves logits little; experts, where there are any, are compressed
 * to a byte as well so that all of the change is its. */
static void test_models(void **state)
{
    static float plain[MAX_LOGITS], got[MAX_LOGITS];
    (void)state;
    for (int i = 0; i < N_SOURCES; i++) {
        uint64_t n_bytes = 0;
        job_run run = run_to(sources[i], scratch_path("dense-int8"));
        const bool has_experts =
            strstr(sources[i], "moe") != NULL || i == N_SOURCES - 1;
        run.options.format = has_experts ? "int8" : NULL;
        must_go(&run);
        const uint64_t n_matrices = check_formats(run.output, &n_bytes);
        assert_int_equal(run.report.n_dense_matrices, n_matrices);
        assert_int_equal(run.report.dense_bytes, n_bytes);
        assert_true(run.report.dense_weight_error > 1e-6 &&
                    run.report.dense_weight_error < 1e-4);
        assert_int_equal(run.report.n_experts != 0, has_experts);
        const size_t n = logits_of(sources[i], plain);
        assert_int_equal(logits_of(run.output, got), n);
        const double far = distance(plain, got, n);
        printf("  %s: %d matrices, logits %.2e\n", sources[i], (int)n_matrices,
            far);
        assert_true(far > 1e-7 && far < 2e-2);
    }
}

/* The same bytes with another number of threads and after an interruption;
 * others with another number of bits, which a run does not go on with. */
static void test_bytes(void **state)
{
    job_run whole = run_to(sources[0], scratch_path("dense-whole"));
    (void)state;
    must_go(&whole);
    job_files expected = job_files_load(whole.output);
    job_run run = run_to(sources[0], scratch_path("dense-stopped"));
    run.n_threads = 1;
    run.options.group_size = 1;
    run.stop_after = (int)whole.report.n_dense_matrices + 6;
    assert_int_equal(job_go(&run), QMOE_E_CANCELLED);
    run.stop_after = 0;
    run.options.resume = true;
    run.options.dense_bits = "16";
    assert_int_equal(job_go(&run), QMOE_E_INVALID);
    assert_non_null(strstr(run.error, "formats beside the experts"));
    run.options.dense_bits = "8";
    must_go(&run);
    assert_true(run.report.n_experts_resumed > 0);
    job_files files = job_files_load(run.output);
    assert_int_equal(files.n, expected.n);
    for (size_t i = 0; i < files.n; i++) {
        assert_int_equal(files.items[i].n_bytes, expected.items[i].n_bytes);
        assert_memory_equal(files.items[i].data, expected.items[i].data,
            files.items[i].n_bytes);
    }
    job_files_free(&files);
    job_files_free(&expected);
}

/* Back to a plain checkpoint: the same names, and in f32 the same numbers. */
static void test_export(void **state)
{
    static float plain[MAX_LOGITS], got[MAX_LOGITS];
    const char *back = scratch_path("dense-back");
    (void)state;
    for (int i = 0; i < N_SOURCES; i++) {
        qmi_checkpoint *from = NULL, *to = NULL;
        qmoe_context *context = NULL;
        qmoe_export_report exported;
        qmi_error err = {0};
        const qmoe_export_options options = {
            .size = sizeof options, .overwrite = true, .dtype = "f32"};
        job_run run = run_to(sources[i], scratch_path("dense-int8"));
        must_go(&run);
        assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
        if (qmoe_export(context, &exported, run.output, back, &options) !=
            QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
        qmoe_context_destroy(context);
        assert_int_equal(qmi_checkpoint_open(&from, sources[i], &err), QMOE_OK);
        assert_int_equal(qmi_checkpoint_open(&to, back, &err), QMOE_OK);
        const qmi_tensor_file *file = qmi_checkpoint_file(from, 0);
        assert_int_equal(exported.n_tensors, qmi_tensor_file_count(file));
        for (size_t t = 0; t < qmi_tensor_file_count(file); t++)
            assert_non_null(
                qmi_checkpoint_find(to, qmi_tensor_file_at(file, t)->name));
        qmi_checkpoint_close(from);
        qmi_checkpoint_close(to);
        const size_t n = logits_of(run.output, got);
        assert_int_equal(logits_of(back, plain), n);
        assert_true(distance(plain, got, n) < 1e-10);
    }
}

/* ---- what must fail ---- */

/* Without the comparison of digests, which would find the change first. */
static qmoe_status open_unchecked(const char *directory, char text[1024])
{
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    qmoe_status status =
        qmi_model_open(&model, &context->hooks, directory, false);
    if (status == QMOE_OK)
        status = qmi_weight_check(&model->weights[0], 0, &context->hooks.error);
    snprintf(text, 1024, "%s", qmoe_context_error(context));
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return status;
}

static cJSON *entry_of(cJSON *config, const char *name)
{
    cJSON *q = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    cJSON *tensors = cJSON_GetObjectItemCaseSensitive(q, "tensors");
    return name != NULL ? cJSON_GetObjectItemCaseSensitive(tensors, name)
                        : tensors;
}

static void break_format(cJSON *config)
{
    cJSON *entry = entry_of(config, "model.embed_tokens.weight");
    cJSON_SetValuestring(cJSON_GetObjectItem(entry, "format"), "bf16");
}

static void break_shape(cJSON *config)
{
    cJSON *shape = cJSON_GetObjectItem(
        entry_of(config, "model.embed_tokens.weight"), "shape");
    cJSON_SetNumberValue(cJSON_GetArrayItem(shape, 0), 2);
}

static void break_type(cJSON *config)
{
    cJSON_ReplaceItemInObject(entry_of(config, NULL),
        "model.embed_tokens.weight", cJSON_CreateString("int8"));
}

/* Its parts are there, its tensor is not. */
static void remove_entry(cJSON *config)
{
    cJSON_DeleteItemFromObject(
        entry_of(config, NULL), "model.embed_tokens.weight");
}

/* A format for which the parts are not. */
static void change_format(cJSON *config)
{
    cJSON *entry = entry_of(config, "model.embed_tokens.weight");
    cJSON_SetValuestring(cJSON_GetObjectItem(entry, "format"), "q2");
}

static void test_hostile_entries(void **state)
{
    static const struct {
        void (*change)(cJSON *config);
        qmoe_status status;
        const char *text;
    } cases[] = {
        {break_format, QMOE_E_UNSUPPORTED, "unknown format 'bf16'"},
        {break_shape, QMOE_E_FORMAT, "shape of 'model.embed_tokens.weight'"},
        {break_type, QMOE_E_FORMAT, "'model.embed_tokens.weight'"},
        {remove_entry, QMOE_E_FORMAT, "'model.embed_tokens.weight'"},
        {change_format, QMOE_E_FORMAT, "model.embed_tokens.weight.codes"},
    };
    job_run run = run_to(sources[1], scratch_path("dense-hostile"));
    char text[1024];
    (void)state;
    must_go(&run);
    job_files files = job_files_load(run.output);
    assert_int_equal(open_unchecked(run.output, text), QMOE_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_files changed = job_files_copy(&files);
        job_file *file = job_files_find(&changed, "config.json");
        cJSON *config = cJSON_Parse((const char *)file->data);
        assert_non_null(config);
        cases[i].change(config);
        free(file->data);
        file->data = (uint8_t *)cJSON_Print(config);
        file->n_bytes = strlen((const char *)file->data);
        cJSON_Delete(config);
        job_files_store(&changed, run.output);
        const qmoe_status status = open_unchecked(run.output, text);
        if (status != cases[i].status || strstr(text, cases[i].text) == NULL)
            fail_msg("case %zu: status %d, '%s'", i, (int)status, text);
        job_files_free(&changed);
    }
    job_files_free(&files);
}

/* A scale that is not finite is found on first use, and by verify. */
static void test_damaged_scales(void **state)
{
    job_run run = run_to(sources[1], scratch_path("dense-damaged"));
    char text[1024];
    (void)state;
    must_go(&run);
    opened o = open_model(run.output);
    const qmi_weight *w = &o.model->weights[0];
    assert_int_equal(w->role, QMOE_ROLE_EMBEDDING);
    const qmi_tensor_file *shard = qmi_checkpoint_file(o.model->checkpoint, 0);
    const size_t at =
        (size_t)((const uint8_t *)w->parts[1].data - shard->map.data);
    close_model(&o);
    job_files files = job_files_load(run.output);
    job_file *file = job_files_find(&files, "model-00001-of-00001.safetensors");
    assert_non_null(file);
    file->data[at + 4] = 0xc0;
    file->data[at + 5] = 0x7f;
    job_files_store(&files, run.output);
    job_files_free(&files);
    assert_int_equal(open_unchecked(run.output, text), QMOE_E_FORMAT);
    assert_non_null(strstr(text, "'model.embed_tokens.weight', matrix 0"));
    assert_non_null(strstr(text, "scales: row 2: 0x7fc0"));
    qmoe_context *context = NULL;
    qmoe_verify_report verified;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(qmoe_verify(context, &verified, run.output, NULL, NULL),
        QMOE_E_CHECKSUM);
    qmoe_context_destroy(context);
}

/* What has no meaning for a model without experts, or at all. */
static void test_refused(void **state)
{
    static const struct {
        int source;
        const char *dense_bits, *format, *text;
        double bits;
        qmoe_status status;
        const char *expected;
    } cases[] = {
        {1, NULL, NULL, NULL, 0, QMOE_E_UNSUPPORTED, "no experts to compress"},
        {1, "16", NULL, NULL, 0, QMOE_E_UNSUPPORTED, "no experts to compress"},
        {1, "8", "q2", NULL, 0, QMOE_E_INVALID, "a format is for experts only"},
        {1, "8", NULL, NULL, 0.7, QMOE_E_INVALID, "a number of bits"},
        {1, "8", NULL, QMOE_SOURCE_DIR "/README.md", 0, QMOE_E_INVALID,
            "these bits need no calibration text"},
        {1, "head=16", NULL, NULL, 0, QMOE_E_UNSUPPORTED,
            "no experts to compress"},
        {0, "7", NULL, NULL, 0, QMOE_E_INVALID, "'7' is neither"},
        {0, "-1", NULL, NULL, 0, QMOE_E_INVALID, "'-1' is neither"},
        {0, "", NULL, NULL, 0, QMOE_E_INVALID, "'' is neither"},
        {0, "8 ", NULL, NULL, 0, QMOE_E_INVALID, "'8 ' is neither"},
        {0, "18446744073709551624", NULL, NULL, 0, QMOE_E_INVALID, "neither"},
        {0, "ternary-dict", NULL, NULL, 0, QMOE_E_INVALID, "size depends"},
        {0, "bf16", NULL, NULL, 0, QMOE_E_INVALID, "'bf16' is neither"},
        {0, "head=", NULL, NULL, 0, QMOE_E_INVALID, "'' is neither"},
        {0, "head=8,", NULL, NULL, 0, QMOE_E_INVALID, "'' is not ROLE=BITS"},
        {0, "head=8,4", NULL, NULL, 0, QMOE_E_INVALID, "'4' is not ROLE=BITS"},
        {0, "router=8", NULL, NULL, 0, QMOE_E_INVALID,
            "'router' is none of attention, dense_ffn, shared_ffn, embedding, "
            "head"},
        {0, "head=8,head=4", NULL, NULL, 0, QMOE_E_INVALID,
            "head is named twice"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_run run =
            run_to(sources[cases[i].source], scratch_path("dense-refused"));
        run.text = cases[i].text;
        run.options.dense_bits = cases[i].dense_bits;
        run.options.format = cases[i].format;
        run.options.bits = cases[i].bits;
        assert_int_equal(job_go(&run), cases[i].status);
        if (strstr(run.error, cases[i].expected) == NULL)
            fail_msg("case %zu: '%s'", i, run.error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_export),
        cmocka_unit_test(test_hostile_entries),
        cmocka_unit_test(test_damaged_scales),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
