/* SPDX-License-Identifier: Apache-2.0
 * qmoe import: models from other programs.  In: a GGUF file, or a directory of
 * the QMoE authors' files.  Out: a model directory by the library's
 * qmoe_import, and its report.  The tool reads nothing of the files itself:
 * checking them is the library's work. */
#include "cli.h"

#include <inttypes.h>

#include "qmoe/exchange.h"

static const char help[] =
    "Usage: qmoe import FILE.gguf -o OUT [options]\n"
    "       qmoe import DIR -o OUT [options]\n"
    "\n"
    "FILE.gguf: writes the model as an uncompressed Hugging Face directory\n"
    "(config.json, safetensors, tokenizer.json, ...), which every other\n"
    "command and other programs read.  Architectures: llama (also Mixtral),\n"
    "qwen2, qwen2moe, qwen3, qwen3moe, olmoe.  Types: F32, F16, BF16, Q8_0,\n"
    "Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL; decoded weights are "
    "written\n"
    "as f32, exactly.  For a model in several files give the first\n"
    "(...-00001-of-0000N.gguf).\n"
    "\n"
    "DIR: converts a compressed model that the QMoE authors published\n"
    "(ISTA-DASLab/switch-*_qmoe: config.json, noexp.pt, sizes.pt, exp00.pt,\n"
    "...).  Every file is checked; nothing in it is executed.  The codewords\n"
    "are kept bit for bit (format {dictionary}), and 'qmoe export --layout\n"
    "qmoe' restores the same tensors.\n"
    "\n"
    "OUT appears complete or not at all.\n"
    "\n"
    "Options:\n"
    "  -o, --output OUT     the directory to write (required)\n"
    "  --dtype DTYPE        FILE.gguf: write every tensor as bf16 or f16 "
    "(rounded\n"
    "                       to nearest) or f32\n"
    "  --tokenizer DIR      DIR: copy the tokenizer from there; published "
    "models\n"
    "                       have none, and text cannot be used without it\n"
    "  --format FORMAT      DIR: convert the experts to\n"
    "                       {formats}:\n"
    "                       they are decoded and rounded to nearest, which "
    "adds\n"
    "                       an error\n"
    "  --force              replace OUT and discard an interrupted run, if "
    "both\n"
    "                       hold only what qmoe wrote\n"
    "  --json               print the report as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe import SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2\n"
    "  qmoe import Qwen3-30B-A3B-Q8_0.gguf -o qwen3 --dtype bf16\n"
    "  qmoe import switch-base-128_qmoe -o base-128 --tokenizer "
    "switch-base-128\n"
    "  qmoe import switch-c-2048_qmoe -o c-2048\n";

/* 0 for a model without experts, instead of a division by 0. */
static double ratio(double a, uint64_t b)
{
    return b != 0 ? a / (double)b : 0;
}

/* A published directory has matrices of experts; a GGUF file has none that the
 * report tells from other weights. */
static bool is_published(const qmoe_import_report *r)
{
    return r->n_matrices != 0;
}

static void print_json(
    const char *source, const char *output, const qmoe_import_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "source", source);
    cli_json_text(json, "output", output);
    cli_json_count(json, "source_bytes", r->source_bytes);
    cli_json_count(json, "output_bytes", r->output_bytes);
    if (is_published(r)) {
        cli_json_count(json, "expert_bytes", r->expert_bytes);
        cli_json_count(json, "expert_weights", r->expert_weights);
        cli_json_count(json, "matrices", r->n_matrices);
        cli_json_real(json, "bits_per_expert_weight",
            ratio(8 * (double)r->expert_bytes, r->expert_weights));
        /* 0 when codes were kept, as they are unless --format is given. */
        cli_json_real(json, "weight_error", r->weight_error);
    } else {
        cli_json_count(json, "tensors", r->n_tensors);
        cli_json_count(json, "weights", r->n_weights);
    }
    cJSON_AddBoolToObject(json, "tokenizer", r->has_tokenizer);
    cli_json_real(json, "seconds", r->seconds);
    cli_json_print(json);
}

static void print_published(const qmoe_import_report *r)
{
    printf("  experts  %" PRIu64 " matrices, %.4f bits per weight\n",
        r->n_matrices, ratio(8 * (double)r->expert_bytes, r->expert_weights));
    /* Only when the codes were not kept. */
    if (r->weight_error > 0)
        printf("  re-coded relative weight error %.4f\n", r->weight_error);
    /* Not an error: ids can be used without it. */
    if (!r->has_tokenizer)
        printf("  note     no tokenizer: give --tokenizer DIR to use text\n");
}

static void print_text(
    const char *source, const char *output, const qmoe_import_report *r)
{
    cli_clear_progress();
    cli_print_name(stdout, source);
    fputs(" -> ", stdout);
    cli_print_name(stdout, output);
    printf("\n  size     %s -> ", cli_human_bytes(r->source_bytes).text);
    printf("%s\n", cli_human_bytes(r->output_bytes).text);
    if (is_published(r)) {
        print_published(r);
    } else {
        printf("  weights  %" PRIu64 " in %" PRIu64 " tensors\n", r->n_weights,
            r->n_tensors);
        if (!r->has_tokenizer)
            printf("  note     the file has no tokenizer\n");
    }
    printf("  time     %.1f s\n", r->seconds);
}

static cli_exit run(int argc, char **argv)
{
    const char *source, *output = "";
    bool as_json = false;
    qmoe_import_options o = {.size = sizeof o};
    const cli_option table[] = {
        {"output", 'o', CLI_TEXT, &output, 0, 0},
        {"dtype", 0, CLI_TEXT, &o.dtype, 0, 0},
        {"tokenizer", 0, CLI_TEXT, &o.tokenizer, 0, 0},
        {"format", 0, CLI_TEXT, &o.format, 0, 0},
        {"force", 0, CLI_SET, &o.overwrite, 0, 0},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_exit code;
    cli_session s;
    qmoe_import_report report;
    if (!cli_parse(&code, &source, "FILE_OR_DIR", &cli_verb_import, argc, argv,
            table, sizeof table / sizeof *table))
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
    "import", "read a GGUF file or a published compressed model", help, run};
