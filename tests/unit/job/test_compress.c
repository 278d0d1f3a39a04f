/* SPDX-License-Identifier: Apache-2.0
 * The compressor as a whole, on the embedded model: the result depends neither
 * on threads nor on groups, an interrupted run resumes to the same bytes, and
 * refusals leave nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "hash.h"
#include "map.h"
#include "qmoe/quant.h"
#include "quantiser.h"
#include "sanitized.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini"

static char directory[512];

static const char *path_of(char path[768], const char *name)
{
    snprintf(path, 768, "%s/%s", directory, name);
    return path;
}

/* A small calibration text: enough that most experts see tokens. */
static void write_text(const char *path)
{
    static const char *const lines[] = {
        "And God said, Let there be light: and there was light.",
        "The LORD is my shepherd; I shall not want. He maketh me to lie down "
        "in green pastures: he leadeth me beside the still waters.",
        "In the beginning was the Word, and the Word was with God, and the "
        "Word was God. The same was in the beginning with God.",
        "Blessed are the meek: for they shall inherit the earth. Blessed are "
        "they which do hunger and thirst after righteousness.",
        "To every thing there is a season, and a time to every purpose under "
        "the heaven: A time to be born, and a time to die.",
    };
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        fprintf(file, "%s\n", lines[i]);
    fclose(file);
}

static int set_up(void **state)
{
    char path[768];
    (void)state;
    snprintf(directory, sizeof directory, "%s/compress-XXXXXX", QMOE_TEST_DIR);
    assert_non_null(mkdtemp(directory));
    write_text(path_of(path, "calib.txt"));
    return 0;
}

static void remove_all(const char *path)
{
    DIR *d = opendir(path);
    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char inner[2048];
        snprintf(inner, sizeof inner, "%.1000s/%s", path, e->d_name);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlink(inner) != 0)
            remove_all(inner);
    }
    closedir(d);
    rmdir(path);
}

static int tear_down(void **state)
{
    (void)state;
    remove_all(directory);
    return 0;
}

/* Hash of names and contents of all files of a directory. */
static uint64_t hash_directory(const char *path)
{
    struct dirent **names = NULL;
    int n = scandir(path, &names, NULL, alphasort);
    uint64_t hash = 0;
    assert_true(n > 2);
    for (int i = 0; i < n; i++) {
        char file[2048];
        qmi_map map;
        qmi_error err = {0};
        snprintf(file, sizeof file, "%.1000s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            assert_int_equal(qmi_map_open(&map, file, &err), QMOE_OK);
            const uint64_t mixed[3] = {hash,
                qmi_hash64(names[i]->d_name, strlen(names[i]->d_name)),
                qmi_hash64(map.data, map.n_bytes)};
            hash = qmi_hash64(mixed, sizeof mixed);
            qmi_map_close(&map);
        }
        free(names[i]);
    }
    free(names);
    return hash;
}

/* Cancels after a number of progress calls, of which some come by the clock;
 * -1 = never. */
static int countdown;

/* Cancels where the named item comes up. */
static const char *stop_item;

/* A source file that loses its end when the named item comes up. */
static const char *victim, *victim_item;
static long victim_bytes;

static int on_progress(void *user, const qmoe_progress *progress)
{
    (void)user;
    if (victim != NULL && progress->item != NULL &&
        strncmp(progress->item, victim_item, strlen(victim_item)) == 0) {
        assert_int_equal(truncate(victim, victim_bytes), 0);
        victim = NULL;
    }
    if (stop_item != NULL && progress->item != NULL &&
        strncmp(progress->item, stop_item, strlen(stop_item)) == 0)
        return 1;
    return countdown >= 0 && countdown-- == 0;
}

static char source[768] = MODEL;

static qmoe_status compress(const char *name, int n_threads,
    qmoe_compress_options options, qmoe_compress_report *report,
    char error[512])
{
    char output[768], text[768];
    qmoe_context *context = NULL;
    const qmoe_context_options context_options = {
        .size = sizeof context_options,
        .n_threads = n_threads,
        .progress = on_progress};
    const char *paths[] = {path_of(text, "calib.txt")};
    assert_int_equal(qmoe_context_create(&context, &context_options), QMOE_OK);
    options.size = sizeof options;
    if (options.method == NULL || strcmp(options.method, "gptq") == 0) {
        options.calibration = paths;
        options.n_calibration = 1;
    }
    qmoe_status status =
        qmoe_compress(context, report, source, path_of(output, name), &options);
    snprintf(error, 512, "%s", qmoe_context_error(context));
    qmoe_context_destroy(context);
    return status;
}

static uint64_t hash_of(const char *name)
{
    char path[768];
    return hash_directory(path_of(path, name));
}

static bool exists(const char *name)
{
    char path[768];
    return access(path_of(path, name), F_OK) == 0;
}

