/* SPDX-License-Identifier: Apache-2.0
 * qmoe compress: a checkpoint becomes a compressed directory.  In: the command
 * line.  Out: options of the library's qmoe_compress, and its report as text or
 * JSON.  The tool refuses options that would have no effect, turns "not given"
 * into the library's zeros, and adds nothing to the result: the bytes of OUT
 * depend on the library's options alone. */
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress_guard.h"
#include "formats.h"

static const char help[] =
    "Usage: qmoe compress CHECKPOINT -o OUT [options]\n"
    "\n"
    "Compresses the experts of a Mixture-of-Experts checkpoint to less than\n"
    "one bit per weight.  CHECKPOINT is a Hugging Face directory "
    "(config.json,\n"
    "safetensors, tokenizer).  OUT is a directory of the same layout, "
    "which\n"
    "the other commands read.  All tensors but the experts are copied as they\n"
    "are, unless --dense-bits says otherwise.  Weights are streamed, so "
    "memory\n"
    "does not grow with the model.  OUT appears complete or not at all, also\n"
    "after Ctrl-C or on a full disk.\n"
    "\n"
    "CHECKPOINT can be synthetic: synth:base-8, synth:c-2048?experts=4, ...\n"
    "has the shapes of a published model and random weights; 'qmoe plan "
    "synth:'\n"
    "lists the names (see docs/compress.md).\n"
    "\n"
    "Options:\n"
    "  -o, --output OUT     the directory to write (required)\n"
    "  --format FORMAT      format of the experts (default {default}):\n"
    "{summaries}\n"
    "  --bits B             choose between {budget} for each stack (the\n"
    "                       matrices of one kind of all experts of a block),\n"
    "                       so that the experts take at most B bits per\n"
    "                       weight, every byte counted, with the least\n"
    "                       measured output error\n"
    "  --dense-bits B       bits of the matrices beside the experts: 16: as "
    "they\n"
    "                       are (default); 8: int8, rounded to nearest; 4, 3, "
    "2:\n"
    "                       calibrated like experts; or a format.  ROLE=B,\n"
    "                       ROLE=B: by role (attention, dense_ffn, "
    "shared_ffn,\n"
    "                       embedding, head).  Needed for a model without "
    "experts\n"
    "  --method METHOD      gptq: calibrated on the inputs of each expert\n"
    "                       (default with --calib); rtn: round to nearest, "
    "with\n"
    "                       --calib only to measure the error of the outputs\n"
    "  --levels RULE        {levels}: minmax (default, the paper's: "
    "minimum\n"
    "                       and maximum of the row) or fit (smaller error)\n"
    "  --dict WHICH         {dictionary}: paper (default) or fit, a "
    "dictionary\n"
    "                       made for this model's share of zeros\n"
    "  --damping F          added to the diagonal of the second moments, in\n"
    "                       units of its mean (default 0.1)\n"
    "  --rotation N         {rotating}: columns per Hadamard block: a power "
    "of\n"
    "                       two up to 1024; 0: no rotation; auto (default): "
    "the\n"
    "                       largest up to 64 that divides the matrix's width\n"
    "  --rounds N           rounds of descent after the sweep (default:\n"
    "                       {rounds}, 4 for --levels fit);\n"
    "                       more rounds take longer and lower the error a\n"
    "                       little\n"
    "\n"
    "Calibration:\n"
    "  --calib FILE         text with one document per line, or JSON lines "
    "with\n"
    "                       a \"text\" member; may be repeated\n"
    "  --samples N          use the first N documents that fit, or windows\n"
    "                       (default: all)\n"
    "  --seed N             seed of the span masks (default 0)\n"
    "  --context N          models that predict the next token: tokens of a\n"
    "                       window (default 512).  Documents are joined by "
    "the\n"
    "                       end token and cut into windows\n"
    "  --frame-weight W     such models: weight of special tokens and of the "
    "first\n"
    "                       token of a window, 0 to 1 (default 0.1)\n"
    "  --token-weights RULE router: a token weighs the square of its router "
    "weight\n"
    "                       for the expert (default for models that predict "
    "the\n"
    "                       next token); equal: it does not\n"
    "  --few-tokens RULE    experts with fewer tokens than a matrix has "
    "columns:\n"
    "                       borrow: add tokens from all of the block (default "
    "for\n"
    "                       models that predict the next token); keep: do not\n"
    "  --row-weights RULE   gradient: the error of a row counts by the\n"
    "                       squared gradient of the loss, in trellis formats\n"
    "                       (default for models that predict the next token);\n"
    "                       equal: all rows count alike\n"
    "\n"
    "What it cost:\n"
    "  --eval FILE          at the end compare both models on this text, read "
    "like\n"
    "                       --calib: loss, KL divergence, top-1 agreement; may "
    "be\n"
    "                       repeated.  Held-out text, not the calibration's\n"
    "  --eval-samples N     stop after N documents or windows (default: all)\n"
    "  --max-loss-increase X  exit code 7 if the loss rises by more than X "
    "nats;\n"
    "                       OUT stays\n"
    "\n"
    "The run:\n"
    "  --dry-run            print sizes, memory, disk and time; write nothing\n"
    "  --resume             continue the interrupted run in OUT.partial; the\n"
    "                       result has the bytes of an uninterrupted run\n"
    "  --force              replace OUT and discard an interrupted run, if "
    "both\n"
    "                       hold only what qmoe wrote\n"
    "  --memory-limit SIZE  e.g. 4G (default: the available memory)\n"
    "  --work-dir DIR       keep token states in unnamed files in DIR instead "
    "of\n"
    "                       in memory; DIR is created if it is missing\n"
    "  --group-size N       experts between two points from which a run can "
    "be\n"
    "                       resumed (default 16)\n"
    "  --no-tokenizer       accept a checkpoint without a tokenizer\n"
    "  -b, --backend NAME   backend that runs the dense layers on calibration\n"
    "                       tokens: cpu (default), opencl, cuda, auto.  "
    "Experts\n"
    "                       run on the CPU.  Backends round differently, so\n"
    "                       results differ slightly\n"
    "  --device D           device of the backend, as for generate\n"
    "  --device-memory SIZE use at most this much of the device's memory\n"
    "  -t, --threads N      CPU threads (default: all processors); the result\n"
    "                       does not depend on it\n"
    "  --json               print the report as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe compress models/switch-mini -o build/m --calib calib.txt\n"
    "  qmoe compress models/switch-mini -o build/m --calib calib.txt --bits "
    "0.7\n"
    "  qmoe compress models/switch-mini -o build/m --method rtn --force\n";

