/* SPDX-License-Identifier: Apache-2.0
 * What the parts of `qmoe bench` share. */
#ifndef QMOE_CLI_BENCH_H
#define QMOE_CLI_BENCH_H

#include "cli.h"
#include "qmoe/bench.h"

extern const cli_verb cli_verb_bench_kernels, cli_verb_bench_attention,
    cli_verb_bench_model, cli_verb_bench_tune;

/* Lists of an option, separated by commas.  A number is at least 1; *text is
 * moved behind it. */
bool cli_bench_take_number(int64_t *out, const char **text);
/* Appends all of `text` (NULL: none) to out[*n]. */
cli_exit cli_bench_take_numbers(int *out, size_t *n, size_t capacity,
    const cli_verb *verb, const char *option, const char *text);
cli_exit cli_bench_fail_list(
    const cli_verb *verb, const char *option, const char *text);

/* "version", "commit" and "machine" of a document; facts may be NULL. */
void cli_bench_add_machine(cJSON *document, const qmoe_device_info *device,
    const qmoe_device_facts *facts);
/* The same in one or two lines on stdout. */
void cli_bench_print_machine(const qmoe_device_info *device);

/* Read bandwidth per thread count: "read_bandwidth", or lines on stdout. */
void cli_bench_add_bandwidth(
    cJSON *document, const qmoe_bench_bandwidth *list, size_t n);
void cli_bench_print_bandwidth(const qmoe_bench_bandwidth *list, size_t n);

#endif
