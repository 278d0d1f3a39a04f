/* SPDX-License-Identifier: Apache-2.0
 * In: a session and the directory of another model of the same shape.  Out: how
 * their predictions differ, as lines or JSON.  The second model gets the same
 * device and the same context, so what either lacks is told alike. */
#include "comparison.h"

#include <inttypes.h>

cli_exit cli_compare_with(qmoe_comparison *out, cli_session *s,
    const char *base, const cli_place *place, const qmoe_text_options *texts)
{
    qmoe_model *model;
    qmoe_session *session;
    qmoe_status status = qmoe_model_open(&model, s->context, base);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    const qmoe_session_options options = cli_session_options(place);
    status = qmoe_session_create(&session, model, &options);
    if (status == QMOE_OK) {
        status = qmoe_session_compare(s->session, session, out, texts);
        qmoe_session_destroy(session);
    }
    qmoe_model_close(model);
    return status == QMOE_OK ? CLI_OK : cli_fail_status(s, status);
}

void cli_json_losses(cJSON *json, const qmoe_perplexity *p)
{
    cli_json_real(json, "loss", p->loss);
    cli_json_real(json, "perplexity", p->perplexity);
}

void cli_json_comparison(cJSON *json, const qmoe_comparison *c)
{
    cli_json_losses(json, &c->other);
    cJSON *base = cJSON_AddObjectToObject(json, "base");
    cli_json_losses(base, &c->base);
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
    if (c->n_depths == 0)
        return;
    cJSON *depths = cJSON_AddArrayToObject(json, "depths");
    for (size_t i = 0; i < c->n_depths; i++) {
        cJSON *depth = cJSON_CreateObject();
        cJSON_AddItemToArray(depths, depth);
        cli_json_count(depth, "block", c->depths[i].block);
        cli_json_real(depth, "kl", c->depths[i].mean_kl);
        cli_json_real(depth, "top_agreement", c->depths[i].top_agreement);
    }
}

void cli_print_comparison(const qmoe_comparison *c)
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
}

void cli_print_comparison_blocks(const qmoe_comparison *c)
{
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
    if (c->n_depths != 0)
        printf("%-6s %16s %16s\n", "up to", "KL", "top-1");
    for (size_t i = 0; i < c->n_depths; i++)
        printf("%-6zu %16.6g %16.4f\n", c->depths[i].block,
            c->depths[i].mean_kl, c->depths[i].top_agreement);
}
