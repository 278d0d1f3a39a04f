/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench: finds what is to be measured; where results come from. */
#include "bench.h"

#include <string.h>

static const char help[] =
    "Usage: qmoe bench kernels [options]\n"
    "       qmoe bench model MODEL [options]\n"
    "       qmoe bench tune [options]\n"
    "\n"
    "Measures speed on this machine:\n"
    "  kernels   products with weights of every format, hot and cold, against\n"
    "            dense bf16 and f32 and the speed of memory\n"
    "  model     tokens per second of a model by part, against an ideal\n"
    "            uncompressed run of it\n"
    "  tune      how a device's kernels run best; later runs use it\n"
    "\n"
    "Measure on a machine that does nothing else.  What is measured and how\n"
    "to read it: docs/benchmarks.md.\n"
    "\n"
    "Options:\n"
    "  --json               print a document to keep: version, commit, "
    "machine\n"
    "  -h, --help           this text; also 'qmoe bench model --help'\n"
    "\n"
    "Examples:\n"
    "  qmoe bench kernels --shape 2080x6144 --batch 1\n"
    "  qmoe bench model build/m --json >model.json\n";

static const cli_verb *const kinds[] = {
    &cli_verb_bench_kernels, &cli_verb_bench_model, &cli_verb_bench_tune};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static cli_exit fail_kind(const char *word)
{
    const char *names[N_KINDS];
    for (size_t i = 0; i < N_KINDS; i++)
        names[i] = strchr(kinds[i]->name, ' ') + 1;
    const char *near = cli_closest(word, names, N_KINDS);
    if (near != NULL)
        return cli_fail(CLI_USAGE,
            "bench: nothing called '%s' to measure; did you mean '%s'?", word,
            near);
    return cli_fail(CLI_USAGE,
        "bench: nothing called '%s' to measure; see 'qmoe bench --help'", word);
}

static cli_exit run(int argc, char **argv)
{
    /* Options before the kind are taken as this verb's own. */
    if (argc > 1 && argv[1][0] != '-') {
        for (size_t i = 0; i < N_KINDS; i++)
            if (strcmp(argv[1], strchr(kinds[i]->name, ' ') + 1) == 0)
                return kinds[i]->run(argc - 1, argv + 1);
        return fail_kind(argv[1]);
    }
    cli_exit code;
    const char *kind = NULL;
    if (!cli_parse(&code, &kind, "what to measure", &cli_verb_bench, argc, argv,
            NULL, 0))
        return code;
    return fail_kind(kind);
}

const cli_verb cli_verb_bench = {
    "bench", "measure kernels and models", help, run};

/* ---- where results come from ---- */

void cli_bench_add_machine(cJSON *document, const qmoe_device_info *device)
{
    qmoe_bench_machine machine;
    qmoe_bench_describe_machine(&machine);
    cli_json_text(document, "version", machine.version);
    cli_json_text(document, "commit", machine.commit);
    cJSON *json = cJSON_AddObjectToObject(document, "machine");
    cli_json_text(json, "cpu", machine.cpu);
    cli_json_count(json, "processors", (uint64_t)machine.n_processors);
    cli_json_text(json, "backend", device->backend);
    cli_json_count(json, "device", (uint64_t)device->index);
    cli_json_text(json, "device_name", device->name);
    cli_json_text(json, "device_detail", device->detail);
    cli_json_text(json, "openblas_core", machine.blas_core);
}

void cli_bench_print_machine(const qmoe_device_info *device)
{
    qmoe_bench_machine machine;
    qmoe_bench_describe_machine(&machine);
    printf("qmoe %s, commit %s; ", machine.version, machine.commit);
    cli_print_name(stdout, machine.cpu);
    printf(", %d processors, OpenBLAS %s\n%s device %d: ", machine.n_processors,
        machine.blas_core, device->backend, device->index);
    cli_print_name(stdout, device->name);
    fputs(" (", stdout);
    cli_print_name(stdout, device->detail);
    fputs(")\n", stdout);
}
