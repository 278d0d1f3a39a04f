/* SPDX-License-Identifier: Apache-2.0
 * run_cost MODEL PROMPT N_TOKENS [EXPERT_CACHE_MIB]: what opening and running a
 * model on two CPU threads takes, as JSON lines: seconds since the last line,
 * resident memory in MB, of it pages of files (RssFile) and others (RssAnon). */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qmoe/qmoe.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double megabytes(const char *key)
{
    char line[256];
    double kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtod(line + strlen(key) + 1, NULL);
    if (file != NULL)
        fclose(file);
    return kib * 1024e-6;
}

static void report(double *last, const char *what)
{
    const double seconds = now() - *last;
    printf("{\"at\": \"%s\", \"seconds\": %.4f, \"rss\": %.1f, "
           "\"file\": %.1f, \"anon\": %.1f, \"peak\": %.1f}\n",
        what, seconds, megabytes("VmRSS"), megabytes("RssFile"),
        megabytes("RssAnon"), megabytes("VmHWM"));
    *last = now();
}

static int on_token(void *user, size_t sequence, int32_t id, const char *text)
{
    char what[32];
    (void)sequence;
    (void)text;
    snprintf(what, sizeof what, "token %d", (int)id);
    report(user, what);
    return 0;
}

static qmoe_status run(qmoe_context *context, char **argv, uint64_t cache)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    qmoe_generation *made = NULL;
    qmoe_timing timing;
    double last = now();
    const char *const prompts[] = {argv[2]};
    const qmoe_session_options place = {
        .size = sizeof place, .backend = "cpu", .expert_cache_bytes = cache};
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = atoi(argv[3]),
        .ignore_eos = true,
        .on_token = on_token,
        .user = &last};
    report(&last, "start");
    qmoe_status status = qmoe_model_open(&model, context, argv[1]);
    report(&last, "opened");
    if (status == QMOE_OK)
        status = qmoe_session_create(&session, model, &place);
    report(&last, "session");
    if (status == QMOE_OK)
        status = qmoe_session_generate(
            session, &made, &timing, prompts, 1, &options);
    if (status == QMOE_OK)
        printf("{\"prompt\": %llu, \"encode_seconds\": %.3f, "
               "\"tokens\": %llu, \"decode_seconds\": %.3f}\n",
            (unsigned long long)timing.n_encoded, timing.encode_seconds,
            (unsigned long long)timing.n_decoded, timing.decode_seconds);
    qmoe_generations_free(made, 1);
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    return status;
}

int main(int argc, char **argv)
{
    const qmoe_context_options two = {.size = sizeof two, .n_threads = 2};
    qmoe_context *context = NULL;
    if (argc < 4) {
        fprintf(stderr,
            "Usage: run_cost MODEL PROMPT N_TOKENS [EXPERT_CACHE_MIB]\n");
        return 2;
    }
    const uint64_t cache = argc > 4 ? strtoull(argv[4], NULL, 10) << 20 : 0;
    if (qmoe_context_create(&context, &two) != QMOE_OK)
        return 1;
    qmoe_status status = run(context, argv, cache);
    if (status != QMOE_OK)
        fprintf(stderr, "run_cost: %s\n", qmoe_context_error(context));
    qmoe_context_destroy(context);
    return status == QMOE_OK ? 0 : 1;
}