/* No value of these options is negative. */
static const float not_given = -1;

/* 0 for a model without experts, instead of a division by 0. */
static double share(uint64_t part, uint64_t whole)
{
    return whole != 0 ? (double)part / (double)whole : 0;
}

/* What the options say, and what the tool derives from them. */
typedef struct request {
    const char *source, *output;
    const char *levels, *dict, *rotation, *token_weights, *few_tokens,
        *row_weights;
    cli_texts calibration;
    uint64_t n_threads, seed, group_size, rounds, context;
    float damping, bits, frame_weight;
    bool as_json;
    cli_guard guard;
    qmoe_compress_options options;
} request;

/* What was expected before the work began, also after it: so predictions can
 * be compared with what came. */
static void json_plan(
    cJSON *json, const request *q, const qmoe_compress_report *r)
{
    cJSON *plan = cJSON_AddObjectToObject(json, "plan");
    cli_json_count(plan, "output_bytes", r->planned_output_bytes);
    cli_json_count(plan, "memory_bytes", r->planned_memory_bytes);
    cli_json_count(plan, "disk_bytes", r->planned_disk_bytes);
    cli_json_real(plan, "seconds", r->planned_seconds);
    /* null: all documents that fit. */
    if (q->options.max_samples != 0)
        cli_json_count(plan, "samples_asked", q->options.max_samples);
    else
        cJSON_AddNullToObject(plan, "samples_asked");
    cli_json_count(plan, "samples", r->n_samples);
    cli_json_count(plan, "encoder_tokens", r->n_encoder_tokens);
    cli_json_count(plan, "decoder_tokens", r->n_decoder_tokens);
    cli_json_count(plan, "skipped_documents", r->n_skipped_documents);
    /* 0: the formats were not chosen by a budget. */
    if (r->most_bits == 0)
        return;
    cli_json_real(plan, "least_bits", r->least_bits);
    cli_json_real(plan, "most_bits", r->most_bits);
}

