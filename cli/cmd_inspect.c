/* SPDX-License-Identifier: Apache-2.0
 * qmoe inspect: what a model directory holds and what each weight costs.  In:
 * an open model.  Out: a row per weight and sums, as text or JSON.  Sizes count
 * every byte that belongs to a weight.  Statistics need decoding, so unasked
 * they are taken only where that takes seconds. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats.h"

static const char help[] =
    "Usage: qmoe inspect MODEL [options]\n"
    "\n"
    "Lists the weights of a checkpoint or compressed model: shape, format,\n"
    "bytes and bits per weight of every expert stack (the matrices of one "
    "kind\n"
    "of all experts of a block), and the sum of the other weights by format.\n"
    "--json lists each of the other weights, too.\n"
    "\n"
    "Bytes include everything that belongs to a weight: codes, offsets,\n"
    "levels, padding.  Zeros are the share of stored values that are zero.\n"
    "The entropy is that of the three levels in bits per weight; its total is\n"
    "the mean over all expert weights.  Ratios compare with 16 bits per\n"
    "weight.  Stacks may have different formats ('qmoe compress --bits').  "
    "The\n"
    "rotation is the number of columns per Hadamard block.\n"
    "\n"
    "Options:\n"
    "  --stats              decode all weights for zeros and entropy\n"
    "  --no-stats           decode no weights (default: decode compressed\n"
    "                       experts, unless they are more than 1 GB)\n"
    "  --json               print everything as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe inspect build/m\n"
    "  qmoe inspect build/m --json\n";

/* More than the library knows. */
enum { MAX_FORMATS = 32 };

/* Bytes of experts that are decoded without being asked for: seconds. */
static const uint64_t most_unasked = 1000 * 1000 * 1000;

/* A weight and what was counted in it. */
typedef struct row {
    qmoe_weight_info info;
    qmoe_weight_stats stats;
    bool has_stats, has_entropy;
} row;

typedef struct totals {
    uint64_t expert_weights, expert_bytes, other_weights, other_bytes;
    /* Over the experts whose statistics were taken. */
    uint64_t counted, n_zeros;
    double entropy_sum; /* bits */
    bool has_entropy;
} totals;

/* The expert stacks, or the other weights, in one format. */
typedef struct format_share {
    const char *name;
    uint64_t n, n_weights, n_bytes;
} format_share;

/* In the order of their first weight. */
typedef struct format_list {
    format_share items[MAX_FORMATS];
    size_t n;
} format_list;

typedef struct inspection {
    qmoe_model_info info;
    row *rows;
    size_t n_rows;
    totals sum;
    format_list formats, others; /* of expert stacks; of other weights */
    size_t n_stacks;
} inspection;

/* 0 for no weights, instead of a division by 0. */
static double per(double a, uint64_t b)
{
    return b != 0 ? a / (double)b : 0;
}

static double bits(uint64_t n_bytes, uint64_t n_weights)
{
    return per(8 * (double)n_bytes, n_weights);
}

/* Sums over experts and others apart. */
static void add(totals *sum, const row *r)
{
    if (r->info.role != QMOE_ROLE_EXPERTS) {
        sum->other_weights += r->info.n_weights;
        sum->other_bytes += r->info.n_bytes;
        return;
    }
    sum->expert_weights += r->info.n_weights;
    sum->expert_bytes += r->info.n_bytes;
    if (!r->has_stats)
        return;
    sum->counted += r->info.n_weights;
    sum->n_zeros += r->stats.n_zeros;
    /* A mean weighted by the number of weights; formats without an entropy add
     * 0, and if none has one, none is printed. */
    sum->has_entropy |= r->has_entropy;
    sum->entropy_sum += r->stats.entropy_bits * (double)r->info.n_weights;
}

/* A table of few formats: searched from the front. */
static void add_format(format_list *list, const qmoe_weight_info *w)
{
    size_t i = 0;
    while (i < list->n && strcmp(list->items[i].name, w->format) != 0)
        i++;
    if (i == MAX_FORMATS)
        return;
    /* A new one: its entry begins as zeros. */
    list->n += i == list->n;
    format_share *f = &list->items[i];
    f->name = w->format;
    f->n++;
    f->n_weights += w->n_weights;
    f->n_bytes += w->n_bytes;
}

/* ---- gathering ---- */

