/* SPDX-License-Identifier: Apache-2.0
 * In: the report of a compression and what was measured of the model.  Out: the
 * sections of the page, from the whole to the single matrix.  A report is a
 * file like any other: members that are missing or of another type are left
 * out, and every text is escaped. */
#include "page.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_WORST = 20 };

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1d2433;--mute:#667085;"
    "--line:#e4e7ec;--card:#f7f8fa;--0:#2563eb;--1:#e07b00;--2:#0d9488;"
    "--3:#b4237a;--4:#6d4aff;--5:#7a8a00;--6:#c2410c;--7:#0891b2;--8:#64748b}"
    "@media(prefers-color-scheme:dark){:root{--bg:#12161f;--fg:#e6e9ef;"
    "--mute:#98a2b3;--line:#2a3140;--card:#1a202c;--0:#6ea8fe;--1:#ffb454;"
    "--2:#4fd1c5;--3:#f687b3;--4:#b794f4;--5:#d9e021;--6:#fb923c;--7:#67e8f9;"
    "--8:#94a3b8}}"
    "body{margin:0 auto;max-width:780px;padding:32px 24px 64px;"
    "background:var(--bg);color:var(--fg);"
    "font:15px/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
    "h1{font-size:28px;margin:0 0 4px;overflow-wrap:anywhere}"
    "h2{font-size:18px;margin:40px 0 8px}p{margin:4px 0}"
    ".mute{color:var(--mute)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,"
    "minmax(150px,1fr));gap:12px;margin:20px 0}"
    ".tile{background:var(--card);border:1px solid var(--line);"
    "border-radius:10px;padding:12px 14px}"
    ".tile b{display:block;font-size:22px}.tile span{color:var(--mute);"
    "font-size:13px}"
    "figure{margin:16px 0}figcaption{font-weight:600;margin-bottom:6px}"
    "svg{width:100%;height:auto;display:block}"
    "svg text{fill:var(--mute);font-size:11px}.end{text-anchor:end}"
    ".mid{text-anchor:middle}.grid{stroke:var(--line)}"
    "polyline{fill:none;stroke-width:1.5}"
    ".cell{fill:var(--0)}.none{fill:var(--line)}"
    ".c0{fill:var(--0);background:var(--0)}.s0{stroke:var(--0)}"
    ".c1{fill:var(--1);background:var(--1)}.s1{stroke:var(--1)}"
    ".c2{fill:var(--2);background:var(--2)}.s2{stroke:var(--2)}"
    ".c3{fill:var(--3);background:var(--3)}.s3{stroke:var(--3)}"
    ".c4{fill:var(--4);background:var(--4)}.s4{stroke:var(--4)}"
    ".c5{fill:var(--5);background:var(--5)}.s5{stroke:var(--5)}"
    ".c6{fill:var(--6);background:var(--6)}.s6{stroke:var(--6)}"
    ".c7{fill:var(--7);background:var(--7)}.s7{stroke:var(--7)}"
    ".c8{fill:var(--8);background:var(--8)}.s8{stroke:var(--8)}"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;"
    "margin-top:6px}.legend i{display:inline-block;width:10px;height:10px;"
    "border-radius:3px;margin-right:6px}"
    "table{border-collapse:collapse;width:100%;font-size:13px}"
    "th{text-align:left;color:var(--mute);font-weight:600}"
    "th,td{border-bottom:1px solid var(--line);padding:5px 8px 5px 0;"
    "overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap;"
    "font-variant-numeric:tabular-nums}";

/* ---- tiles ---- */

static void tile(FILE *to, const char *name, const char *value)
{
    fputs("<div class=\"tile\"><b>", to);
    cli_page_text(to, value);
    fputs("</b><span>", to);
    cli_page_text(to, name);
    fputs("</span></div>\n", to);
}

static void tile_number(
    FILE *to, const char *name, const char *format, double value)
{
    char text[64];
    if (!isfinite(value))
        return;
    /* The formats are constants of this file. */
    snprintf(text, sizeof text, format, value);
    tile(to, name, text);
}