static void json_kinds(cJSON *json, const qmoe_compress_report *r)
{
    cJSON *kinds = cJSON_AddArrayToObject(json, "kinds");
    for (int i = 0; i < r->n_kinds; i++) {
        cJSON *kind = cJSON_CreateObject();
        cJSON_AddItemToArray(kinds, kind);
        cli_json_text(kind, "name", r->kinds[i].name);
        cli_json_count(kind, "matrices", r->kinds[i].n_matrices);
        cli_json_real(kind, "input_error", r->kinds[i].input_error);
        cli_json_real(kind, "weight_error", r->kinds[i].weight_error);
    }
}

static void json_result(cJSON *json, const qmoe_compress_report *r)
{
    /* Bytes and bits of what was written, not of what was planned. */
    cli_json_count(json, "output_bytes", r->output_bytes);
    cli_json_real(json, "ratio", share(r->source_bytes, r->output_bytes));
    cli_json_count(json, "expert_bytes", r->expert_bytes);
    cli_json_real(json, "bits_per_expert_weight",
        8 * share(r->expert_bytes, r->expert_weights));
    if (r->n_dense_matrices != 0) {
        cli_json_count(json, "dense_bytes", r->dense_bytes);
        cli_json_real(json, "bits_per_dense_weight",
            8 * share(r->dense_bytes, r->dense_weights));
        cli_json_real(json, "dense_input_error", r->dense_input_error);
        cli_json_real(json, "dense_weight_error", r->dense_weight_error);
    }
    cli_json_real(json, "zeros", r->zeros);
    cli_json_real(json, "entropy", r->entropy_bits);
    cli_json_real(json, "input_error", r->input_error);
    cli_json_real(json, "weight_error", r->weight_error);
    cli_json_count(json, "experts", r->n_experts);
    cli_json_count(json, "experts_without_tokens", r->n_experts_without_tokens);
    cli_json_count(json, "experts_borrowing", r->n_experts_borrowing);
    cli_json_count(json, "singular_matrices", r->n_singular);
    json_kinds(json, r);
    cli_json_count(json, "resumed_experts", r->n_experts_resumed);
    cli_json_count(json, "resumed_trials", r->n_trials_resumed);
    cli_json_real(json, "seconds", r->seconds);
}

static cJSON *json_report(const request *q, const qmoe_compress_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "source", q->source);
    cli_json_text(json, "output", q->output);
    cli_json_count(json, "source_bytes", r->source_bytes);
    cli_json_count(json, "matrices", r->n_matrices);
    cli_json_count(json, "expert_weights", r->expert_weights);
    cli_json_count(json, "total_weights", r->total_weights);
    cli_json_count(json, "dense_matrices", r->n_dense_matrices);
    cli_json_count(json, "dense_weights", r->dense_weights);
    json_plan(json, q, r);
    if (!q->options.dry_run)
        json_result(json, r);
    return json;
}

