/* SPDX-License-Identifier: Apache-2.0
 * The time a compression is said to take and the processor time it takes, with
 * one thread.  The rates are measured for each prediction.  Other load on the
 * machine changes both, not always alike: up to 1.54 was seen with a load of 8,
 * so within a factor of two passes, while a part of the work that is not
 * counted, as attention was not, is more. */
#include <stdlib.h>
#include <sys/resource.h>

#include "qmoe/plan.h"
#include "qmoe/quant.h"
#include "scratch.h"

/* Sanitizers slow some parts down more than others: nothing is to be learnt. */
#include "sanitized.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini"

static const char *const texts[] = {QMOE_SOURCE_DIR "/README.md",
    QMOE_SOURCE_DIR "/docs/quantisers.md", QMOE_SOURCE_DIR "/docs/testing.md",
    QMOE_SOURCE_DIR "/docs/architecture.md"};

static void compress(double *planned, uint64_t n_samples, bool dry_run)
{
    qmoe_context *context = NULL;
    qmoe_compress_report report;
    const qmoe_context_options threads = {
        .size = sizeof threads, .n_threads = 1};
    const qmoe_compress_options options = {.size = sizeof options,
        .calibration = texts,
        .n_calibration = sizeof texts / sizeof *texts,
        .max_samples = n_samples,
        .dry_run = dry_run,
        .overwrite = !dry_run};
    assert_int_equal(qmoe_context_create(&context, &threads), QMOE_OK);
    if (qmoe_compress(context, &report, MODEL, scratch_path("time-model"),
            &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    *planned = report.planned_seconds;
    qmoe_context_destroy(context);
}

/* Documents of about 500 tokens: lines of README.md joined. */
static const char *long_documents(void)
{
    enum { LENGTH = 900, N = 8 };
    static char text[N * (LENGTH + 1) + 1];
    FILE *file = fopen(texts[0], "rb");
    assert_non_null(file);
    for (size_t i = 0; i < N * (LENGTH + 1); i++) {
        const int c = fgetc(file);
        assert_int_not_equal(c, EOF);
        text[i] = c == '\n' ? ' ' : (char)c;
        if (i % (LENGTH + 1) == LENGTH)
            text[i] = '\n';
    }
    fclose(file);
    return scratch_text("long.txt", text);
}

/* What a plan says over what a dry run says. */
static double planned_share(
    qmoe_context *context, const char *text, const char *dense_bits)
{
    qmoe_compress_report dry;
    qmoe_plan_report plan;
    const qmoe_compress_options options = {.size = sizeof options,
        .calibration = &text,
        .n_calibration = 1,
        .dense_bits = dense_bits,
        .dry_run = true};
    if (qmoe_compress(context, &dry, MODEL, scratch_path("time-model"),
            &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    const qmoe_plan_options same = {.size = sizeof same,
        .n_samples = dry.n_samples,
        .dense_bits = dense_bits,
        .memory_rate = 1e10};
    assert_true(dry.n_samples >= 4);
    assert_int_equal(qmoe_plan(context, &plan, MODEL, &same), QMOE_OK);
    const double share = plan.compress_seconds / dry.planned_seconds;
    print_message("%d samples, dense bits %s: %.2f s planned, %.2f in a dry "
                  "run: %.2f\n",
        (int)dry.n_samples, dense_bits != NULL ? dense_bits : "16",
        plan.compress_seconds, dry.planned_seconds, share);
    return share;
}

/* A plan counts on full samples of its own, of 512 and 115 tokens.  Both
 * measure the machine for moments, in which others may take it. */
static void is_planned_alike(void **state)
{
    enum { ATTEMPTS = 3 };
    (void)state;
    if (SANITIZED)
        skip();
    qmoe_context *context = NULL;
    const qmoe_context_options threads = {
        .size = sizeof threads, .n_threads = 1};
    const char *text = long_documents();
    assert_int_equal(qmoe_context_create(&context, &threads), QMOE_OK);
    /* With few bits beside the experts, too: half of the time is theirs. */
    for (int k = 0; k < 2; k++) {
        bool agrees = false;
        for (int i = 0; i < ATTEMPTS && !agrees; i++) {
            const double share =
                planned_share(context, text, k == 0 ? NULL : "2");
            agrees = share > 0.67 && share < 1.5;
        }
        assert_true(agrees);
    }
    qmoe_context_destroy(context);
}

static double planned_for(const char *text)
{
    qmoe_context *context = NULL;
    qmoe_compress_report dry;
    const qmoe_compress_options options = {.size = sizeof options,
        .calibration = &text,
        .n_calibration = 1,
        .max_samples = 1,
        .dry_run = true};
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_compress(context, &dry, MODEL, scratch_path("time-model"),
            &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    assert_int_equal(dry.n_samples, 1);
    qmoe_context_destroy(context);
    return dry.planned_seconds;
}

/* A dry run sees to how many experts a text goes: 450 times one word go to
 * fewer than as many tokens of prose. */
static void counts_experts_with_tokens(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    char text[450 * 4 + 1] = "";
    for (int i = 0; i < 450; i++)
        memcpy(text + i * 4, "the ", 5);
    const double word = planned_for(scratch_text("word.txt", text));
    const double prose = planned_for(long_documents());
    print_message("one word: %.2f s, prose: %.2f s\n", word, prose);
    if (!(word < 0.75 * prose))
        fail_msg("%.2f s for one word, %.2f s for prose", word, prose);
}

static double processor_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static void is_predicted(void **state)
{
    /* Of one sample, half of the experts get no token. */
    static const uint64_t n_samples[] = {1, 64, 384};
    (void)state;
    if (SANITIZED)
        skip();
    for (size_t i = 0; i < sizeof n_samples / sizeof *n_samples; i++) {
        double planned, unused;
        compress(&planned, n_samples[i], true);
        const double begin = processor_seconds();
        compress(&unused, n_samples[i], false);
        const double used = processor_seconds() - begin;
        print_message("%d samples: %.1f s, said were %.1f: %.2f\n",
            (int)n_samples[i], used, planned, planned / used);
        if (!(planned > 0.5 * used && planned < 2 * used))
            fail_msg("%.2f of what it took was predicted", planned / used);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_planned_alike),
        cmocka_unit_test(counts_experts_with_tokens),
        cmocka_unit_test(is_predicted),
    };
    return cmocka_run_group_tests_name("time", tests, NULL, NULL);
}