static uint64_t must_compress(const char *name, int n_threads,
    qmoe_compress_options options, qmoe_compress_report *report)
{
    char error[512];
    countdown = -1;
    if (compress(name, n_threads, options, report, error) != QMOE_OK)
        fail_msg("%s", error);
    return hash_of(name);
}

static void test_threads_and_groups(void **state)
{
    (void)state;
    for (size_t i = 0; qmi_quantiser_at(i) != NULL; i++) {
        const qmi_quantiser *q = qmi_quantiser_at(i);
        if (!q->needs_hessian)
            continue; /* the others take the same way with less work */
        qmoe_compress_report a, b;
        const qmoe_compress_options options = {.format = q->format->name,
            .method = q->method,
            .overwrite = true,
            .passes = 1};
        qmoe_compress_options grouped = options;
        grouped.group_size = 3;
        grouped.work_dir = directory;
        const uint64_t one = must_compress("one", 1, options, &a);
        /* With sanitizers in the first format alone. */
        if (i == 0 || !is_too_long())
            assert_true(one == must_compress("two", 2, grouped, &b));
        printf(
            "  %s %s: error %.4f\n", q->method, q->format->name, a.input_error);
        assert_true(a.input_error > 0 && a.input_error < 1);
        assert_true(a.n_experts == 32 && a.n_matrices == 64);
        assert_true(a.expert_bytes > 0 && a.output_bytes > a.expert_bytes);
    }
}

static void test_gptq_beats_rounding(void **state)
{
    (void)state;
    if (is_too_long())
        skip();
    char text[768];
    qmoe_compress_report gptq, rtn;
    must_compress("gptq", 2, (qmoe_compress_options){.overwrite = true}, &gptq);
    /* Rounding measured on the same inputs. */
    qmoe_context *context = NULL;
    char output[768];
    const char *paths[] = {path_of(text, "calib.txt")};
    const qmoe_compress_options options = {.size = sizeof options,
        .method = "rtn",
        .calibration = paths,
        .n_calibration = 1,
        .overwrite = true};
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(
        qmoe_compress(context, &rtn, MODEL, path_of(output, "rtn"), &options),
        QMOE_OK);
    qmoe_context_destroy(context);
    printf("  output error: gptq %.5f, rtn %.5f\n", gptq.input_error,
        rtn.input_error);
    /* Most experts see a handful of tokens of this small text, some none. */
    assert_true(gptq.input_error < 0.6 * rtn.input_error);
}

/* Lines of the journal that begin so. */
static uint64_t count_lines(const char *journal, const char *begin)
{
    char path[768], line[1024];
    uint64_t n = 0;
    FILE *file = fopen(path_of(path, journal), "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        n += strncmp(line, begin, strlen(begin)) == 0;
    if (file != NULL)
        fclose(file);
    return n;
}

/* Interrupts a run at many places; each time it resumes to the same bytes, and
 * no expert that was finished is done again. */
static void test_resume(void **state)
{
    (void)state;
    if (is_too_long())
        skip();
    qmoe_compress_report report;
    const qmoe_compress_options options = {
        .overwrite = true, .group_size = 4, .passes = 2};
    uint64_t expected = must_compress("whole", 2, options, &report);
    assert_true(report.n_experts_resumed == 0);
    static const struct {
        const char *item;
        uint64_t n_done; /* at least */
    } stops[] = {
        {"encoder block 1, expert 4/", 4},
        {"decoder block 1, dense", 16},
        {"decoder block 1, expert 12/", 28},
    };
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        char error[512], path[768];
        qmoe_compress_options first = options;
        first.overwrite = false;
        stop_item = stops[i].item;
        assert_int_equal(
            compress("stopped", 2, first, &report, error), QMOE_E_CANCELLED);
        stop_item = NULL;
        assert_false(exists("stopped"));
        const uint64_t n_done =
            count_lines("stopped.partial/journal", "expert ");
        assert_true(n_done >= stops[i].n_done);
        first.resume = true;
        assert_true(must_compress("stopped", 1, first, &report) == expected);
        assert_true(report.n_experts_resumed == n_done);
        assert_false(exists("stopped.partial"));
        remove_all(path_of(path, "stopped"));
    }
}

static void test_resume_refuses_another_job(void **state)
{
    (void)state;
    char error[512], path[768];
    qmoe_compress_report report;
    qmoe_compress_options options = {.group_size = 4};
    stop_item = "encoder block 1, expert 4/";
    assert_int_equal(
        compress("other", 1, options, &report, error), QMOE_E_CANCELLED);
    stop_item = NULL;
    assert_true(exists("other.partial/journal"));
    /* Neither overwritten unasked ... */
    countdown = -1;
    assert_int_equal(
        compress("other", 1, options, &report, error), QMOE_E_EXISTS);
    assert_non_null(strstr(error, "--resume"));
    /* ... nor continued with other options. */
    options.resume = true;
    options.passes = 3;
    assert_int_equal(
        compress("other", 1, options, &report, error), QMOE_E_INVALID);
    assert_non_null(strstr(error, "passes is '3', but was '16'"));
    assert_true(exists("other.partial/journal"));
    remove_all(path_of(path, "other.partial"));
}

