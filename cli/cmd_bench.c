/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench: finds what is to be measured; where results come from.  In: the
 * command line after "bench".  Out: the verb of that kind runs; and for all of
 * them, the parts of a document that say on what machine and by which build it
 * was measured. */
#include "bench.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: qmoe bench kernels [options]\n"
    "       qmoe bench attention [options]\n"
    "       qmoe bench model MODEL [options]\n"
    "       qmoe bench tune [options]\n"
    "\n"
    "Measures speed on this machine:\n"
    "  kernels   products with weights of every format, hot and cold, "
    "compared\n"
    "            with dense bf16 and f32 and with the memory bandwidth\n"
    "  attention attention over long contexts, compared with the memory\n"
    "            bandwidth\n"
    "  model     tokens per second of a model, and time per role, compared\n"
    "            with an ideal uncompressed run\n"
    "  tune      finds the fastest kernels of a device; later runs use them\n"
    "\n"
    "Measure on an idle machine.  docs/benchmarks.md says what is measured "
    "and\n"
    "how to read it.\n"
    "\n"
    "Options:\n"
    "  --json               print a document to keep: version, commit, "
    "machine\n"
    "  -h, --help           print this text; also 'qmoe bench model --help'\n"
    "\n"
    "Examples:\n"
    "  qmoe bench kernels --shape 2080x6144 --batch 1\n"
    "  qmoe bench model build/m --json >model.json\n";

/* The second word of a kind's name is what the user types. */
static const cli_verb *const kinds[] = {&cli_verb_bench_kernels,
    &cli_verb_bench_attention, &cli_verb_bench_model, &cli_verb_bench_tune};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* ---- lists ---- */

/* Digits only: strtoll would take signs and spaces.  Overflow gives INT64_MAX,
 * which the bound refuses. */
bool cli_bench_take_number(int64_t *out, const char **text)
{
    char *end;
    if (!isdigit((unsigned char)**text))
        return false;
    *out = strtoll(*text, &end, 10);
    *text = end;
    return *out >= 1 && *out <= INT32_MAX;
}

cli_exit cli_bench_fail_list(
    const cli_verb *verb, const char *option, const char *text)
{
    return cli_fail(CLI_USAGE, "%s: --%s: '%s' is not a valid list", verb->name,
        option, text);
}

/* Refuses the whole list for one bad item: a shorter list than asked for would
 * look like a complete result. */
cli_exit cli_bench_take_numbers(int *out, size_t *n, size_t capacity,
    const cli_verb *verb, const char *option, const char *text)
{
    const char *p = text;
    int64_t value;
    if (text == NULL)
        return CLI_OK;
    /* `&& p++` steps over the comma; a trailing one leaves an empty item, which
     * is no number. */
    do {
        if (*n == capacity || !cli_bench_take_number(&value, &p))
            return cli_bench_fail_list(verb, option, text);
        out[(*n)++] = (int)value;
    } while (*p == ',' && p++);
    return *p == '\0' ? CLI_OK : cli_bench_fail_list(verb, option, text);
}

/* ---- the verb ---- */

/* A near miss is named only if it is near (cli_closest). */
static cli_exit fail_kind(const char *word)
{
    const char *names[N_KINDS];
    for (size_t i = 0; i < N_KINDS; i++)
        names[i] = strchr(kinds[i]->name, ' ') + 1;
    const char *near = cli_closest(word, names, N_KINDS);
    if (near != NULL)
        return cli_fail(CLI_USAGE,
            "bench: unknown benchmark '%s'; did you mean '%s'?", word, near);
    return cli_fail(CLI_USAGE,
        "bench: unknown benchmark '%s'; see 'qmoe bench --help'", word);
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
    /* No kind was given, so this ends with help or an error; a word behind
     * options is looked at as a kind to explain what is wrong. */
    if (!cli_parse(&code, &kind, "what to measure", &cli_verb_bench, argc, argv,
            NULL, 0))
        return code;
    return fail_kind(kind);
}

const cli_verb cli_verb_bench = {
    "bench", "measure kernels and models", help, run};

/* ---- where results come from ---- */

/* A GPU's speed depends on its clocks at the moment, so they are kept with the
 * results. */
static void add_facts(cJSON *machine, const qmoe_device_facts *f)
{
    char text[32];
    if (f == NULL ||
        f->n_multiprocessors == 0) /* no GPU, or one that nothing is known of */
        return;
    /* Numbers as people write them; the driver's is 1000 * major + 10 *
     * minor. */
    snprintf(
        text, sizeof text, "%d.%d", f->capability_major, f->capability_minor);
    cli_json_text(machine, "compute_capability", text);
    cli_json_count(machine, "multiprocessors", (uint64_t)f->n_multiprocessors);
    snprintf(text, sizeof text, "%d.%d", f->driver_version / 1000,
        f->driver_version % 1000 / 10);
    cli_json_text(machine, "driver", text);
    cli_json_count(machine, "l2_bytes", f->l2_bytes);
    cli_json_text(machine, "dense_products", f->products);
    const struct {
        const char *name;
        int mhz;
    } clocks[] = {
        {"core_mhz", f->core_mhz},
        {"most_core_mhz", f->most_core_mhz},
        {"memory_mhz", f->memory_mhz},
        {"most_memory_mhz", f->most_memory_mhz},
    };
    /* null: the driver does not say. 0 would read as a measurement. */
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++)
        if (clocks[i].mhz > 0)
            cli_json_count(machine, clocks[i].name, (uint64_t)clocks[i].mhz);
        else
            cJSON_AddNullToObject(machine, clocks[i].name);
}

/* A document names its build and machine, so that it can be kept and compared
 * later. */
void cli_bench_add_machine(cJSON *document, const qmoe_device_info *device,
    const qmoe_device_facts *facts)
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
    add_facts(json, facts);
}

/* The same for people; the two lines stand above every table, so that a
 * table that is pasted somewhere still says where it comes from. */
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

/* Per number of threads: a result is compared with what as many threads
 * read. */
void cli_bench_add_bandwidth(
    cJSON *document, const qmoe_bench_bandwidth *list, size_t n)
{
    cJSON *json = cJSON_AddArrayToObject(document, "read_bandwidth");
    for (size_t i = 0; i < n; i++) {
        cJSON *item = cJSON_CreateObject();
        cli_json_count(item, "threads", (uint64_t)list[i].threads);
        cli_json_real(item, "gbytes_per_s", list[i].gbytes_per_s);
        cJSON_AddItemToArray(json, item);
    }
}

void cli_bench_print_bandwidth(const qmoe_bench_bandwidth *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("memory read by %d thread%s: %.1f GB/s\n", list[i].threads,
            list[i].threads == 1 ? "" : "s", list[i].gbytes_per_s);
}