/* Rounded inwards, so that the printed bounds are possible budgets. */
static void print_budget(const request *q, const qmoe_compress_report *r)
{
    printf("  formats      ");
    cli_print_help("{budget}");
    printf(", at most %.4f bits per expert weight (possible: %.4f to %.4f)\n",
        q->options.bits, ceil(1e4 * r->least_bits) / 1e4,
        floor(1e4 * r->most_bits) / 1e4);
}

/* What a run would take: every number of it is an estimate but the size of the
 * source. */
static void print_plan(const request *q, const qmoe_compress_report *r)
{
    cli_print_name(stdout, q->source);
    printf("\n  weights      %" PRIu64 ", of them %" PRIu64 " in %" PRIu64
           " experts\n",
        r->total_weights, r->expert_weights, r->n_experts);
    if (r->n_dense_matrices != 0)
        printf("  dense        %" PRIu64 " weights in %" PRIu64 " matrices\n",
            r->dense_weights, r->n_dense_matrices);
    printf("  calibration  %" PRIu64 " samples, %" PRIu64 " + %" PRIu64
           " tokens\n",
        r->n_samples, r->n_encoder_tokens, r->n_decoder_tokens);
    if (r->most_bits != 0)
        print_budget(q, r);
    printf("  size         %s -> about %s\n",
        cli_human_bytes(r->source_bytes).text,
        cli_human_bytes(r->planned_output_bytes).text);
    printf("  memory       about %s\n",
        cli_human_bytes(r->planned_memory_bytes).text);
    printf("  disk         about %s\n",
        cli_human_bytes(r->planned_disk_bytes).text);
    printf("  time         about %.0f s\n", r->planned_seconds);
}

/* How much of the work an earlier run had done: the time below is this run's
 * alone. */
static void print_resumed(const request *q, const qmoe_compress_report *r)
{
    if (!q->options.resume)
        return;
    printf("  resumed  %" PRIu64 " of %" PRIu64 " experts were done",
        r->n_experts_resumed, r->n_experts);
    if (r->n_trials_resumed != 0)
        printf(", %" PRIu64 " were measured", r->n_trials_resumed);
    putchar('\n');
}

static void print_experts(const qmoe_compress_report *r)
{
    /* 16 bits a weight are 2 bytes: what most checkpoints have. */
    printf("  experts  %.4f bits per weight, %.1f times smaller than 16 bits\n",
        8 * share(r->expert_bytes, r->expert_weights),
        2 * share(r->expert_weights, r->expert_bytes));
    /* Without calibration text the error of the outputs is not known; that of
     * the weights is. */
    printf("           %" PRIu64 " weights in %" PRIu64
           " matrices, %.1f %% zeros, relative %s error %.4f\n",
        r->expert_weights, r->n_matrices, 100 * r->zeros,
        isfinite(r->input_error) ? "output" : "weight",
        isfinite(r->input_error) ? r->input_error : r->weight_error);
    /* Kinds differ: the last matrix of a gated expert is the fragile one. */
    for (int i = 0; i < r->n_kinds; i++)
        printf("%s%s %.4f", i == 0 ? "           " : ", ", r->kinds[i].name,
            isfinite(r->kinds[i].input_error) ? r->kinds[i].input_error
                                              : r->kinds[i].weight_error);
    putchar('\n');
}

/* What came of it: sizes, the experts' share, and what a reader should know
 * before he trusts it, such as experts that were only rounded. */