static void copy_file(const char *from, const char *to)
{
    qmi_map map;
    qmi_error err = {0};
    assert_int_equal(qmi_map_open(&map, from, &err), QMOE_OK);
    FILE *file = fopen(to, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(map.data, 1, map.n_bytes, file), map.n_bytes);
    assert_int_equal(fclose(file), 0);
    qmi_map_close(&map);
}

/* ---- a bit budget ---- */

static uint64_t shards_hash(const char *name)
{
    char path[1024];
    uint64_t hash = 0;
    for (int i = 1; i <= 5; i++) {
        qmi_map map;
        qmi_error err = {0};
        snprintf(path, sizeof path, "%s/%s/model-%05d-of-00005.safetensors",
            directory, name, i);
        assert_int_equal(qmi_map_open(&map, path, &err), QMOE_OK);
        const uint64_t pair[2] = {hash, qmi_hash64(map.data, map.n_bytes)};
        hash = qmi_hash64(pair, sizeof pair);
        qmi_map_close(&map);
    }
    return hash;
}

/* The ends of the range are the plain formats; in between the error falls as
 * bits rise, and the budget is kept. */
static void test_bits(void **state)
{
    (void)state;
    if (is_too_long())
        skip();
    qmoe_compress_report r, pvq, pvq8;
    const qmoe_compress_options options = {.overwrite = true, .passes = 1};
    qmoe_compress_options o = options;
    o.format = "pvq";
    must_compress("plain", 2, o, &pvq);
    const uint64_t small = shards_hash("plain");
    o.format = "pvq8";
    must_compress("plain", 2, o, &pvq8);
    const uint64_t large = shards_hash("plain");
    const double bits[] = {0.609375, 0.7, 0.8, 0.921875};
    double before = 2;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        o = options;
        o.bits = bits[i];
        must_compress("bits", 2, o, &r);
        double taken = 8 * (double)r.expert_bytes / (double)r.expert_weights;
        printf(
            "  %.4f bits of %.4f: error %.5f\n", taken, bits[i], r.input_error);
        assert_true(r.least_bits == 0.609375 && r.most_bits == 0.921875);
        assert_true(taken <= bits[i]);
        assert_true(taken > bits[i] - (0.921875 - 0.609375) / 4);
        assert_true(r.input_error < before);
        before = r.input_error;
        if (i == 0)
            assert_true(shards_hash("bits") == small);
        if (i == 3)
            assert_true(shards_hash("bits") == large);
    }
    assert_true(pvq8.input_error < pvq.input_error);
}

/* Neither threads nor groups change what is measured and chosen; a run that is
 * interrupted while it measures or later resumes to the same bytes. */
static void test_bits_resume(void **state)
{
    (void)state;
    if (is_too_long())
        skip();
    char error[512], path[768];
    qmoe_compress_report report;
    const qmoe_compress_options options = {.overwrite = true,
        .group_size = 3,
        .passes = 1,
        .bits = 0.75,
        .work_dir = directory};
    qmoe_compress_options other = options;
    other.group_size = 0;
    other.work_dir = NULL;
    uint64_t expected = must_compress("bits", 1, options, &report);
    assert_true(must_compress("bits2", 2, other, &report) == expected);
    int n_interrupted = 0;
    uint64_t n_resumed = 0;
    for (int stop = 25; stop < 82; stop += 12) {
        qmoe_compress_options first = options;
        first.overwrite = false;
        countdown = stop;
        qmoe_status status = compress("cut", 2, first, &report, error);
        assert_true(status == QMOE_E_CANCELLED || status == QMOE_OK);
        n_interrupted += status == QMOE_E_CANCELLED;
        const uint64_t n_done = count_lines("cut.partial/journal", "trial ");
        first.resume = true;
        first.group_size = 4;
        if (status == QMOE_E_CANCELLED) {
            must_compress("cut", 1, first, &report);
            assert_true(report.n_trials_resumed == n_done);
            n_resumed += n_done;
        }
        assert_true(hash_of("cut") == expected);
        assert_false(exists("cut.partial"));
        remove_all(path_of(path, "cut"));
    }
    assert_true(n_interrupted >= 4);
    assert_true(n_resumed > 0);
}

