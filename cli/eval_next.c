/* SPDX-License-Identifier: Apache-2.0
 * qmoe eval of models that predict the next token, and of any model against
 * another.  In: an open session, texts, perhaps a second model to compare with.
 * Out: loss and perplexity with the convention they follow, and divergence by
 * prediction and by block, as text or JSON. */
#include "eval_next.h"

#include <inttypes.h>

#include "comparison.h"

static const char *convention(const cli_eval_next *r)
{
    return r->second_half ? "llama.cpp" : "gptq";
}

static const char *what_counts(const cli_eval_next *r)
{
    return r->second_half ? "second half of each window"
                          : "all predictions of each window";
}

static qmoe_text_options text_options(const cli_eval_next *r)
{
    return (qmoe_text_options){
        .size = sizeof(qmoe_text_options),
        .text_paths = r->texts->items,
        .n_text_paths = r->texts->n,
        .documents = r->documents,
        .second_half = r->second_half,
        .n_context = (int)r->n_context,
        .max_windows = r->max_windows,
        .seed = r->seed,
        .n_depths = (int)r->n_depths,
    };
}

/* ---- output ---- */

static void json_common(cJSON *json, const cli_eval_next *r,
    const qmoe_perplexity *p, const qmoe_device_info *device)
{
    cli_json_text(json, "model", r->model);
    if (r->against != NULL)
        cli_json_text(json, "against", r->against);
    cli_json_text(
        json, "objective", r->fills_gaps ? "span_corruption" : "next_token");
    if (r->fills_gaps) {
        cli_json_count(json, "seed", r->seed);
    } else {
        cli_json_text(json, "convention", convention(r));
        cJSON_AddBoolToObject(json, "documents", r->documents);
        cli_json_count(json, "context", (uint64_t)p->n_context);
    }
    cJSON *texts = cJSON_AddArrayToObject(json, "texts");
    for (size_t i = 0; i < r->texts->n; i++)
        cJSON_AddItemToArray(texts, cJSON_CreateString(r->texts->items[i]));
    cli_json_count(json, r->fills_gaps ? "samples" : "windows", p->n_windows);
    cli_json_count(json, "tokens", p->n_tokens);
    cli_json_text(json, "backend", device->backend);
    cli_json_real(json, "device", device->index);
    cli_json_text(json, "device_name", device->name);
    cli_json_real(json, "seconds", p->seconds);
}

static void print_common(const cli_eval_next *r, const qmoe_perplexity *p,
    const qmoe_device_info *device)
{
    if (!r->fills_gaps)
        printf("convention  %s: %s of %d tokens\n", convention(r),
            what_counts(r), p->n_context);
    printf("%-11s %" PRIu64 ", %" PRIu64 " predictions\n",
        r->fills_gaps ? "samples" : "windows", p->n_windows, p->n_tokens);
    printf("time        %.1f s on %s\n", p->seconds, device->backend);
}

static void print_perplexity(const cli_eval_next *r, const qmoe_perplexity *p,
    const qmoe_device_info *device)
{
    cli_clear_progress();
    printf("loss        %.9g\n", p->loss);
    printf("perplexity  %.9g\n", p->perplexity);
    print_common(r, p, device);
}

/* ---- the run ---- */

static cli_exit evaluate(const cli_eval_next *r, cli_session *s)
{
    const qmoe_text_options options = text_options(r);
    qmoe_perplexity result;
    qmoe_device_info device;
    qmoe_status status = qmoe_session_perplexity(s->session, &result, &options);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    qmoe_session_device(s->session, &device);
    if (!r->as_json) {
        print_perplexity(r, &result, &device);
        return CLI_OK;
    }
    cJSON *json = cJSON_CreateObject();
    json_common(json, r, &result, &device);
    cli_json_losses(json, &result);
    cli_json_print(json);
    return CLI_OK;
}

static cli_exit compare(const cli_eval_next *r, cli_session *s)
{
    const qmoe_text_options options = text_options(r);
    qmoe_comparison result;
    qmoe_device_info device;
    cli_exit code =
        cli_compare_with(&result, s, r->against, r->place, &options);
    if (code != CLI_OK)
        return code;
    qmoe_session_device(s->session, &device);
    if (r->as_json) {
        cJSON *json = cJSON_CreateObject();
        json_common(json, r, &result.other, &device);
        cli_json_comparison(json, &result);
        cli_json_print(json);
    } else {
        cli_print_comparison(&result);
        print_common(r, &result.other, &device);
        cli_print_comparison_blocks(&result);
    }
    qmoe_comparison_free(&result);
    return CLI_OK;
}

cli_exit cli_run_eval_next(const cli_eval_next *r, cli_session *s)
{
    return r->against != NULL ? compare(r, s) : evaluate(r, s);
}
