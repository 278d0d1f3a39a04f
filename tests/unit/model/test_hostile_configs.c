/* SPDX-License-Identifier: Apache-2.0
 * Models of less than a megabyte whose configurations ask for much: whatever is
 * done with them costs little memory and time (SECURITY.md).  Each verb runs in
 * a process of its own, with a limit on its address space and processor time. */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model.h"
#include "qmoe/exchange.h"
#include "qmoe/plan.h"
#include "qmoe/quant.h"
#include "safetensors_writer.h"
#include "sanitized.h"
#include "scratch.h"
#include "scratch_file.h"

enum {
    MAX_MODEL_BYTES = 1000 * 1000,
    MAX_RESIDENT_KB = 384 << 10,
    MAX_SECONDS = 20,
    COMPRESS_LIMIT = 256 << 20
};
static const rlim_t max_address_space = (rlim_t)3 << 30;

static char folder[1024], text[1024], output[1024];

/* ---- models ---- */

static const struct {
    const char *name, *keys; /* in place of those of `plain` */
} models[] = {
    {"plain", ""},
    {"distance", "\"relative_attention_max_distance\": 1048576,"
                 "\"num_heads\": 256, \"d_kv\": 1"},
    {"distance of many heads", "\"relative_attention_max_distance\": 1048576,"
                               "\"num_heads\": 512, \"d_kv\": 1,"
                               "\"d_model\": 2"},
    {"buckets", "\"relative_attention_max_distance\": 1048576,"
                "\"relative_attention_num_buckets\": 65536"},
    {"vocabulary", "\"vocab_size\": 120000, \"d_model\": 2"},
    {"key width", "\"d_kv\": 8192, \"num_heads\": 1, \"d_model\": 2"},
    {"inner width", "\"d_ff\": 8192, \"d_model\": 2"},
    {"model width", "\"d_model\": 160"},
    {"experts", "\"num_experts\": 400"},
    {"blocks", "\"num_layers\": 200, \"d_model\": 2, \"encoder_sparse_step\": "
               "100, \"decoder_sparse_step\": 100"},
};
enum { N_MODELS = sizeof models / sizeof *models };

static cJSON *config_of(size_t model)
{
    static const char plain[] =
        "{\"model_type\": \"switch_transformers\", \"vocab_size\": 2112,"
        "\"d_model\": 8, \"d_kv\": 4, \"d_ff\": 16, \"num_heads\": 2,"
        "\"num_experts\": 4, \"num_layers\": 2, \"encoder_sparse_step\": 2,"
        "\"decoder_sparse_step\": 2, \"torch_dtype\": \"bfloat16\"}";
    char keys[512];
    cJSON *config = cJSON_Parse(plain);
    snprintf(keys, sizeof keys, "{%s}", models[model].keys);
    cJSON *changes = cJSON_Parse(keys);
    assert_non_null(config);
    assert_non_null(changes);
    while (changes->child != NULL) {
        cJSON *item = cJSON_DetachItemViaPointer(changes, changes->child);
        cJSON_DeleteItemFromObject(config, item->string);
        cJSON_AddItemToObject(config, item->string, item);
    }
    cJSON_Delete(changes);
    return config;
}

/* Calls back for every tensor that the model's configuration asks for. */
static void each_tensor(const qmoe_model *m,
    void (*visit)(qmi_st_writer *writer, size_t index, const char *name,
        const qmi_weight *w),
    qmi_st_writer *writer)
{
    size_t index = 0;
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        const char *dot = strrchr(w->name, '.');
        for (int64_t mat = 0; mat < w->n_mats; mat++) {
            char name[512];
            snprintf(name, sizeof name, "%s", w->name);
            if (w->role == QMOE_ROLE_EXPERTS)
                snprintf(name, sizeof name, "%.*s.expert_%d%s.weight",
                    (int)(dot - w->name), w->name, (int)mat, dot);
            visit(writer, index++, name, w);
        }
    }
}

static void declare(
    qmi_st_writer *writer, size_t index, const char *name, const qmi_weight *w)
{
    const int64_t shape[] = {w->n_rows, w->n_cols};
    (void)index;
    const int vector = w->n_rows == 1;
    assert_int_equal(qmi_st_writer_declare(writer, name, QMI_BF16,
                         shape + vector, 2 - vector, NULL),
        QMOE_OK);
}