static void print_text(const request *q, const qmoe_compress_report *r)
{
    cli_clear_progress();
    cli_print_name(stdout, q->source);
    fputs(" -> ", stdout);
    cli_print_name(stdout, q->output);
    printf("\n  size     %s -> %s, %.1f times smaller\n",
        cli_human_bytes(r->source_bytes).text,
        cli_human_bytes(r->output_bytes).text,
        share(r->source_bytes, r->output_bytes));
    if (r->expert_weights != 0)
        print_experts(r);
    if (r->n_dense_matrices != 0)
        printf("  dense    %.4f bits per weight, %" PRIu64
               " weights in %" PRIu64 " matrices, relative %s error %.6f\n",
            8 * share(r->dense_bytes, r->dense_weights), r->dense_weights,
            r->n_dense_matrices,
            isfinite(r->dense_input_error) ? "output" : "weight",
            isfinite(r->dense_input_error) ? r->dense_input_error
                                           : r->dense_weight_error);
    if (r->n_experts_borrowing != 0)
        printf("  few      %" PRIu64
               " experts got fewer tokens than columns and borrowed some\n",
            r->n_experts_borrowing);
    /* What was only rounded lowers the quality, so it is not left out. */
    if (r->n_experts_without_tokens + r->n_singular != 0)
        printf("  rounded  %" PRIu64
               " experts without calibration tokens, %" PRIu64
               " singular matrices\n",
            r->n_experts_without_tokens, r->n_singular);
    print_resumed(q, r);
    printf("  time     %.1f s\n", r->seconds);
}

/* The report first: a model that was written is told of, whatever its
 * evaluation ends with. */
static cli_exit show(
    const request *q, cli_session *s, const qmoe_compress_report *report)
{
    cJSON *json = q->as_json ? json_report(q, report) : NULL;
    if (json == NULL && q->options.dry_run)
        print_plan(q, report);
    else if (json == NULL)
        print_text(q, report);
    cli_exit code =
        cli_run_guard(&q->guard, json, s, q->source, q->output, &q->options);
    if (json != NULL)
        cli_json_print(json);
    return code;
}

static cli_exit compress(const request *q)
{
    cli_session s = {0};
    qmoe_compress_report report;
    cli_exit code = cli_check_guard(&q->guard);
    if (code == CLI_OK)
        code = cli_open_context(&s, q->n_threads);
    if (code == CLI_OK) {
        qmoe_status status = qmoe_compress(
            s.context, &report, q->source, q->output, &q->options);
        code = status == QMOE_OK ? show(q, &s, &report)
                                 : cli_fail_status(&s, status);
    }
    cli_close(&s);
    return code;
}

/* One of two words: false for the first, true for the second. */
static cli_exit choose(bool *second, const char *option, const char *word,
    const char *first_word, const char *second_word)
{
    *second = strcmp(word, second_word) == 0;
    if (*second || strcmp(word, first_word) == 0)
        return CLI_OK;
    return cli_fail(CLI_USAGE, "compress: --%s: '%s' is neither %s nor %s",
        option, word, first_word, second_word);
}

/* "auto" or a block; the library's 0 stands for auto, -1 for none. */
static cli_exit read_rotation(int *out, const char *word)
{
    enum { LARGEST = 1024 };
    char *end = NULL;
    *out = 0;
    if (strcmp(word, "auto") == 0)
        return CLI_OK;
    /* A unit or sign behind the number is refused by *end and the first
     * character. */
    unsigned long block = strtoul(word, &end, 10);
    if (word[0] < '0' || word[0] > '9' || *end != '\0' || block > LARGEST ||
        (block & (block - 1)) != 0)
        return cli_fail(CLI_USAGE,
            "compress: --rotation: '%s' is neither auto nor 0 nor a power of "
            "two up to %d",
            word, LARGEST);
    *out = block == 0 ? -1 : (int)block;
    return CLI_OK;
}

/* Options that the method, the format or the kind of run leaves aside: a user
 * who gives one expects something else than what would happen. */
