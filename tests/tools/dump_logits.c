/* SPDX-License-Identifier: Apache-2.0
 * Usage: dump_logits MODEL BACKEND < IDS > LOGITS
 * Runs a decoder-only model, to be compared with another program.  In: token
 * ids of one sequence, int32.  Out: the logits behind each, float32, rows of
 * the size of the vocabulary.  Little-endian. */
#include <stdio.h>
#include <stdlib.h>

#include "qmoe/qmoe.h"

enum { MOST_IDS = 8192 };

static void check(qmoe_status status, const qmoe_context *context)
{
    if (status == QMOE_OK)
        return;
    fprintf(stderr, "dump_logits: %s\n", qmoe_context_error(context));
    exit(1);
}

int main(int argc, char **argv)
{
    static int32_t ids[MOST_IDS];
    if (argc != 3) {
        fprintf(stderr, "usage: dump_logits MODEL BACKEND\n");
        return 2;
    }
    const size_t n = fread(ids, sizeof *ids, MOST_IDS, stdin);
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    check(qmoe_context_create(&context, NULL), context);
    check(qmoe_model_open(&model, context, argv[1]), context);
    const qmoe_session_options options = {
        .size = sizeof options, .backend = argv[2]};
    check(qmoe_session_create(&session, model, &options), context);
    qmoe_model_info info;
    qmoe_model_describe(model, &info);
    const size_t n_logits = n * (size_t)info.vocab_size;
    float *logits = calloc(n_logits + 1, sizeof *logits);
    if (logits == NULL)
        return 1;
    check(qmoe_session_logits(session, logits, NULL, 0, ids, n), context);
    fwrite(logits, sizeof *logits, n_logits, stdout);
    free(logits);
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return fflush(stdout) == 0 ? 0 : 1;
}