static void fill(
    qmi_st_writer *writer, size_t index, const char *name, const qmi_weight *w)
{
    static uint32_t state = 1;
    const size_t n = (size_t)(w->n_rows * w->n_cols);
    uint16_t *values = calloc(n, sizeof *values);
    (void)name;
    assert_non_null(values);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        values[i] = qmi_f32_to_bf16((float)(int32_t)state * 1e-10f);
    }
    assert_int_equal(
        qmi_st_writer_write(writer, index, values, n * sizeof *values, NULL),
        QMOE_OK);
    free(values);
}

static void write_weights(const cJSON *config)
{
    char path[1200];
    uint64_t hash, n_bytes;
    qmoe_context *context = NULL;
    qmoe_model *sketch = NULL;
    qmi_st_writer *writer = NULL;
    qmi_new_file file;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(
        qmi_model_sketch(&sketch, qmi_hooks_of(context), config, "config"),
        QMOE_OK);
    assert_int_equal(scratch_new_file(&file, path, NULL), QMOE_OK);
    assert_int_equal(qmi_st_writer_create(&writer, &file, NULL), QMOE_OK);
    each_tensor(sketch, declare, writer);
    each_tensor(sketch, fill, writer);
    assert_int_equal(
        qmi_st_writer_finish(writer, &hash, &n_bytes, NULL), QMOE_OK);
    assert_true(n_bytes < MAX_MODEL_BYTES);
    qmi_st_writer_destroy(writer);
    qmoe_model_close(sketch);
    qmoe_context_destroy(context);
}

static void make_model(size_t model)
{
    char path[1200];
    cJSON *config = config_of(model);
    char *printed = cJSON_Print(config);
    assert_non_null(printed);
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(printed, file) >= 0);
    assert_int_equal(fclose(file), 0);
    cJSON_free(printed);
    write_weights(config);
    cJSON_Delete(config);
}

/* ---- verbs ---- */

static qmoe_status run_inspect(qmoe_context *c, qmoe_model *m)
{
    (void)c;
    qmoe_weight_stats stats;
    for (size_t i = 0; i < m->n_weights; i++)
        QMI_TRY(qmoe_model_weight_stats(m, i, &stats));
    return QMOE_OK;
}

static qmoe_status run_verify(qmoe_context *c, qmoe_model *m)
{
    qmoe_verify_report report;
    (void)m;
    return qmoe_verify(c, &report, folder, NULL, NULL);
}

static qmoe_status run_plan(qmoe_context *c, qmoe_model *m)
{
    static qmoe_plan_report report;
    const qmoe_plan_options options = {
        .size = sizeof options, .weight_rate = 1, .memory_rate = 1};
    (void)m;
    return qmoe_plan(c, &report, folder, &options);
}

static qmoe_status run_generate(qmoe_context *c, qmoe_model *m)
{
    const qmoe_session_options place = {.size = sizeof place, .backend = "cpu"};
    const qmoe_generate_options options = {
        .size = sizeof options, .max_new_tokens = 8, .ignore_eos = true};
    const char *prompt = "In the beginning was the Word";
    qmoe_session *session = NULL;
    qmoe_generation *out = NULL;
    (void)c;
    qmoe_status status = qmoe_session_create(&session, m, &place);
    if (status == QMOE_OK)
        status =
            qmoe_session_generate(session, &out, NULL, &prompt, 1, &options);
    qmoe_generations_free(out, 1);
    qmoe_session_destroy(session);
    return status;
}

static qmoe_status run_eval(qmoe_context *c, qmoe_model *m)
{
    const qmoe_session_options place = {.size = sizeof place, .backend = "cpu"};
    const qmoe_eval_options options = {
        .size = sizeof options, .text_path = text};
    qmoe_session *session = NULL;
    qmoe_eval_result result;
    (void)c;
    qmoe_status status = qmoe_session_create(&session, m, &place);
    if (status == QMOE_OK)
        status = qmoe_session_eval(session, &result, &options);
    qmoe_session_destroy(session);
    return status;
}

static qmoe_status compress(qmoe_context *c, const char *method)
{
    const char *texts[] = {text};
    const qmoe_compress_options options = {.size = sizeof options,
        .method = method,
        .calibration = texts,
        .n_calibration = strcmp(method, "gptq") == 0,
        .memory_limit = COMPRESS_LIMIT,
        .overwrite = true};
    qmoe_compress_report report;
    return qmoe_compress(c, &report, folder, output, &options);
}