/* Without calibration the errors are those of the weights. */
static void test_bits_without_calibration(void **state)
{
    (void)state;
    qmoe_compress_report rtn, r;
    const qmoe_compress_options options = {
        .overwrite = true, .method = "rtn", .bits = 0.8};
    const qmoe_compress_options plain = {.overwrite = true, .method = "rtn"};
    must_compress("bits", 2, options, &r);
    must_compress("plain", 2, plain, &rtn);
    assert_true(8 * (double)r.expert_bytes <= 0.8 * (double)r.expert_weights);
    assert_true(r.weight_error < rtn.weight_error);
}

/* The source becomes unreadable in the middle: an error that names the file,
 * and --resume ends with the same bytes once the file is whole again. */
static void test_source_fails_in_the_middle(void **state)
{
    (void)state;
    static const char *const names[] = {
        "config.json", "spiece.model", "model.safetensors"};
    char error[512], from[768], to[1024], weights[1024];
    qmoe_compress_report report;
    qmoe_compress_options options = {.group_size = 4, .passes = 2};
    uint64_t expected = must_compress("undisturbed", 2, options, &report);
    path_of(source, "source");
    assert_int_equal(mkdir(source, 0777), 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(from, sizeof from, "%s/%s", MODEL, names[i]);
        snprintf(to, sizeof to, "%s/%s", source, names[i]);
        copy_file(from, to);
    }
    snprintf(weights, sizeof weights, "%s/model.safetensors", source);
    victim = weights;
    victim_item = "decoder block 1, expert 4/";
    victim_bytes = 8192;
    countdown = -1;
    assert_int_equal(compress("failed", 2, options, &report, error), QMOE_E_IO);
    assert_non_null(strstr(error, "model.safetensors"));
    assert_null(victim);
    assert_false(exists("failed"));
    copy_file(from, weights);
    options.resume = true;
    assert_true(must_compress("failed", 2, options, &report) == expected);
    snprintf(source, sizeof source, "%s", MODEL);
}

static void test_dry_run_writes_nothing(void **state)
{
    (void)state;
    char error[512];
    qmoe_compress_report report;
    countdown = -1;
    assert_int_equal(
        compress(
            "dry", 2, (qmoe_compress_options){.dry_run = true}, &report, error),
        QMOE_OK);
    assert_false(exists("dry"));
    assert_false(exists("dry.partial"));
    assert_true(report.planned_output_bytes > 5000000);
    assert_true(report.planned_memory_bytes > 0);
    assert_true(report.planned_seconds > 0);
}

static void test_limits_are_refused(void **state)
{
    (void)state;
    static const struct {
        qmoe_compress_options options;
        qmoe_status status;
        const char *text;
    } cases[] = {
        {{.memory_limit = 1 << 20}, QMOE_E_INVALID, "needs"},
        {{.format = "nonsense"}, QMOE_E_UNSUPPORTED, "nonsense"},
        {{.method = "nonsense"}, QMOE_E_UNSUPPORTED, "nonsense"},
        {{.group_size = -1}, QMOE_E_INVALID, "group size"},
        {{.damping = -1}, QMOE_E_INVALID, "damping"},
        {{.work_dir = "/nonexistent/states"}, QMOE_E_NOT_FOUND,
            "/nonexistent/states"},
        {{.rotation = 48}, QMOE_E_INVALID, "rotation 48"},
        {{.rotation = 2048}, QMOE_E_INVALID, "rotation 2048"},
        {{.rotation = -2}, QMOE_E_INVALID, "rotation -2"},
        {{.format = "q2", .rotation = 64}, QMOE_E_INVALID, "not for q2"},
        {{.fit_levels = true}, QMOE_E_INVALID, "not for pvq"},
        {{.fit_dictionary = true}, QMOE_E_INVALID, "not for pvq"},
        {{.bits = 0.6}, QMOE_E_INVALID, "takes 0.6094 (all pvq) to 0.9218"},
        {{.bits = 0.922}, QMOE_E_INVALID, "takes 0.6094 (all pvq) to 0.9218"},
        {{.bits = -1}, QMOE_E_INVALID, "-1 bits"},
        {{.bits = NAN}, QMOE_E_INVALID, "bits"},
        {{.bits = 0.7, .format = "pvq"}, QMOE_E_INVALID, "leave"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char error[512];
        qmoe_compress_report report;
        countdown = -1;
        assert_int_equal(
            compress("refused", 1, cases[i].options, &report, error),
            cases[i].status);
        assert_non_null(strstr(error, cases[i].text));
        assert_false(exists("refused"));
        assert_false(exists("refused.partial"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dry_run_writes_nothing),
        cmocka_unit_test(test_limits_are_refused),
        cmocka_unit_test(test_threads_and_groups),
        cmocka_unit_test(test_gptq_beats_rounding),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_refuses_another_job),
        cmocka_unit_test(test_source_fails_in_the_middle),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_bits_resume),
        cmocka_unit_test(test_bits_without_calibration),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
