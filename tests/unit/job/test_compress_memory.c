/* SPDX-License-Identifier: Apache-2.0
 * What a compression is said to take and what it takes: the peak of resident
 * memory of a process of its own, at shapes where matrices are most of it. */
#include <dirent.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qmoe/quant.h"
#include "scratch.h"

#include "sanitized.h"

/* What the child found out. */
typedef struct outcome {
    qmoe_status status;
    uint64_t planned, n_tokens;
    char error[512];
} outcome;

static const char *text; /* calibration */
static char output[1024];
static const char *const small = QMOE_SOURCE_DIR "/models/switch-mini";

static void compress(outcome *out, const char *source, int n_threads,
    qmoe_compress_options options)
{
    qmoe_context *context = NULL;
    qmoe_compress_report report = {0};
    const qmoe_context_options threads = {
        .size = sizeof threads, .n_threads = n_threads};
    *out = (outcome){.status = qmoe_context_create(&context, &threads)};
    if (out->status != QMOE_OK)
        return;
    options.size = sizeof options;
    if (options.method == NULL) {
        options.calibration = &text;
        options.n_calibration = 1;
    }
    options.overwrite = true;
    out->status = qmoe_compress(context, &report, source, output, &options);
    out->planned = report.planned_memory_bytes;
    out->n_tokens = report.n_encoder_tokens + report.n_decoder_tokens;
    snprintf(out->error, sizeof out->error, "%s", qmoe_context_error(context));
    qmoe_context_destroy(context);
}

/* Peak bytes of a process that compresses. */
static uint64_t measure_source(outcome *out, const char *source, int n_threads,
    qmoe_compress_options options)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        outcome found;
        compress(&found, source, n_threads, options);
        _exit(write(ends[1], &found, sizeof found) != sizeof found);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], out, sizeof *out), sizeof *out);
    close(ends[0]);
    struct rusage used;
    int status = 0;
    assert_int_equal(wait4(child, &status, 0, &used), child);
    assert_int_equal(status, 0);
    if (out->status != QMOE_OK)
        fail_msg("%s", out->error);
    return (uint64_t)used.ru_maxrss * 1024;
}

static uint64_t measure(
    outcome *out, int experts, int n_threads, qmoe_compress_options options)
{
    char source[1200];
    snprintf(source, sizeof source,
        "synth:base-64?experts=%d&encoder_blocks=2&decoder_blocks=1&tokenizer="
        "%s/models/switch-mini",
        experts, QMOE_SOURCE_DIR);
    return measure_source(out, source, n_threads, options);
}

/* Sanitizers have memory of their own. */
static void skip_if_sanitized(void)
{
    if (!SANITIZED)
        return;
    print_message("resident memory of a sanitized program says nothing\n");
    skip();
}

static void test_prediction(void **state)
{
    static const struct {
        int experts, n_threads;
        qmoe_compress_options options;
    } cases[] = {
        {2, 2, {.format = "pvq", .passes = -1}},
        {1, 1, {.format = "tlut-2", .passes = 1}},
        {1, 1, {.bits = 0.7, .passes = -1}},
        {1, 1, {.format = "ternary-dict", .fit_levels = true, .passes = 1}},
    };
    (void)state;
    skip_if_sanitized();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o;
        const uint64_t used =
            measure(&o, cases[i].experts, cases[i].n_threads, cases[i].options);
        const double share = (double)used / (double)o.planned;
        print_message("case %zu: %.0f MB, said were %.0f: %.3f\n", i,
            (double)used / 1e6, (double)o.planned / 1e6, share);
        if (!(share > 0.75 && share < 1.02))
            fail_msg("case %zu: %.3f of what was predicted", i, share);
    }
}