static void tiles(FILE *to, const cli_page_data *d)
{
    const cJSON *totals = cJSON_GetObjectItemCaseSensitive(d->report, "totals");
    const cJSON *dense = cJSON_GetObjectItemCaseSensitive(d->report, "dense");
    const cJSON *rest = cJSON_GetObjectItemCaseSensitive(dense, "totals");
    const qmoe_comparison *c = d->comparison;
    uint64_t bytes = 0, weights = 0;
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        bytes += d->bytes[i];
        weights += d->weights[i];
    }
    fputs("<div class=\"tiles\">\n", to);
    tile(to, "all weights", cli_human_bytes(bytes).text);
    tile_number(to, "bits per weight, all weights", "%.3f",
        8 * (double)bytes / (double)weights);
    tile_number(to, "bits per weight, experts", "%.3f",
        cli_page_number(totals, "bits_per_weight"));
    tile_number(to, "bits per weight, other compressed matrices", "%.3f",
        cli_page_number(rest, "bits_per_weight"));
    if (c != NULL) {
        tile_number(to, "nats of loss more than uncompressed", "%+.4f",
            c->other.loss - c->base.loss);
        tile_number(to, "mean KL divergence, nats", "%.4f", c->mean_kl);
        tile_number(to, "of the likeliest tokens agree", "%.1f %%",
            100 * c->top_agreement);
    }
    fputs("</div>\n", to);
}

/* ---- bytes ---- */

static void bytes_by_role(FILE *to, const cli_page_data *d)
{
    cli_part parts[QMOE_ROLE_COUNT];
    char texts[QMOE_ROLE_COUNT][64];
    size_t n = 0;
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        if (d->bytes[i] == 0)
            continue;
        snprintf(texts[n], sizeof texts[n], "%s, %.2f bits per weight",
            cli_human_bytes(d->bytes[i]).text,
            8 * (double)d->bytes[i] / (double)d->weights[i]);
        parts[n] = (cli_part){
            qmoe_role_name((qmoe_role)i), texts[n], (double)d->bytes[i]};
        n++;
    }
    fputs("<h2>Where the bytes are</h2>\n", to);
    cli_page_bar(to, "Bytes of all weights by role", parts, n);
}

/* ---- losses ---- */

static void row3(FILE *to, const char *name, double base, double other)
{
    fprintf(to,
        "<tr><td>%s</td><td class=\"n\">%.6g</td><td class=\"n\">%.6g</td>"
        "<td class=\"n\">%+.6f</td></tr>\n",
        name, base, other, other - base);
}

static void comparison_by_block(FILE *to, const qmoe_comparison *c)
{
    const size_t n = c->n_blocks;
    char(*names)[24] = cli_grow(NULL, n * sizeof *names);
    const char **points = cli_grow(NULL, n * sizeof *points);
    double *agreement = cli_grow(NULL, n * sizeof *agreement);
    double *error = cli_grow(NULL, n * sizeof *error);
    bool has_routers = false;
    for (size_t i = 0; i < n; i++) {
        snprintf(names[i], sizeof names[i], "%zu", i);
        points[i] = names[i];
        agreement[i] = c->blocks[i].router_agreement;
        error[i] = c->blocks[i].residual_error;
        has_routers = has_routers || isfinite(agreement[i]);
    }
    const cli_series errors = {"residual error", error};
    const cli_series routers = {"same experts", agreement};
    cli_page_chart(
        to, &(cli_chart){
                .title = "Relative squared error of what each block hands on",
                .points = points,
                .n_points = n,
                .series = &errors,
                .n_series = 1,
                .is_logarithmic = true});
    if (has_routers)
        cli_page_chart(to,
            &(cli_chart){
                .title = "Share of tokens routed to the same experts, by block",
                .points = points,
                .n_points = n,
                .series = &routers,
                .n_series = 1});
    free(names);
    free(points);
    free(agreement);
    free(error);
}

/* The head comes behind the last depth: if it is compressed, the whole model
 * differs more. */
