/* SPDX-License-Identifier: Apache-2.0
 * What compression cost, measured on held-out text right after it, and the
 * bound the user set (qmoe compress --eval). */
#ifndef CLI_COMPRESS_GUARD_H
#define CLI_COMPRESS_GUARD_H

#include "cli.h"
#include "qmoe/quant.h"

typedef struct cli_guard {
    cli_texts texts;     /* none: nothing is measured */
    uint64_t n_samples;  /* 0: all */
    float most_increase; /* of the loss, in nats; negative: no bound */
} cli_guard;

/* Before the work, which may take a day: texts that cannot be opened. */
cli_exit cli_check_guard(const cli_guard *guard);

/* Runs the models in `source` and `output` on the texts, read as calibration
 * texts are (`options`).  Adds the member "evaluation" to `json`, or prints
 * when that is NULL.  CLI_LOSS past the bound; `output` stays as it is. */
cli_exit cli_run_guard(const cli_guard *guard, cJSON *json, cli_session *s,
    const char *source, const char *output,
    const qmoe_compress_options *options);

#endif
