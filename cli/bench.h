/* SPDX-License-Identifier: Apache-2.0
 * What the parts of `qmoe bench` share. */
#ifndef QMOE_CLI_BENCH_H
#define QMOE_CLI_BENCH_H

#include "cli.h"
#include "qmoe/bench.h"

extern const cli_verb cli_verb_bench_kernels, cli_verb_bench_model,
    cli_verb_bench_tune;

/* "version", "commit" and "machine" of a document; facts may be NULL. */
void cli_bench_add_machine(cJSON *document, const qmoe_device_info *device,
    const qmoe_device_facts *facts);
/* The same in one or two lines on stdout. */
void cli_bench_print_machine(const qmoe_device_info *device);

#endif
