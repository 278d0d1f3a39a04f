/* SPDX-License-Identifier: Apache-2.0
 * qmoe eval of models that predict the next token, and of any model against
 * another.  In: an open session, texts, perhaps a second model to compare with.
 * Out: loss and perplexity with the convention they follow, and divergence by
 * prediction and by block, as text or JSON. */
#include "eval_next.h"

#include <inttypes.h>

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
    };
}

/* ---- output ---- */

static void json_perplexity(cJSON *json, const qmoe_perplexity *p)
{
    cli_json_real(json, "loss", p->loss);
    cli_json_real(json, "perplexity", p->perplexity);
}

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

static void json_comparison(cJSON *json, const qmoe_comparison *c)
{
    json_perplexity(json, &c->other);
    cJSON *base = cJSON_AddObjectToObject(json, "base");
    json_perplexity(base, &c->base);
    cJSON *kl = cJSON_AddObjectToObject(json, "kl");
    cli_json_real(kl, "mean", c->mean_kl);
    cli_json_real(kl, "median", c->median_kl);
    cli_json_real(kl, "percentile_99", c->kl_99);
    cli_json_real(kl, "largest", c->largest_kl);
    cli_json_real(json, "top_agreement", c->top_agreement);
    cJSON *blocks = cJSON_AddArrayToObject(json, "blocks");
    for (size_t i = 0; i < c->n_blocks; i++) {
        cJSON *block = cJSON_CreateObject();
        cli_json_real(block, "router_agreement", c->blocks[i].router_agreement);
        cli_json_real(block, "residual_error", c->blocks[i].residual_error);
        cJSON_AddItemToArray(blocks, block);
    }
}

static void print_comparison(const cli_eval_next *r, const qmoe_comparison *c,
    const qmoe_device_info *device)
{
    cli_clear_progress();
    printf("loss        %.9g, %.9g before: %+.6f\n", c->other.loss,
        c->base.loss, c->other.loss - c->base.loss);
    printf("perplexity  %.9g, %.9g before\n", c->other.perplexity,
        c->base.perplexity);
    printf("KL          mean %.6g, median %.6g, 99 %% %.6g, largest %.6g "
           "(nats)\n",
        c->mean_kl, c->median_kl, c->kl_99, c->largest_kl);
    printf("top-1       %.4f of the predictions agree\n", c->top_agreement);
    print_common(r, &c->other, device);
    printf("%-6s %16s %16s\n", "block", "same experts", "residual error");
    for (size_t i = 0; i < c->n_blocks; i++) {
        const qmoe_block_difference *b = &c->blocks[i];
        printf("%-6zu ", i);
        /* Blocks without a router have none to agree. */
        if (b->router_agreement == b->router_agreement)
            printf("%16.4f", b->router_agreement);
        else
            printf("%16s", "-");
        printf(" %16.3g\n", b->residual_error);
    }
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
    json_perplexity(json, &result);
    cli_json_print(json);
    return CLI_OK;
}

static cli_exit compare(
    const cli_eval_next *r, cli_session *s, qmoe_session *base)
{
    const qmoe_text_options options = text_options(r);
    qmoe_comparison result;
    qmoe_device_info device;
    qmoe_status status =
        qmoe_session_compare(s->session, base, &result, &options);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    qmoe_session_device(s->session, &device);
    if (r->as_json) {
        cJSON *json = cJSON_CreateObject();
        json_common(json, r, &result.other, &device);
        json_comparison(json, &result);
        cli_json_print(json);
    } else {
        print_comparison(r, &result, &device);
    }
    qmoe_comparison_free(&result);
    return CLI_OK;
}

cli_exit cli_run_eval_next(const cli_eval_next *r, cli_session *s)
{
    qmoe_model *model;
    qmoe_session *session;
    if (r->against == NULL)
        return evaluate(r, s);
    /* On the same device and in the same context: what one of them lacks is
     * told alike. */
    qmoe_status status = qmoe_model_open(&model, s->context, r->against);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    const qmoe_session_options options = cli_session_options(r->place);
    status = qmoe_session_create(&session, model, &options);
    cli_exit code =
        status == QMOE_OK ? compare(r, s, session) : cli_fail_status(s, status);
    if (status == QMOE_OK)
        qmoe_session_destroy(session);
    qmoe_model_close(model);
    return code;
}
