/* SPDX-License-Identifier: Apache-2.0
 * Two models on the same texts: how verbs run the comparison and show it. */
#ifndef CLI_COMPARISON_H
#define CLI_COMPARISON_H

#include "cli.h"

/* Compares the session's model with the one in `base`, which is opened for it
 * in the same context.  qmoe_comparison_free when CLI_OK. */
cli_exit cli_compare_with(qmoe_comparison *out, cli_session *s,
    const char *base, const cli_place *place, const qmoe_text_options *texts);

void cli_json_losses(cJSON *json, const qmoe_perplexity *p);
/* Members of a document: losses of both, "kl", "top_agreement", "blocks",
 * "depths" where depths were compared. */
void cli_json_comparison(cJSON *json, const qmoe_comparison *c);
/* Losses of both, divergence, agreement: a line each. */
void cli_print_comparison(const qmoe_comparison *c);
/* A row per block, and per depth. */
void cli_print_comparison_blocks(const qmoe_comparison *c);

#endif