static cli_exit refuse_idle(const request *q)
{
    const qmoe_compress_options *o = &q->options;
    qmoe_format_info format;
    const bool rounds = o->method != NULL && strcmp(o->method, "rtn") == 0;
    const bool reads_text = !rounds || o->n_calibration != 0;
    char not_for[96];
    if (!cli_find_format(&format, o->format))
        return CLI_OK; /* the library says so */
    snprintf(not_for, sizeof not_for, "it is not for %.64s", format.name);
    /* The order is that of the messages: what is wrong with the method is said
     * before what is wrong with the format. */
    const cli_idle rules[] = {
        {!reads_text,
            "samples frame-weight token-weights few-tokens row-weights "
            "work-dir",
            "--method rtn without --calib uses no text"},
        {!reads_text && q->guard.texts.n == 0,
            "seed context backend device device-memory",
            "--method rtn without --calib uses no text"},
        {rounds, "damping rounds", "--method rtn rounds to nearest"},
        {!cli_format_makes_rounds(&format, o->fit_levels), "rounds",
            format.passes_fit_levels ? "only with --levels fit does the format "
                                       "have rounds of descent"
                                     : "the format has no rounds of descent"},
        {!format.rotates, "rotation", not_for},
        {!format.has_levels, "levels", not_for},
        {!format.has_dictionary, "dict", not_for},
        {o->dry_run, "resume force eval", "--dry-run writes nothing"},
        {o->n_calibration != 0, "no-tokenizer", "--calib needs a tokenizer"},
        {q->guard.texts.n != 0, "no-tokenizer", "--eval needs a tokenizer"},
        {q->guard.texts.n == 0, "eval-samples max-loss-increase",
            "there is no --eval"},
        {cli_is_synthetic(q->source), "eval", "the weights are random"},
    };
    return cli_refuse_idle(
        &cli_verb_compress, rules, sizeof rules / sizeof *rules);
}

/* The library's 0 stands for its default, so each wish is another number. */
static cli_exit weigh_tokens(request *q)
{
    qmoe_compress_options *o = &q->options;
    bool second = false;
    cli_exit code = CLI_OK;
    o->context = (int)q->context;
    if (q->frame_weight != not_given)
        o->frame_weight = q->frame_weight > 0 ? (double)q->frame_weight : -1;
    if (q->token_weights != NULL) {
        code = choose(
            &second, "token-weights", q->token_weights, "equal", "router");
        o->route_weights = second ? 1 : -1;
    }
    if (code == CLI_OK && q->few_tokens != NULL) {
        code = choose(&second, "few-tokens", q->few_tokens, "keep", "borrow");
        o->borrow = second ? 1 : -1;
    }
    if (code == CLI_OK && q->row_weights != NULL) {
        code =
            choose(&second, "row-weights", q->row_weights, "equal", "gradient");
        o->row_weights = second ? 1 : -1;
    }
    return code;
}

/* From the user's words to the library's options: all that can be refused
 * without reading the checkpoint is refused here. */
static cli_exit finish_options(request *q)
{
    qmoe_compress_options *o = &q->options;
    if (q->output[0] == '\0')
        return cli_fail(CLI_USAGE,
            "compress: the output directory is missing; give -o OUT");
    o->size = sizeof *o;
    o->calibration = q->calibration.items;
    o->n_calibration = q->calibration.n;
    o->seed = (uint32_t)q->seed;
    o->damping = (double)q->damping;
    o->group_size = (int)q->group_size;
    if (q->bits != not_given) {
        /* To the digits a float holds. */
        o->bits = round((double)q->bits * 1e6) / 1e6;
        if (o->bits <= 0)
            return cli_fail(CLI_USAGE,
                "compress: --bits: no format takes %g bits per weight",
                (double)q->bits);
    }
    /* The library's zero means "default". */
    o->passes = q->rounds == 0               ? -1
                : q->rounds == CLI_NO_ROUNDS ? 0
                                             : (int)q->rounds;
    cli_exit code = read_rotation(&o->rotation, q->rotation);
    if (code == CLI_OK)
        code = choose(&o->fit_levels, "levels", q->levels, "minmax", "fit");
    if (code == CLI_OK)
        code = choose(&o->fit_dictionary, "dict", q->dict, "paper", "fit");
    if (code == CLI_OK)
        code = weigh_tokens(q);
    return code == CLI_OK ? refuse_idle(q) : code;
}