/* Experts of a compressed model by default; all weights with --stats. */
static bool wants_stats(const inspection *in, const row *r, bool all, bool none)
{
    return !none &&
           (all || (in->info.compressed && r->info.role == QMOE_ROLE_EXPERTS));
}

/* Of the weights whose statistics are wanted: what the progress counts, and
 * what decides whether it is done unasked. */
static uint64_t bytes_to_decode(const inspection *in, bool all, bool none)
{
    uint64_t n = 0;
    for (size_t i = 0; i < in->n_rows; i++)
        if (wants_stats(in, &in->rows[i], all, none))
            n += in->rows[i].info.n_bytes;
    return n;
}

/* By bytes, so that the progress moves evenly between large and small
 * weights. */
static cli_exit take_stats(
    const cli_session *s, inspection *in, bool all, bool none)
{
    qmoe_progress progress = {.stage = "decode"};
    progress.total = bytes_to_decode(in, all, none);
    for (size_t i = 0; i < in->n_rows; i++) {
        qmoe_format_info format;
        row *r = &in->rows[i];
        if (!wants_stats(in, r, all, none))
            continue;
        progress.item = r->info.name;
        if (cli_on_progress(NULL, &progress) != 0)
            return cli_fail(CLI_INTERRUPTED, "interrupted");
        qmoe_status status = qmoe_model_weight_stats(s->model, i, &r->stats);
        if (status != QMOE_OK)
            return cli_fail_status(s, status);
        r->has_stats = true;
        /* Of three levels; other formats have other alphabets, whose entropies
         * would not compare. */
        r->has_entropy =
            in->info.compressed && r->info.role == QMOE_ROLE_EXPERTS &&
            cli_find_format(&format, r->info.format) && format.has_levels;
        progress.done += r->info.n_bytes;
    }
    return CLI_OK;
}

/* All weights are described first: how much would be decoded decides whether
 * anything is. */
static cli_exit gather(
    const cli_session *s, inspection *in, bool all, bool none)
{
    qmoe_model_describe(s->model, &in->info);
    in->n_rows = qmoe_model_weight_count(s->model);
    in->rows = cli_grow(NULL, in->n_rows * sizeof *in->rows);
    for (size_t i = 0; i < in->n_rows; i++) {
        in->rows[i] = (row){0};
        qmoe_status status = qmoe_model_weight(s->model, i, &in->rows[i].info);
        if (status != QMOE_OK)
            return cli_fail_status(s, status);
    }
    if (!all && bytes_to_decode(in, all, none) > most_unasked)
        none = true;
    cli_exit code = take_stats(s, in, all, none);
    /* After the statistics, which the sums include. */
    for (size_t i = 0; code == CLI_OK && i < in->n_rows; i++) {
        add(&in->sum, &in->rows[i]);
        const bool is_expert = in->rows[i].info.role == QMOE_ROLE_EXPERTS;
        in->n_stacks += is_expert;
        add_format(is_expert ? &in->formats : &in->others, &in->rows[i].info);
    }
    return code;
}

/* ---- JSON ---- */

/* null: not looked at, which is not the same as 0. */
static void json_if(cJSON *json, const char *key, bool known, double value)
{
    if (known)
        cli_json_real(json, key, value);
    else
        cJSON_AddNullToObject(json, key);
}

static cJSON *json_row(const row *r)
{
    const qmoe_weight_info *w = &r->info;
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "name", w->name);
    cli_json_text(json, "format", w->format);
    cli_json_count(json, "rotation", (uint64_t)w->rotation);
    cJSON *shape = cJSON_AddArrayToObject(json, "shape");
    /* A plain weight is a matrix, a stack has the number of experts in
     * front. */
    if (w->role == QMOE_ROLE_EXPERTS)
        cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)w->n_matrices));
    cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)w->n_rows));
    cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)w->n_cols));
    cli_json_count(json, "n_weights", w->n_weights);
    cli_json_count(json, "bytes", w->n_bytes);
    cli_json_real(json, "bits_per_weight", bits(w->n_bytes, w->n_weights));
    cli_json_text(json, "role", qmoe_role_name(w->role));
    json_if(json, "zeros", r->has_stats,
        per((double)r->stats.n_zeros, w->n_weights));
    json_if(json, "entropy", r->has_entropy, r->stats.entropy_bits);
    return json;
}

/* Members are null rather than absent, so that readers need not ask for
 * both. */