static qmoe_status run_rounding(qmoe_context *c, qmoe_model *m)
{
    (void)m;
    return compress(c, "rtn");
}

static qmoe_status run_compress(qmoe_context *c, qmoe_model *m)
{
    (void)m;
    return compress(c, "gptq");
}

static const struct {
    const char *name;
    qmoe_status (*run)(qmoe_context *context, qmoe_model *model);
} verbs[] = {
    {"inspect", run_inspect},
    {"verify", run_verify},
    {"plan", run_plan},
    {"generate", run_generate},
    {"eval", run_eval},
    {"compress --method rtn", run_rounding},
    {"compress", run_compress},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

/* ---- limits ---- */

static int child(size_t verb)
{
    const struct rlimit space = {max_address_space, max_address_space};
    const struct rlimit seconds = {MAX_SECONDS, MAX_SECONDS};
    const qmoe_context_options threads = {
        .size = sizeof threads, .n_threads = 1};
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    /* Sanitizers have address space and memory of their own. */
    if (!SANITIZED && (setrlimit(RLIMIT_AS, &space) != 0 ||
                          setrlimit(RLIMIT_CPU, &seconds) != 0))
        return 1;
    if (qmoe_context_create(&context, &threads) != QMOE_OK)
        return 1;
    qmoe_status status = qmoe_model_open(&model, context, folder);
    if (status == QMOE_OK)
        status = verbs[verb].run(context, model);
    if (status != QMOE_OK)
        print_message("  %s\n", qmoe_context_error(context));
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    /* A limit that is too small for the method is said, not exceeded. */
    return status == QMOE_OK || status == QMOE_E_INVALID ? 0 : 2;
}

static void run_limited(size_t model, size_t verb)
{
    struct rusage used;
    int status = 0;
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(child(verb));
    assert_int_equal(wait4(pid, &status, 0, &used), pid);
    print_message("%s, %s: %ld MB, %ld.%02d s\n", models[model].name,
        verbs[verb].name, used.ru_maxrss >> 10, (long)used.ru_utime.tv_sec,
        (int)(used.ru_utime.tv_usec / 10000));
    if (status != 0)
        fail_msg("%s, %s: ended with %d", models[model].name, verbs[verb].name,
            status);
    if (!SANITIZED && used.ru_maxrss > MAX_RESIDENT_KB)
        fail_msg("%s, %s: %ld MB", models[model].name, verbs[verb].name,
            used.ru_maxrss >> 10);
}

static void each_verb_is_bounded(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        make_model(i);
        for (size_t v = 0; v < N_VERBS; v++)
            if (is_too_long() && i != 0 &&
                (verbs[v].run == run_eval || verbs[v].run == run_compress))
                print_message("skip %s, %s (long with sanitizers)\n",
                    models[i].name, verbs[v].name);
            else
                run_limited(i, v);
    }
}

static void copy_tokenizer(void)
{
    char path[1200];
    static char bytes[1 << 20];
    FILE *from =
        fopen(QMOE_SOURCE_DIR "/models/switch-mini/spiece.model", "rb");
    assert_non_null(from);
    const size_t n = fread(bytes, 1, sizeof bytes, from);
    fclose(from);
    assert_in_range(n, 1, sizeof bytes - 1);
    snprintf(path, sizeof path, "%s/spiece.model", folder);
    FILE *to = fopen(path, "wb");
    assert_non_null(to);
    assert_int_equal(fwrite(bytes, 1, n, to), n);
    assert_int_equal(fclose(to), 0);
}

static int set_up(void **state)
{
    char line[2048] = "";
    (void)state;
    snprintf(folder, sizeof folder, "%s", scratch_directory("hostile-config"));
    snprintf(output, sizeof output, "%s", scratch_path("hostile-config-out"));
    for (int i = 0; i < 40; i++)
        strcat(line, "The LORD is my shepherd; I shall not want. ");
    strcat(line, "\n");
    snprintf(text, sizeof text, "%s", scratch_text("hostile-config.txt", line));
    copy_tokenizer();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_verb_is_bounded),
    };
    return cmocka_run_group_tests_name(
        "hostile configurations", tests, set_up, NULL);
}
