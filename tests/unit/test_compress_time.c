/* SPDX-License-Identifier: Apache-2.0
 * The time a compression is said to take and the processor time it takes, with
 * one thread.  The rates are measured for each prediction.  Other load on the
 * machine changes both, not always alike: within a factor of two passes, while
 * a part of the work that is not counted, as attention was not, is more. */
#include <stdlib.h>
#include <sys/resource.h>

#include "qmoe/quant.h"
#include "scratch.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini"

/* Text of many words: experts without tokens would take less. */
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

static double processor_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static void is_predicted(void **state)
{
    static const uint64_t n_samples[] = {64, 384};
    (void)state;
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

/* Sanitizers slow some parts down more than others. */
int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("the speed of a sanitized program says nothing\n");
    return 0;
#else
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_predicted),
    };
    return cmocka_run_group_tests_name("time", tests, NULL, NULL);
#endif
}
