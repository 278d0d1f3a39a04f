/* SPDX-License-Identifier: Apache-2.0
 * In: the report of a compression.  Out: its members as numbers, words and
 * lists, and the section about the experts by depth.  A report is a file like
 * any other: members that are missing or of another type read as nothing. */
#include "page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KINDS = 8, MOST_CELLS = 128 };

/* ---- members of the report ---- */

double cli_page_number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
}

/* "" where there is none. */
const char *cli_page_word(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

/* Of the outputs; of the weights where no calibration measured those. */
double cli_page_error(const cJSON *matrix)
{
    const double error = cli_page_number(matrix, "input_error");
    return isfinite(error) ? error : cli_page_number(matrix, "weight_error");
}

const cJSON *cli_page_list(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsArray(item) ? item : NULL;
}

size_t cli_page_length(const cJSON *array)
{
    return array != NULL ? (size_t)cJSON_GetArraySize(array) : 0;
}

/* ---- stacks by depth ---- */

/* Stacks of a block share all of their name but its last part. */
typedef struct depth {
    const char *prefix;
    size_t n_prefix;
    char label[16];
} depth;

typedef struct depths {
    depth *items; /* in the order of the model */
    size_t n;
    const char *kinds[MOST_KINDS];
    size_t n_kinds;
    double *bits, *error; /* [n_kinds, n] */
    const cJSON **stacks; /* [n], one of the block */
} depths;

static const char *kind_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot != NULL ? dot + 1 : name;
}

/* "decoder.block.3.layer..." is d3, "model.layers.3.mlp..." is 3. */
static void label_depth(depth *d, const char *name)
{
    const char *digit = strpbrk(name, "0123456789");
    char side = '\0';
    if (strncmp(name, "encoder", 7) == 0 || strncmp(name, "decoder", 7) == 0)
        side = name[0];
    d->label[0] = side;
    snprintf(d->label + (side != '\0'), sizeof d->label - 1, "%d",
        digit != NULL ? atoi(digit) : 0);
}

static size_t find_depth(depths *d, const char *name)
{
    const size_t n_prefix = (size_t)(kind_of(name) - name);
    for (size_t i = 0; i < d->n; i++)
        if (d->items[i].n_prefix == n_prefix &&
            strncmp(d->items[i].prefix, name, n_prefix) == 0)
            return i;
    d->items[d->n] = (depth){.prefix = name, .n_prefix = n_prefix};
    label_depth(&d->items[d->n], name);
    return d->n++;
}

/* MOST_KINDS: there are more than can be drawn. */
static size_t find_kind(depths *d, const char *name)
{
    const char *kind = kind_of(name);
    for (size_t i = 0; i < d->n_kinds; i++)
        if (strcmp(d->kinds[i], kind) == 0)
            return i;
    if (d->n_kinds == MOST_KINDS)
        return MOST_KINDS;
    d->kinds[d->n_kinds] = kind;
    return d->n_kinds++;
}

static void read_depths(depths *d, const cJSON *stacks)
{
    const size_t most = cli_page_length(stacks);
    const cJSON *stack;
    *d = (depths){
        .items = cli_grow(NULL, most * sizeof *d->items),
        .bits = cli_grow(NULL, MOST_KINDS * most * sizeof *d->bits),
        .error = cli_grow(NULL, MOST_KINDS * most * sizeof *d->error),
        .stacks = cli_grow(NULL, most * sizeof *d->stacks),
    };
    for (size_t i = 0; i < MOST_KINDS * most; i++)
        d->bits[i] = d->error[i] = (double)NAN;
    cJSON_ArrayForEach(stack, stacks)
    {
        const char *name = cli_page_word(stack, "name");
        const cJSON *totals = cJSON_GetObjectItemCaseSensitive(stack, "totals");
        const size_t at = find_depth(d, name), kind = find_kind(d, name);
        d->stacks[at] = stack;
        if (kind == MOST_KINDS)
            continue;
        d->bits[kind * most + at] = cli_page_number(totals, "bits_per_weight");
        d->error[kind * most + at] = cli_page_error(totals);
    }
}

static void free_depths(depths *d)
{
    free(d->items);
    free(d->bits);
    free(d->error);
    free(d->stacks);
}

static void chart_depths(FILE *to, const depths *d, size_t stride,
    const double *values, const char *title, bool is_logarithmic)
{
    cli_series series[MOST_KINDS];
    const char **points = cli_grow(NULL, d->n * sizeof *points);
    for (size_t i = 0; i < d->n; i++)
        points[i] = d->items[i].label;
    for (size_t i = 0; i < d->n_kinds; i++)
        series[i] = (cli_series){d->kinds[i], values + i * stride};
    cli_page_chart(to, &(cli_chart){.title = title,
                           .points = points,
                           .n_points = d->n,
                           .series = series,
                           .n_series = d->n_kinds,
                           .is_logarithmic = is_logarithmic});
    free(points);
}

/* Neighbours share a cell when there are more experts than cells. */
static void token_map(FILE *to, const depths *d)
{
    size_t n_experts = 0;
    for (size_t i = 0; i < d->n; i++) {
        const size_t n =
            cli_page_length(cli_page_list(d->stacks[i], "matrices"));
        n_experts = n > n_experts ? n : n_experts;
    }
    const size_t share = (n_experts + MOST_CELLS - 1) / MOST_CELLS;
    const size_t n_columns = share != 0 ? (n_experts + share - 1) / share : 0;
    double *values = cli_grow(NULL, d->n * n_columns * sizeof *values);
    const char **rows = cli_grow(NULL, d->n * sizeof *rows);
    bool has_tokens = false;
    for (size_t i = 0; i < d->n; i++) {
        const cJSON *matrix;
        size_t k = 0;
        rows[i] = d->items[i].label;
        for (size_t c = 0; c < n_columns; c++)
            values[i * n_columns + c] = (double)NAN;
        cJSON_ArrayForEach(matrix, cli_page_list(d->stacks[i], "matrices"))
        {
            const double tokens = cli_page_number(matrix, "tokens");
            double *cell = &values[i * n_columns + k++ / share];
            if (isfinite(tokens))
                *cell = (isfinite(*cell) ? *cell : 0) + tokens;
            has_tokens = has_tokens || isfinite(tokens);
        }
    }
    if (has_tokens)
        cli_page_map(to,
            &(cli_map){
                .title =
                    share > 1
                        ? "Calibration tokens per group of experts, by block"
                        : "Calibration tokens per expert, by block",
                .rows = rows,
                .n_rows = d->n,
                .n_columns = n_columns,
                .values = values});
    free(values);
    free(rows);
}

void cli_page_experts(FILE *to, const cJSON *report)
{
    const cJSON *stacks = cli_page_list(report, "stacks");
    const cJSON *totals = cJSON_GetObjectItemCaseSensitive(report, "totals");
    depths blocks;
    if (cli_page_length(stacks) == 0)
        return;
    read_depths(&blocks, stacks);
    fputs("<h2>Experts by depth</h2>\n", to);
    chart_depths(to, &blocks, cli_page_length(stacks), blocks.bits,
        "Bits per weight", false);
    chart_depths(to, &blocks, cli_page_length(stacks), blocks.error,
        isfinite(cli_page_number(totals, "input_error"))
            ? "Relative error of the outputs for the calibration inputs"
            : "Relative error of the weights (no calibration)",
        true);
    token_map(to, &blocks);
    free_depths(&blocks);
}