static void json_totals(cJSON *json, const totals *t)
{
    uint64_t n_weights = t->expert_weights + t->other_weights;
    uint64_t n_bytes = t->expert_bytes + t->other_bytes;
    cli_json_count(json, "expert_weights", t->expert_weights);
    cli_json_count(json, "total_weights", n_weights);
    cli_json_count(json, "expert_bytes", t->expert_bytes);
    cli_json_count(json, "other_bytes", t->other_bytes);
    cli_json_count(json, "total_bytes", n_bytes);
    json_if(json, "bits_per_expert_weight", t->expert_weights != 0,
        bits(t->expert_bytes, t->expert_weights));
    cli_json_real(json, "bits_per_weight", bits(n_bytes, n_weights));
    json_if(
        json, "zeros", t->counted != 0, per((double)t->n_zeros, t->counted));
    json_if(json, "entropy", t->has_entropy, per(t->entropy_sum, t->counted));
    /* Against 16 bits, 2 bytes a weight. */
    cli_json_real(
        json, "compression_ratio", per(2 * (double)n_weights, n_bytes));
    json_if(json, "expert_compression_ratio", t->expert_weights != 0,
        per(2 * (double)t->expert_weights, t->expert_bytes));
}

/* One member per format that experts are stored in. */
static void json_formats(cJSON *json, const inspection *in)
{
    cJSON *formats = cJSON_AddObjectToObject(json, "formats");
    for (size_t i = 0; i < in->formats.n; i++) {
        const format_share *f = &in->formats.items[i];
        cJSON *entry = cJSON_AddObjectToObject(formats, f->name);
        cli_json_count(entry, "stacks", f->n);
        cli_json_count(entry, "n_weights", f->n_weights);
        cli_json_count(entry, "bytes", f->n_bytes);
        cli_json_real(entry, "bits_per_weight", bits(f->n_bytes, f->n_weights));
    }
}

/* Everything that the text shows, and every weight by itself. */
static void print_json(const char *model, const inspection *in)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "model", model);
    cli_json_text(json, "architecture", in->info.architecture);
    cli_json_text(json, "format", in->info.format);
    cJSON_AddBoolToObject(json, "compressed", in->info.compressed);
    json_totals(json, &in->sum);
    json_formats(json, in);
    cJSON *weights = cJSON_AddArrayToObject(json, "weights");
    for (size_t i = 0; i < in->n_rows; i++)
        cJSON_AddItemToArray(weights, json_row(&in->rows[i]));
    cli_json_print(json);
}

/* ---- text ---- */

/* "-": not looked at, or nothing that such a format has. */
static void print_shares(
    bool has_zeros, double zeros, bool has_entropy, double entropy)
{
    if (has_zeros)
        printf("  %6.2f %%", 100 * zeros);
    else
        printf("  %8s", "-");
    if (has_entropy)
        printf("  %7.4f", entropy);
    else
        printf("  %7s", "-");
    fputc('\n', stdout);
}

/* One form for stacks and for the sum of the others, so that columns agree. */
static void print_line(const char *shape, const char *format,
    const char *rotation, uint64_t n_bytes, uint64_t n_weights)
{
    printf("  %-16s  %-12s  %8s  %10s  %11.4f", shape, format, rotation,
        cli_human_bytes(n_bytes).text, bits(n_bytes, n_weights));
}

static void print_expert(const row *r, int width)
{
    const qmoe_weight_info *w = &r->info;
    /* "n x rows x cols". */
    char shape[80];
    snprintf(shape, sizeof shape, "%" PRId64 " x %" PRId64 " x %" PRId64,
        w->n_matrices, w->n_rows, w->n_cols);
    cli_print_name(stdout, w->name);
    printf("%*s", width - (int)strlen(w->name), "");
    char rotation[16] = "-";
    if (w->rotation != 0)
        snprintf(rotation, sizeof rotation, "%d", w->rotation);
    print_line(shape, w->format, rotation, w->n_bytes, w->n_weights);
    print_shares(r->has_stats, per((double)r->stats.n_zeros, w->n_weights),
        r->has_entropy, r->stats.entropy_bits);
}

