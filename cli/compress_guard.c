/* SPDX-License-Identifier: Apache-2.0
 * In: a finished compression and held-out texts.  Out: loss, KL divergence and
 * agreement of both models, side by side, and an exit code of its own when the
 * loss rises by more than the user accepts.  The compressed model stays: what
 * becomes of it is the user's to decide. */
#include "compress_guard.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "comparison.h"

cli_exit cli_check_guard(const cli_guard *guard)
{
    for (size_t i = 0; i < guard->texts.n; i++) {
        FILE *file = fopen(guard->texts.items[i], "rb");
        if (file == NULL)
            return cli_fail(CLI_FILES, "--eval: %s: %s", guard->texts.items[i],
                strerror(errno));
        fclose(file);
    }
    return CLI_OK;
}

/* As calibration reads texts (docs/compress.md): documents, windows of the same
 * length, masks of the same seed. */
static qmoe_text_options reading(const cli_guard *guard,
    const qmoe_model_info *info, const qmoe_compress_options *options)
{
    enum { CALIBRATION_CONTEXT = 512 };
    qmoe_text_options texts = {
        .size = sizeof texts,
        .text_paths = guard->texts.items,
        .n_text_paths = guard->texts.n,
        .max_windows = guard->n_samples,
        .seed = options->seed,
    };
    if (info->predicts_next) {
        texts.documents = true;
        texts.n_context =
            options->context != 0 ? options->context : CALIBRATION_CONTEXT;
    }
    return texts;
}

static void json_evaluation(
    cJSON *json, const cli_guard *guard, const qmoe_comparison *c)
{
    cJSON *evaluation = cJSON_AddObjectToObject(json, "evaluation");
    cJSON *texts = cJSON_AddArrayToObject(evaluation, "texts");
    for (size_t i = 0; i < guard->texts.n; i++)
        cJSON_AddItemToArray(texts, cJSON_CreateString(guard->texts.items[i]));
    cli_json_count(evaluation, "windows", c->other.n_windows);
    cli_json_count(evaluation, "tokens", c->other.n_tokens);
    cli_json_comparison(evaluation, c);
    cli_json_real(evaluation, "loss_increase", c->other.loss - c->base.loss);
    if (guard->most_increase >= 0)
        cli_json_real(
            evaluation, "max_loss_increase", (double)guard->most_increase);
}

static void print_evaluation(const qmoe_comparison *c)
{
    cli_clear_progress();
    printf("  %-12s %14s %14s %14s\n", "evaluation", "uncompressed",
        "compressed", "difference");
    printf("  %-12s %14.6f %14.6f %+14.6f\n", "loss", c->base.loss,
        c->other.loss, c->other.loss - c->base.loss);
    printf("  %-12s %14.4f %14.4f %+14.4f\n", "perplexity", c->base.perplexity,
        c->other.perplexity, c->other.perplexity - c->base.perplexity);
    printf("  %-12s mean %.6g, median %.6g, 99 %% %.6g (nats)\n", "KL",
        c->mean_kl, c->median_kl, c->kl_99);
    printf("  %-12s %.4f of %" PRIu64 " predictions agree\n", "top-1",
        c->top_agreement, c->other.n_tokens);
}

/* The session runs the compressed model. */
static cli_exit compare(const cli_guard *guard, qmoe_comparison *out,
    cli_session *s, const char *source, const char *output,
    const qmoe_compress_options *options)
{
    /* Without -b as for eval: the best there is. */
    const cli_place place = {.backend = options->backend,
        .device = options->device_name,
        .device_memory = options->device_memory_bytes};
    const qmoe_session_options session = cli_session_options(&place);
    qmoe_model_info info;
    qmoe_status status = qmoe_model_open(&s->model, s->context, output);
    if (status == QMOE_OK)
        status = qmoe_session_create(&s->session, s->model, &session);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    qmoe_model_describe(s->model, &info);
    const qmoe_text_options texts = reading(guard, &info, options);
    return cli_compare_with(out, s, source, &place, &texts);
}

cli_exit cli_run_guard(const cli_guard *guard, cJSON *json, cli_session *s,
    const char *source, const char *output,
    const qmoe_compress_options *options)
{
    qmoe_comparison result;
    if (guard->texts.n == 0)
        return CLI_OK;
    cli_exit code = compare(guard, &result, s, source, output, options);
    if (code != CLI_OK)
        return code;
    const double increase = result.other.loss - result.base.loss;
    if (json != NULL)
        json_evaluation(json, guard, &result);
    else
        print_evaluation(&result);
    qmoe_comparison_free(&result);
    if (guard->most_increase < 0 || increase <= (double)guard->most_increase)
        return CLI_OK;
    return cli_fail(CLI_LOSS,
        "%s: the loss rises by %.6f, and --max-loss-increase is %g", output,
        increase, (double)guard->most_increase);
}