static void comparison_by_depth(FILE *to, const qmoe_comparison *c)
{
    char names[QMOE_MAX_DEPTHS][24];
    const char *points[QMOE_MAX_DEPTHS];
    double kl[QMOE_MAX_DEPTHS], agreement[QMOE_MAX_DEPTHS];
    for (size_t i = 0; i < c->n_depths; i++) {
        snprintf(names[i], sizeof names[i], "%zu", c->depths[i].block);
        points[i] = names[i];
        kl[i] = c->depths[i].mean_kl;
        agreement[i] = c->depths[i].top_agreement;
    }
    const cli_series divergences = {"KL", kl},
                     agreements = {"top-1", agreement};
    cli_chart chart = {.title = "Mean KL divergence if the blocks up to this "
                                "one are compressed (nats)",
        .points = points,
        .n_points = c->n_depths,
        .series = &divergences,
        .n_series = 1};
    if (c->n_depths == 0)
        return;
    cli_page_chart(to, &chart);
    chart.title = "Share of likeliest tokens that agree, the same way";
    chart.series = &agreements;
    cli_page_chart(to, &chart);
}

static void compared(FILE *to, const cli_page_data *d)
{
    const qmoe_comparison *c = d->comparison;
    fputs("<h2>What the model does differently</h2>\n", to);
    if (c == NULL) {
        fputs("<p class=\"mute\">Not measured. <code>qmoe report</code> with "
              "<code>--against</code> and <code>--text</code> compares the "
              "model with the uncompressed one.</p>\n",
            to);
        return;
    }
    fputs("<p class=\"mute\">", to);
    fprintf(to, "%" PRIu64 " predictions of ", c->other.n_tokens);
    for (size_t i = 0; i < d->texts.n; i++) {
        fputs(i != 0 ? ", " : "", to);
        cli_page_text(to, d->texts.items[i]);
    }
    fputs(", against ", to);
    cli_page_text(to, d->base);
    fputs("</p>\n<table><tr><th></th><th class=\"n\">uncompressed</th>"
          "<th class=\"n\">compressed</th><th class=\"n\">difference</th>"
          "</tr>\n",
        to);
    row3(to, "loss (nats)", c->base.loss, c->other.loss);
    row3(to, "perplexity", c->base.perplexity, c->other.perplexity);
    fprintf(to,
        "</table>\n<p>KL divergence: mean %.4g, median %.4g, 99 %% below "
        "%.4g, largest %.4g nats. The likeliest token is the same in %.2f %% "
        "of the predictions.</p>\n",
        c->mean_kl, c->median_kl, c->kl_99, c->largest_kl,
        100 * c->top_agreement);
    comparison_by_depth(to, c);
    comparison_by_block(to, c);
}

/* ---- matrices ---- */

/* The largest errors, largest first; returns how many. */
static size_t collect_worst(
    const cJSON **worst, size_t n, const cJSON *matrices)
{
    const cJSON *matrix;
    cJSON_ArrayForEach(matrix, matrices)
    {
        const double error = cli_page_error(matrix);
        size_t at = n;
        if (!isfinite(error))
            continue;
        while (at > 0 && error > cli_page_error(worst[at - 1]))
            at--;
        if (at == MOST_WORST)
            continue;
        n += n < MOST_WORST;
        memmove(worst + at + 1, worst + at, (n - at - 1) * sizeof *worst);
        worst[at] = matrix;
    }
    return n;
}

static void cell_number(FILE *to, const char *format, double value)
{
    fputs("<td class=\"n\">", to);
    if (isfinite(value))
        fprintf(to, format, value);
    else
        fputs("–", to);
    fputs("</td>", to);
}

static void matrix_row(FILE *to, const cJSON *matrix)
{
    fputs("<tr><td>", to);
    cli_page_text(to, cli_page_word(matrix, "name"));
    fputs("</td>", to);
    cell_number(to, "%.4g", cli_page_number(matrix, "input_error"));
    cell_number(to, "%.4g", cli_page_number(matrix, "weight_error"));
    cell_number(to, "%.3f", cli_page_number(matrix, "bits_per_weight"));
    cell_number(to, "%.0f", cli_page_number(matrix, "tokens"));
    fputs("<td>", to);
    cli_page_text(to, cli_page_word(matrix, "fallback"));
    fputs("</td></tr>\n", to);
}

