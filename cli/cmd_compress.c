/* SPDX-License-Identifier: Apache-2.0
 * qmoe compress: a checkpoint becomes a compressed directory. */
#include "cli.h"

#include <inttypes.h>

#include "qmoe/quant.h"

static const char help[] =
    "Usage: qmoe compress CHECKPOINT -o OUT [options]\n"
    "\n"
    "Compresses the experts of a Mixture-of-Experts checkpoint below one bit\n"
    "per weight.  CHECKPOINT is a Hugging Face directory (config.json,\n"
    "safetensors, spiece.model); everything but the experts is copied as it\n"
    "is.  OUT is a directory of the same kind that the other commands read.\n"
    "Weights are streamed: memory does not grow with the model.  OUT appears\n"
    "complete or not at all, also after Ctrl-C or on a full disk.\n"
    "\n"
    "Options:\n"
    "  -o, --output OUT     the directory to make (required)\n"
    "  --format FORMAT      how experts are stored (default ternary-dict: "
    "three\n"
    "                       values per row, codewords of a fixed dictionary)\n"
    "  --method METHOD      how weights are chosen (default rtn: round to the\n"
    "                       nearest value)\n"
    "  --force              replace OUT if it exists\n"
    "  --no-tokenizer       allow a checkpoint without spiece.model\n"
    "  -t, --threads N      CPU threads (default: all processors); the result\n"
    "                       does not depend on it\n"
    "  --json               print the report as JSON\n"
    "  -h, --help           this text\n"
    "\n"
    "Examples:\n"
    "  qmoe compress models/switch-mini -o build/m\n"
    "  qmoe compress models/switch-mini -o build/m --force --json\n";

static double share(uint64_t part, uint64_t whole)
{
    return whole != 0 ? (double)part / (double)whole : 0;
}

static void print_json(const char *source, const char *output,
    const qmoe_compress_options *options, const qmoe_compress_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "source", source);
    cli_json_text(json, "output", output);
    cli_json_text(json, "format", options->format);
    cli_json_text(json, "method", options->method);
    cli_json_count(json, "source_bytes", r->source_bytes);
    cli_json_count(json, "output_bytes", r->output_bytes);
    cli_json_real(json, "ratio", share(r->source_bytes, r->output_bytes));
    cli_json_count(json, "matrices", r->n_matrices);
    cli_json_count(json, "expert_weights", r->expert_weights);
    cli_json_count(json, "expert_bytes", r->expert_bytes);
    cli_json_real(json, "bits_per_expert_weight",
        8 * share(r->expert_bytes, r->expert_weights));
    cli_json_count(json, "total_weights", r->total_weights);
    cli_json_real(json, "zeros", r->zeros);
    cli_json_real(json, "relative_error", r->mean_relative_error);
    cli_json_real(json, "seconds", r->seconds);
    cli_json_print(json);
}

static void print_text(
    const char *source, const char *output, const qmoe_compress_report *r)
{
    cli_clear_progress();
    cli_print_name(stdout, source);
    fputs(" -> ", stdout);
    cli_print_name(stdout, output);
    printf("\n  size     %s -> %s, %.1f times smaller\n",
        cli_human_bytes(r->source_bytes).text,
        cli_human_bytes(r->output_bytes).text,
        share(r->source_bytes, r->output_bytes));
    printf("  experts  %.4f bits per weight, %.1f times smaller than 16 bits\n",
        8 * share(r->expert_bytes, r->expert_weights),
        2 * share(r->expert_weights, r->expert_bytes));
    printf("           %" PRIu64 " weights in %" PRIu64
           " matrices, %.1f %% zeros, relative error %.4f\n",
        r->expert_weights, r->n_matrices, 100 * r->zeros,
        r->mean_relative_error);
    printf("  time     %.1f s\n", r->seconds);
}

static cli_exit compress(const char *source, const char *output,
    const qmoe_compress_options *options, uint64_t n_threads, bool as_json)
{
    cli_session s;
    qmoe_compress_report report;
    cli_exit code = cli_open_context(&s, n_threads);
    if (code == CLI_OK) {
        qmoe_status status =
            qmoe_compress(s.context, &report, source, output, options);
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
        else if (as_json)
            print_json(source, output, options, &report);
        else
            print_text(source, output, &report);
    }
    cli_close(&s);
    return code;
}

static cli_exit run(int argc, char **argv)
{
    qmoe_compress_options options = {
        .size = sizeof options,
        .format = "ternary-dict",
        .method = "rtn",
    };
    const char *source, *output = "";
    uint64_t n_threads = 0;
    bool as_json = false;
    const cli_option table[] = {
        {"output", 'o', CLI_TEXT, &output, 0, 0},
        {"format", 0, CLI_TEXT, &options.format, 0, 0},
        {"method", 0, CLI_TEXT, &options.method, 0, 0},
        {"force", 0, CLI_SET, &options.overwrite, 0, 0},
        {"no-tokenizer", 0, CLI_SET, &options.without_tokenizer, 0, 0},
        {"threads", 't', CLI_COUNT, &n_threads, 1, CLI_MAX_THREADS},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_exit code;
    if (!cli_parse(&code, &source, "CHECKPOINT", &cli_verb_compress, argc, argv,
            table, sizeof table / sizeof *table))
        return code;
    if (output[0] == '\0')
        return cli_fail(CLI_USAGE,
            "compress: the output directory is missing; give -o OUT");
    return compress(source, output, &options, n_threads, as_json);
}

const cli_verb cli_verb_compress = {
    "compress", "compress the experts of a checkpoint", help, run};