static cli_exit run(int argc, char **argv)
{
    /* Values no user can give stand for "not given", so that 0 is a wish like
     * any other. */
    request q = {.output = "",
        .levels = "minmax",
        .dict = "paper",
        .rotation = "auto",
        .rounds = CLI_NO_ROUNDS,
        .bits = not_given,
        .guard.most_increase = not_given,
        .frame_weight = not_given,
        .damping = 0.1f};
    qmoe_compress_options *o = &q.options;
    const cli_option table[] = {
        {"output", 'o', CLI_TEXT, &q.output, 0, 0},
        {"format", 0, CLI_TEXT, &o->format, 0, 0},
        {"method", 0, CLI_TEXT, &o->method, 0, 0},
        {"levels", 0, CLI_TEXT, &q.levels, 0, 0},
        {"dict", 0, CLI_TEXT, &q.dict, 0, 0},
        {"damping", 0, CLI_REAL, &q.damping, 0, 100},
        {"bits", 0, CLI_REAL, &q.bits, 0, 16},
        {"dense-bits", 0, CLI_TEXT, &o->dense_bits, 0, 0},
        {"rotation", 0, CLI_TEXT, &q.rotation, 0, 0},
        {"rounds", 0, CLI_COUNT, &q.rounds, 0, CLI_MAX_ROUNDS},
        {"calib", 0, CLI_TEXTS, &q.calibration, 0, 0},
        {"samples", 0, CLI_COUNT, &o->max_samples, 1, UINT64_MAX},
        {"seed", 0, CLI_COUNT, &q.seed, 0, UINT32_MAX},
        {"context", 0, CLI_COUNT, &q.context, 2, 65536},
        {"frame-weight", 0, CLI_REAL, &q.frame_weight, 0, 1},
        {"token-weights", 0, CLI_TEXT, &q.token_weights, 0, 0},
        {"few-tokens", 0, CLI_TEXT, &q.few_tokens, 0, 0},
        {"row-weights", 0, CLI_TEXT, &q.row_weights, 0, 0},
        {"eval", 0, CLI_TEXTS, &q.guard.texts, 0, 0},
        {"eval-samples", 0, CLI_COUNT, &q.guard.n_samples, 1, UINT64_MAX},
        {"max-loss-increase", 0, CLI_REAL, &q.guard.most_increase, 0, 1000},
        {"dry-run", 0, CLI_SET, &o->dry_run, 0, 0},
        {"resume", 0, CLI_SET, &o->resume, 0, 0},
        {"force", 0, CLI_SET, &o->overwrite, 0, 0},
        {"memory-limit", 0, CLI_SIZE, &o->memory_limit, 0, 0},
        {"work-dir", 0, CLI_TEXT, &o->work_dir, 0, 0},
        {"group-size", 0, CLI_COUNT, &q.group_size, 1, 4096},
        {"no-tokenizer", 0, CLI_SET, &o->without_tokenizer, 0, 0},
        {"backend", 'b', CLI_TEXT, &o->backend, 0, 0},
        {"device", 0, CLI_TEXT, &o->device_name, 0, 0},
        {"device-memory", 0, CLI_SIZE, &o->device_memory_bytes, 0, 0},
        {"threads", 't', CLI_COUNT, &q.n_threads, 1, CLI_MAX_THREADS},
        {"json", 0, CLI_SET, &q.as_json, 0, 0},
    };
    cli_exit code = CLI_OK;
    /* On an error the table has stored parts of the command line; only lists of
     * texts have memory. */
    if (cli_parse(&code, &q.source, "CHECKPOINT", &cli_verb_compress, argc,
            argv, table, sizeof table / sizeof *table)) {
        code = finish_options(&q);
        if (code == CLI_OK)
            code = compress(&q);
    }
    free(q.calibration.items);
    free(q.guard.texts.items);
    return code;
}

const cli_verb cli_verb_compress = {
    "compress", "compress the experts of a checkpoint", help, run};
