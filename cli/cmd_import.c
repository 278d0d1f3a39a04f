/* SPDX-License-Identifier: Apache-2.0
 * qmoe import: a published compressed model becomes one of ours.  In: a
 * directory of the authors' files.  Out: a model directory by the library's
 * qmoe_import, and its report.  The tool reads nothing of the files itself:
 * checking them is the library's work. */
#include "cli.h"

#include <inttypes.h>

#include "qmoe/exchange.h"

static const char help[] =
    "Usage: qmoe import DIR -o OUT [options]\n"
    "\n"
    "Converts a compressed model that the QMoE authors published\n"
    "(ISTA-DASLab/switch-*_qmoe: config.json, noexp.pt, sizes.pt, exp00.pt,\n"
    "...).  Every file is checked; nothing in it is executed.  The codewords\n"
    "are kept bit for bit (format {dictionary}), and 'qmoe export --layout\n"
    "qmoe' restores the same tensors.  OUT appears complete or not at all.\n"
    "\n"
    "Options:\n"
    "  -o, --output OUT     the directory to write (required)\n"
    "  --tokenizer DIR      copy the tokenizer from DIR; published models "
    "have\n"
    "                       none, and text cannot be used without it\n"
    "  --format FORMAT      convert the experts ({formats}): they\n"
    "                       are decoded and rounded to nearest, which adds an "
    "error\n"
    "  --force              replace OUT and discard an interrupted run, if "
    "both\n"
    "                       hold only what qmoe wrote\n"
    "  --json               print the report as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe import switch-base-128_qmoe -o base-128 --tokenizer "
    "switch-base-128\n"
    "  qmoe import switch-c-2048_qmoe -o c-2048\n";

/* 0 for a model without experts, instead of a division by 0. */
static double ratio(double a, uint64_t b)
{
    return b != 0 ? a / (double)b : 0;
}

static void print_json(
    const char *source, const char *output, const qmoe_import_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "source", source);
    cli_json_text(json, "output", output);
    cli_json_count(json, "source_bytes", r->source_bytes);
    cli_json_count(json, "output_bytes", r->output_bytes);
    cli_json_count(json, "expert_bytes", r->expert_bytes);
    cli_json_count(json, "expert_weights", r->expert_weights);
    cli_json_count(json, "matrices", r->n_matrices);
    cli_json_real(json, "bits_per_expert_weight",
        ratio(8 * (double)r->expert_bytes, r->expert_weights));
    /* 0 when codes were kept, as they are unless --format is given. */
    cli_json_real(json, "weight_error", r->weight_error);
    cJSON_AddBoolToObject(json, "tokenizer", r->has_tokenizer);
    cli_json_real(json, "seconds", r->seconds);
    cli_json_print(json);
}

/* The line on re-coding appears only when the codes were not kept. */
static void print_text(
    const char *source, const char *output, const qmoe_import_report *r)
{
    cli_clear_progress();
    cli_print_name(stdout, source);
    fputs(" -> ", stdout);
    cli_print_name(stdout, output);
    printf("\n  size     %s -> ", cli_human_bytes(r->source_bytes).text);
    printf("%s\n", cli_human_bytes(r->output_bytes).text);
    printf("  experts  %" PRIu64 " matrices, %.4f bits per weight\n",
        r->n_matrices, ratio(8 * (double)r->expert_bytes, r->expert_weights));
    if (r->weight_error > 0)
        printf("  re-coded relative weight error %.4f\n", r->weight_error);
    /* Not an error: ids can be used without it. */
    if (!r->has_tokenizer)
        printf("  note     no tokenizer: give --tokenizer DIR to use text\n");
    printf("  time     %.1f s\n", r->seconds);
}

static cli_exit run(int argc, char **argv)
{
    const char *source, *output = "";
    bool as_json = false;
    qmoe_import_options o = {.size = sizeof o};
    const cli_option table[] = {
        {"output", 'o', CLI_TEXT, &output, 0, 0},
        {"tokenizer", 0, CLI_TEXT, &o.tokenizer, 0, 0},
        {"format", 0, CLI_TEXT, &o.format, 0, 0},
        {"force", 0, CLI_SET, &o.overwrite, 0, 0},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_exit code;
    cli_session s;
    qmoe_import_report report;
    if (!cli_parse(&code, &source, "DIR", &cli_verb_import, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    /* Before anything is opened; an empty name is a mistake of a script. */
    if (output[0] == '\0')
        return cli_fail(
            CLI_USAGE, "import: the output directory is missing; give -o OUT");
    code = cli_open_context(&s, 0);
    if (code == CLI_OK) {
        qmoe_status status =
            qmoe_import(s.context, &report, source, output, &o);
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
        else if (as_json)
            print_json(source, output, &report);
        else
            print_text(source, output, &report);
    }
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_import = {
    "import", "convert a published compressed model", help, run};
