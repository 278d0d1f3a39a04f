/* SPDX-License-Identifier: Apache-2.0
 * What qmoe eval does for models that predict the next token, and for all
 * models with --against. */
#ifndef CLI_EVAL_NEXT_H
#define CLI_EVAL_NEXT_H

#include "cli.h"

typedef struct cli_eval_next {
    const char *model, *against; /* NULL: nothing to compare with */
    const cli_texts *texts;
    const cli_place *place;
    uint64_t n_context, max_windows; /* 0: the library's choice; all */
    uint64_t n_depths;               /* only with `against` */
    uint32_t seed;                   /* of span masks */
    bool documents, second_half, as_json;
    bool fills_gaps; /* T5; only with `against` */
} cli_eval_next;

/* On an open session.  Prints the result. */
cli_exit cli_run_eval_next(const cli_eval_next *request, cli_session *s);

#endif