static void worst_matrices(FILE *to, const cli_page_data *d)
{
    const cJSON *worst[MOST_WORST], *stack;
    const cJSON *dense = cJSON_GetObjectItemCaseSensitive(d->report, "dense");
    size_t n = collect_worst(worst, 0, cli_page_list(dense, "matrices"));
    cJSON_ArrayForEach(stack, cli_page_list(d->report, "stacks")) n =
        collect_worst(worst, n, cli_page_list(stack, "matrices"));
    if (n == 0)
        return;
    fputs("<h2>The matrices with the largest error</h2>\n<table><tr>"
          "<th>matrix</th><th class=\"n\">output error</th>"
          "<th class=\"n\">weight error</th><th class=\"n\">bits</th>"
          "<th class=\"n\">tokens</th><th>rounded for lack of</th></tr>\n",
        to);
    for (size_t i = 0; i < n; i++)
        matrix_row(to, worst[i]);
    fputs("</table>\n", to);
}

static void dense_matrices(FILE *to, const cli_page_data *d)
{
    const cJSON *dense = cJSON_GetObjectItemCaseSensitive(d->report, "dense");
    const cJSON *matrices = cli_page_list(dense, "matrices"), *matrix;
    const size_t n = cli_page_length(matrices);
    size_t i = 0;
    if (n == 0)
        return;
    char(*names)[24] = cli_grow(NULL, n * sizeof *names);
    const char **points = cli_grow(NULL, n * sizeof *points);
    double *errors = cli_grow(NULL, n * sizeof *errors);
    cJSON_ArrayForEach(matrix, matrices)
    {
        snprintf(names[i], sizeof names[i], "%zu", i);
        points[i] = names[i];
        errors[i++] = cli_page_error(matrix);
    }
    const cli_series series = {"error", errors};
    fputs("<h2>Matrices beside the experts</h2>\n", to);
    cli_page_chart(
        to, &(cli_chart){.title = "Relative error, in the order of the model",
                .points = points,
                .n_points = n,
                .series = &series,
                .n_series = 1,
                .is_logarithmic = true});
    free(names);
    free(points);
    free(errors);
}

/* ---- provenance ---- */

static void fact(FILE *to, const char *key, const cJSON *value)
{
    char *text = cJSON_PrintUnformatted(value);
    fputs("<tr><td>", to);
    cli_page_text(to, key);
    fputs("</td><td>", to);
    cli_page_text(to, cJSON_IsString(value) ? value->valuestring : text);
    fputs("</td></tr>\n", to);
    cJSON_free(text);
}

/* All but the lists of tensors and files, which are as long as the model. */
static void provenance(FILE *to, const cJSON *config)
{
    const cJSON *item;
    if (!cJSON_IsObject(config))
        return;
    fputs("<h2>How it was made</h2>\n<table>\n", to);
    cJSON_ArrayForEach(item, config)
    {
        if (strcmp(item->string, "tensors") == 0 ||
            strcmp(item->string, "files") == 0 || cJSON_IsNull(item))
            continue;
        fact(to, item->string, item);
    }
    fputs("</table>\n", to);
}

/* ---- the page ---- */

void cli_page_write(FILE *to, const cli_page_data *d)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width\">"
          "<title>",
        to);
    cli_page_text(to, d->name);
    fprintf(to,
        " – qmoe report</title>\n<style>%s</style></head>\n<body>\n<h1>",
        style);
    cli_page_text(to, d->name);
    fputs("</h1>\n<p class=\"mute\">compressed by qmoe ", to);
    cli_page_text(to, cli_page_word(d->report, "version"));
    fputs("</p>\n", to);
    tiles(to, d);
    bytes_by_role(to, d);
    compared(to, d);
    cli_page_experts(to, d->report);
    dense_matrices(to, d);
    worst_matrices(to, d);
    provenance(to, d->provenance);
    fputs("</body></html>\n", to);
}