static void print_table(const inspection *in)
{
    static const char others[] = "other weights";
    int width = (int)sizeof others - 1;
    /* As wide as the longest name, so that the columns stand below each
     * other. */
    for (size_t i = 0; i < in->n_rows; i++)
        if (in->rows[i].info.role == QMOE_ROLE_EXPERTS &&
            (int)strlen(in->rows[i].info.name) > width)
            width = (int)strlen(in->rows[i].info.name);
    printf("%-*s  %-16s  %-12s  %8s  %10s  %11s  %8s  %7s\n", width, "weight",
        "shape", "format", "rotation", "size", "bits/weight", "zeros",
        "entropy");
    for (size_t i = 0; i < in->n_rows; i++)
        if (in->rows[i].info.role == QMOE_ROLE_EXPERTS)
            print_expert(&in->rows[i], width);
    for (size_t i = 0; i < in->others.n; i++) {
        const format_share *f = &in->others.items[i];
        char n_others[32];
        snprintf(n_others, sizeof n_others, "%" PRIu64 " tensors", f->n);
        printf("%-*s", width, others);
        print_line(n_others, f->name, "-", f->n_bytes, f->n_weights);
        print_shares(false, 0, false, 0);
    }
}

/* Head, table, sums: the sums are what most users look for, so they come last,
 * where a terminal shows them. */
static void print_text(const char *model, const inspection *in)
{
    const qmoe_model_info *m = &in->info;
    const totals *t = &in->sum;
    uint64_t n_weights = t->expert_weights + t->other_weights;
    uint64_t n_bytes = t->expert_bytes + t->other_bytes;
    cli_clear_progress();
    cli_print_name(stdout, model);
    printf(": %s, ", m->architecture);
    /* An uncompressed model has a format, too. */
    for (size_t i = 0; i < in->formats.n; i++)
        printf("%s%s", i == 0 ? "experts in " : " and ",
            in->formats.items[i].name);
    fputs(in->formats.n == 0 ? "no experts\n" : "\n", stdout);
    printf("%" PRId64 " + %" PRId64 " blocks, %" PRId64 " sparse with %" PRId64
           " experts; d_model %" PRId64 ", d_ff %" PRId64 ", %" PRId64
           " heads of %" PRId64 ", %" PRId64 " tokens\n\n",
        m->n_encoder_blocks, m->n_decoder_blocks, m->n_sparse_blocks,
        m->n_experts, m->d_model, m->d_ff, m->n_heads, m->d_kv, m->vocab_size);
    print_table(in);
    if (t->expert_weights != 0) {
        printf("\nexperts  %" PRIu64 " weights in %s: %.4f bits per weight, "
               "%.2f times smaller than 16 bits",
            t->expert_weights, cli_human_bytes(t->expert_bytes).text,
            bits(t->expert_bytes, t->expert_weights),
            per(2 * (double)t->expert_weights, t->expert_bytes));
        if (t->counted != 0)
            printf(
                ", %.2f %% zeros", 100 * per((double)t->n_zeros, t->counted));
        if (t->has_entropy)
            printf(", entropy %.4f", per(t->entropy_sum, t->counted));
        /* Only a mixture needs a line per format. */
        for (size_t i = 0; in->formats.n > 1 && i < in->formats.n; i++) {
            const format_share *f = &in->formats.items[i];
            printf("\n%9s%s in %" PRIu64 " of %zu stacks: %.4f bits per weight",
                "", f->name, f->n, in->n_stacks,
                bits(f->n_bytes, f->n_weights));
        }
    }
    printf("\nmodel    %" PRIu64 " weights in %s: %.4f bits per weight, "
           "%.2f times smaller than 16 bits\n",
        n_weights, cli_human_bytes(n_bytes).text, bits(n_bytes, n_weights),
        per(2 * (double)n_weights, n_bytes));
}

static cli_exit run(int argc, char **argv)
{
    const char *model;
    bool all = false, none = false, as_json = false;
    const cli_option table[] = {
        {"stats", 0, CLI_SET, &all, 0, 0},
        {"no-stats", 0, CLI_SET, &none, 0, 0},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_exit code;
    cli_session s;
    inspection in = {0};
    if (!cli_parse(&code, &model, "MODEL", &cli_verb_inspect, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    /* Each alone is a wish; both are a mistake in a script. */
    if (all && none)
        return cli_fail(
            CLI_USAGE, "inspect: --stats and --no-stats exclude each other");
    code = cli_open_model(&s, 0, model);
    if (code == CLI_OK)
        code = gather(&s, &in, all, none);
    if (code == CLI_OK && as_json)
        print_json(model, &in);
    else if (code == CLI_OK)
        print_text(model, &in);
    /* The rows hold names of the model, which goes after them. */
    free(in.rows);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_inspect = {
    "inspect", "show formats, sizes and bits per weight", help, run};