/* Originals in groups of experts were what grew. */
static void test_does_not_grow_with_experts(void **state)
{
    const qmoe_compress_options options = {.format = "pvq", .method = "rtn"};
    outcome few, many;
    (void)state;
    skip_if_sanitized();
    const uint64_t two = measure(&few, 2, 1, options);
    const uint64_t ten = measure(&many, 10, 1, options);
    print_message("2 experts: %.1f MB, 10: %.1f MB\n", (double)two / 1e6,
        (double)ten / 1e6);
    /* Results of a group wait in between: some room for fragments. */
    assert_true((double)ten < 1.25 * (double)two);
    assert_true((double)many.planned < 1.01 * (double)few.planned);
    assert_true(ten <= many.planned);
}

static void test_limit_holds(void **state)
{
    qmoe_compress_options options = {
        .format = "pvq", .method = "rtn", .dry_run = true};
    outcome unbounded, bounded;
    (void)state;
    skip_if_sanitized();
    measure(&unbounded, 2, 2, options);
    options.dry_run = false;
    options.memory_limit = unbounded.planned - (UINT64_C(1) << 20);
    const uint64_t used = measure(&bounded, 2, 2, options);
    print_message("limit %.0f MB, used %.0f MB\n",
        (double)options.memory_limit / 1e6, (double)used / 1e6);
    assert_true(bounded.planned <= options.memory_limit);
    assert_true(used <= options.memory_limit);
}

/* ---- calibration of many tokens ---- */

enum { N_WORDS = 400 };

/* So many documents of about N_WORDS words each. */
static const char *write_documents(const char *name, int n)
{
    static const char *const words[] = {"lord", "shepherd", "green", "waters",
        "beginning", "word", "season", "heaven", "time", "purpose"};
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "w");
    unsigned state = 1;
    assert_non_null(file);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < N_WORDS; j++) {
            state = state * 1664525 + 1013904223;
            fprintf(file, "%s ", words[(state >> 16) % 10]);
        }
        fputs("\n", file);
    }
    assert_int_equal(fclose(file), 0);
    return path;
}

/* Pages of a mapped file count, whoever could take them away. */
static void test_work_directory_bounds(void **state)
{
    const qmoe_compress_options options = {.format = "q2",
        .passes = -1,
        .work_dir = scratch_path("memory-states")};
    const char *other = text;
    outcome few, many;
    (void)state;
    skip_if_sanitized();
    text = write_documents("memory-few.txt", 16);
    const uint64_t before = measure_source(&few, small, 1, options);
    text = write_documents("memory-many.txt", 112);
    const uint64_t after = measure_source(&many, small, 1, options);
    text = other;
    const double states = (double)(many.n_tokens - few.n_tokens) * 256 * 4;
    print_message("%.1f MB, with %.1f MB more of token states: %.1f MB\n",
        (double)before / 1e6, states / 1e6, (double)after / 1e6);
    assert_true(states > 32e6);
    assert_true((double)after < (double)before + states / 8);
    assert_true(after <= many.planned);
}

static int set_up(void **state)
{
    static char path[1024];
    (void)state;
    snprintf(path, sizeof path, "%s",
        scratch_text("memory.txt",
            "The LORD is my shepherd; I shall not want. He maketh me to lie "
            "down in green pastures: he leadeth me beside the still waters.\n"
            "In the beginning was the Word, and the Word was with God, and "
            "the Word was God. The same was in the beginning with God.\n"
            "To every thing there is a season, and a time to every purpose "
            "under the heaven: A time to be born, and a time to die.\n"));
    text = path;
    /* Models of 100 MB are written and synced: not to a disk, if possible. */
    snprintf(output, sizeof output, "/dev/shm/qmoe-memory-%d", (int)getpid());
    if (mkdir(output, 0777) == 0)
        rmdir(output);
    else
        snprintf(output, sizeof output, "%s", scratch_path("memory-model"));
    return 0;
}

static int tear_down(void **state)
{
    char path[1300];
    struct dirent **names = NULL;
    (void)state;
    int n = scandir(output, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", output, names[i]->d_name);
        unlink(path);
        free(names[i]);
    }
    free(names);
    rmdir(output);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prediction),
        cmocka_unit_test(test_does_not_grow_with_experts),
        cmocka_unit_test(test_limit_holds),
        cmocka_unit_test(test_work_directory_bounds),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
