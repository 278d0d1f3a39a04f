/* SPDX-License-Identifier: Apache-2.0
 * qmoe export: a compressed model for other programs.  In: a compressed model
 * and one of two layouts.  Out: a directory by the library's qmoe_export, and
 * its report.  Each layout refuses the options of the other, so that a user
 * sees what he gets. */
#include "cli.h"

#include <inttypes.h>
#include <string.h>

#include "qmoe/exchange.h"

static const char help[] =
    "Usage: qmoe export MODEL -o OUT --dequantize [options]\n"
    "       qmoe export MODEL -o OUT --layout qmoe [options]\n"
    "\n"
    "Writes a compressed model for other programs.  --dequantize writes a\n"
    "plain Hugging Face checkpoint of any compressed model: safetensors\n"
    "shards, index, config.json without quantization_config, tokenizer files.\n"
    "--layout qmoe writes the files of the QMoE authors' tools (noexp.pt,\n"
    "sizes.pt, exp00.pt, ...) of a model in {dictionary} with the paper's\n"
    "dictionary.  Weights are streamed, so memory does not grow with the\n"
    "model.  OUT appears complete or not at all.\n"
    "\n"
    "Options:\n"
    "  -o, --output OUT     the directory to write (required)\n"
    "  --dequantize         decode the experts\n"
    "  --layout NAME        hf (with --dequantize) or qmoe\n"
    "  --dtype TYPE         dtype of decoded weights: bf16 (default; rounds\n"
    "                       what bf16 cannot represent) or f32 (exact)\n"
    "  --shard-size SIZE    largest shard (default 5 GB)\n"
    "  --force              replace OUT and discard an interrupted run, if "
    "both\n"
    "                       hold only what qmoe wrote\n"
    "  -t, --threads N      CPU threads (default: all processors)\n"
    "  --json               print the report as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe export build/m -o plain --dequantize\n"
    "  qmoe export build/m -o published --layout qmoe\n";

static void print_report(const char *source, const char *output,
    const qmoe_export_report *r, bool as_json)
{
    if (as_json) {
        cJSON *json = cJSON_CreateObject();
        cli_json_text(json, "source", source);
        cli_json_text(json, "output", output);
        cli_json_count(json, "output_bytes", r->output_bytes);
        cli_json_count(json, "files", r->n_files);
        cli_json_count(json, "tensors", r->n_tensors);
        cli_json_count(json, "matrices", r->n_matrices);
        cli_json_real(json, "seconds", r->seconds);
        cli_json_print(json);
        return;
    }
    cli_clear_progress();
    cli_print_name(stdout, source);
    fputs(" -> ", stdout);
    cli_print_name(stdout, output);
    printf("\n  size     %s in %" PRIu64 " files\n",
        cli_human_bytes(r->output_bytes).text, r->n_files);
    printf("  tensors  %" PRIu64 ", %" PRIu64 " expert matrices\n",
        r->n_tensors, r->n_matrices);
    printf("  time     %.1f s\n", r->seconds);
}

/* One of the two ways must be asked for: there is no layout that suits every
 * other program. */
static cli_exit choose_layout(qmoe_export_options *o, const char *layout,
    bool dequantize, const char *output)
{
    bool published = layout != NULL && strcmp(layout, "qmoe") == 0;
    if (output[0] == '\0')
        return cli_fail(
            CLI_USAGE, "export: the output directory is missing; give -o OUT");
    if (layout != NULL && !published && strcmp(layout, "hf") != 0)
        return cli_fail(
            CLI_USAGE, "export: --layout: '%s' is neither hf nor qmoe", layout);
    /* The published layout copies codes: nothing is decoded, cut or shared
     * among threads. */
    const cli_idle rules[] = {{published, "dequantize dtype shard-size threads",
        "--layout qmoe keeps the codes as they are"}};
    cli_exit code = cli_refuse_idle(&cli_verb_export, rules, 1);
    if (code != CLI_OK)
        return code;
    /* There is no default: one layout loses the compression, the other needs
     * one format. */
    if (!published && !dequantize)
        return cli_fail(CLI_USAGE,
            "export: give --dequantize for a Hugging Face checkpoint, or "
            "--layout qmoe");
    o->layout = published ? QMOE_LAYOUT_PUBLISHED : QMOE_LAYOUT_HF;
    return CLI_OK;
}

static cli_exit run(int argc, char **argv)
{
    const char *source, *output = "", *layout = NULL;
    uint64_t n_threads = 0;
    bool as_json = false, dequantize = false;
    qmoe_export_options o = {.size = sizeof o};
    const cli_option table[] = {
        {"output", 'o', CLI_TEXT, &output, 0, 0},
        {"dequantize", 0, CLI_SET, &dequantize, 0, 0},
        {"layout", 0, CLI_TEXT, &layout, 0, 0},
        {"dtype", 0, CLI_TEXT, &o.dtype, 0, 0},
        {"shard-size", 0, CLI_SIZE, &o.shard_bytes, 0, 0},
        {"force", 0, CLI_SET, &o.overwrite, 0, 0},
        {"threads", 't', CLI_COUNT, &n_threads, 1, CLI_MAX_THREADS},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_exit code;
    cli_session s;
    qmoe_export_report report;
    if (!cli_parse(&code, &source, "MODEL", &cli_verb_export, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    /* Before the context: mistakes of the command line cost nothing. */
    code = choose_layout(&o, layout, dequantize, output);
    if (code != CLI_OK)
        return code;
    code = cli_open_context(&s, n_threads);
    if (code == CLI_OK) {
        qmoe_status status =
            qmoe_export(s.context, &report, source, output, &o);
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
        else
            print_report(source, output, &report, as_json);
    }
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_export = {
    "export", "write a compressed model for other programs", help, run};
