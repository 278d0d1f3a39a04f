/* SPDX-License-Identifier: Apache-2.0
 * Usage: bench-generate MODEL THREADS N_NEW KV_TYPE BACKEND < IDS
 * Times a decoder-only model for bench/compare_llama_cpp.py.  In: the prompt, int32
 * ids, little-endian.  Out: a line of seconds until the first new token, of the
 * clock and of all processors, the same for the N_NEW that follow, and a line
 * of their ids.  The model has run once before, so weights are in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "qmoe/qmoe.h"

enum { MOST_IDS = 1 << 16 };

typedef struct moments {
    double clock[2], processor[2]; /* of the first and of the latest token */
    bool begun;
} moments;

static double seconds(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int on_token(void *user, size_t sequence, int32_t id, const char *text)
{
    moments *m = user;
    (void)sequence, (void)id, (void)text;
    const int i = m->begun;
    m->begun = true;
    m->clock[i] = seconds(CLOCK_MONOTONIC);
    m->processor[i] = seconds(CLOCK_PROCESS_CPUTIME_ID);
    return 0;
}

static void check(qmoe_status status, const qmoe_context *context)
{
    if (status == QMOE_OK)
        return;
    fprintf(stderr, "bench-generate: %s\n", qmoe_context_error(context));
    exit(1);
}

static qmoe_generation *generate(qmoe_session *session,
    const qmoe_context *context, moments *m, const int32_t *ids, size_t n,
    int n_new)
{
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = n_new,
        .ignore_eos = true,
        .on_token = on_token,
        .user = m,
        .prompt_ids = &ids,
        .n_prompt_ids = &n};
    qmoe_generation *out = NULL;
    check(
        qmoe_session_generate(session, &out, NULL, NULL, 1, &options), context);
    return out;
}

int main(int argc, char **argv)
{
    static int32_t ids[MOST_IDS];
    if (argc != 6) {
        fprintf(stderr,
            "usage: bench-generate MODEL THREADS N_NEW KV_TYPE BACKEND\n");
        return 2;
    }
    const size_t n = fread(ids, sizeof *ids, MOST_IDS, stdin);
    const int n_new = atoi(argv[3]);
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    moments unused = {0}, m = {0};
    const qmoe_context_options threads = {
        .size = sizeof threads, .n_threads = atoi(argv[2])};
    check(qmoe_context_create(&context, &threads), context);
    check(qmoe_model_open(&model, context, argv[1]), context);
    const qmoe_session_options options = {
        .size = sizeof options, .backend = argv[5], .kv_type = argv[4]};
    check(qmoe_session_create(&session, model, &options), context);
    qmoe_generations_free(
        generate(session, context, &unused, ids, n < 32 ? n : 32, 2), 1);
    const double clock = seconds(CLOCK_MONOTONIC);
    const double processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
    qmoe_generation *g = generate(session, context, &m, ids, n, n_new + 1);
    printf("%.6f %.6f %.6f %.6f\n", m.clock[0] - clock,
        m.processor[0] - processor, m.clock[1] - m.clock[0],
        m.processor[1] - m.processor[0]);
    for (size_t i = 0; i < g->n_ids; i++)
        printf("%d ", (int)g->ids[i]);
    printf("\n");
    qmoe_generations_free(g, 1);
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return 0;
}
