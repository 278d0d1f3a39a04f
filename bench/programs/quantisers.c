/* SPDX-License-Identifier: Apache-2.0
 * Compares quantisers on single matrices: relative output error on the tokens
 * they saw and on others of the same source, bits, and seconds of one core.
 * In: synthetic or recorded matrices with their inputs' moments.  Out: a table
 * in Markdown for docs/quantisers.md.  An error ends the program: a table with
 * a gap would look like one without.
 *
 *   quantisers cases | passes | rotation | damping | time [ROWSxCOLS]
 *   quantisers TABLE --file FILE [EVERY]     on recorded matrices
 *
 * Numbers other than times do not depend on the machine, up to rounding. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "clock.h"
#include "quantisers_problem.h"

enum { MAX_PROBLEMS = 256 };

typedef struct outcome {
    double calib, held_out, bits, seconds;
} outcome;

typedef struct recipe {
    const char *label;
    const char *format;
    qmi_quant_options options;
} recipe;

static void stop(const char *text)
{
    fprintf(stderr, "quantisers: %s\n", text);
    exit(1);
}

/* Relative error of the encoded matrix on other tokens. */
static double held_out_error(const qmi_bench_problem *p, const qmi_encoded *e,
    const qmi_quant_options *options)
{
    int64_t n = p->n_rows * p->n_cols;
    float *d = malloc((size_t)n * sizeof *d);
    /* The encoded matrix as a stack of one, so that the format's own decoder is
     * what is judged. */
    qmi_weight stack = {.format = e->format,
        .name = p->name,
        .n_mats = 1,
        .n_rows = p->n_rows,
        .n_cols = p->n_cols,
        .rotation = options->rotation,
        .rotation_seed = options->rotation_seed};
    /* Of a variable format: one matrix, whose codes begin at 0. */
    const uint64_t first[2] = {0, 0};
    for (int i = 0; i < e->format->n_parts; i++)
        stack.parts[i] = e->parts[i] != NULL
                             ? (qmi_part){e->parts[i], e->part_bytes[i]}
                             : (qmi_part){first, sizeof first};
    if (d == NULL)
        stop("out of memory");
    qmi_weight_decode(&stack, 0, 0, p->n_rows, d);
    for (int64_t i = 0; i < n; i++)
        d[i] = p->w[i] - d[i];
    double error =
        qmi_quadratic_error(d, p->n_rows, p->n_cols, &p->held_out, NULL);
    free(d);
    /* Relative: |(W - Q) X|^2 over |W X|^2. */
    return error /
           qmi_quadratic_error(p->w, p->n_rows, p->n_cols, &p->held_out, NULL);
}

/* The errors on the tokens that the quantiser saw are its own report; those
 * on other tokens are computed here. */
static outcome try_recipe(const qmi_bench_problem *p, const recipe *r)
{
    const qmi_quantiser *q = qmi_quantiser_find("gptq", r->format);
    qmi_encoded encoded;
    qmi_quant_result result;
    qmi_error err = {0};
    if (q == NULL)
        stop("no such quantiser");
    /* Processor time of this thread: BLAS runs with one. */
    double begin = qmi_thread_seconds();
    if (q->run(&encoded, &result, p->w, p->n_rows, p->n_cols, &p->calib,
            &r->options, &err) != QMOE_OK)
        stop(err.text);
    outcome o = {.calib = result.error / result.energy,
        .seconds = qmi_thread_seconds() - begin};
    for (int i = 0; i < encoded.format->n_parts; i++)
        o.bits += 8.0 * (double)encoded.part_bytes[i] /
                  (double)(p->n_rows * p->n_cols);
    o.held_out = held_out_error(p, &encoded, &r->options);
    qmi_encoded_free(&encoded);
    return o;
}

/* ---- tables ---- */

/* A row per recipe: means over all problems. */
static void print_means(const qmi_bench_problem *problems, int n,
    const recipe *recipes, int n_recipes)
{
    printf("| recipe | bits | error | on other tokens | seconds |\n"
           "|---|---|---|---|---|\n");
    for (int k = 0; k < n_recipes; k++) {
        outcome sum = {0};
        for (int i = 0; i < n; i++) {
            outcome o = try_recipe(&problems[i], &recipes[k]);
            sum.calib += o.calib / n;
            sum.held_out += o.held_out / n;
            sum.bits += o.bits / n;
            /* Seconds are the sum over problems, the others means. */
            sum.seconds += o.seconds;
        }
        printf("| %s | %.4f | %.5f | %.5f | %.2f |\n", recipes[k].label,
            sum.bits, sum.calib, sum.held_out, sum.seconds);
        fflush(stdout);
    }
}

/* A row per problem, a column per recipe. */
static void print_cases(const qmi_bench_problem *problems, int n,
    const recipe *recipes, int n_recipes)
{
    printf("| matrix |");
    for (int k = 0; k < n_recipes; k++)
        printf(" %s |", recipes[k].label);
    printf("\n|---|");
    for (int k = 0; k < n_recipes; k++)
        printf("---|");
    for (int i = 0; i < n; i++) {
        printf("\n| %s |", problems[i].name);
        for (int k = 0; k < n_recipes; k++) {
            outcome o = try_recipe(&problems[i], &recipes[k]);
            printf(" %.3f (%.3f) |", o.calib, o.held_out);
            fflush(stdout);
        }
    }
    printf("\n");
}

typedef struct recipe_list {
    int n;
    recipe list[64];
    char labels[64][64];
} recipe_list;

static void add(recipe_list *l, const char *format, double damping,
    int rotation, int passes)
{
    char *label = l->labels[l->n];
    const bool rotates = qmi_format_find(format)->rotates;
    int n = snprintf(label, sizeof l->labels[0], "%s", format);
    if (rotates)
        n += snprintf(label + n, sizeof l->labels[0] - (size_t)n,
            ", rotation %d, %d passes", rotation, passes);
    /* Only what differs from the default stands in the label. */
    if (damping != 0.1)
        snprintf(label + n, sizeof l->labels[0] - (size_t)n, ", damping %g",
            damping);
    l->list[l->n++] = (recipe){label, format,
        {.damping = damping,
            .rotation = rotates ? rotation : 0,
            .rotation_seed = 1,
            .passes = passes}};
}

static void add_table(recipe_list *l, const char *table)
{
    static const char *const formats[] = {"pvq", "pvq8"};
    static const int passes[] = {0, 1, 2, 4, 8, 16, 32, 64};
    enum { N_PASSES = sizeof passes / sizeof *passes };
    static const int rotations[] = {0, 16, 32, 64, 128, 256};
    static const double dampings[] = {0.01, 0.03, 0.1, 0.3};
    /* The paper's format is the yardstick of every table. */
    add(l, "ternary-dict", 0.1, 0, 0);
    if (strcmp(table, "cases") == 0) {
        add(l, "pvq", 0.1, 0, 4);
        add(l, "pvq", 0.1, 64, 4);
        add(l, "pvq", 0.1, 64, 16);
        add(l, "pvq8", 0.1, 64, 16);
    }
    for (int f = 0; f < 2; f++) {
        if (strcmp(table, "passes") == 0)
            for (int i = 0; i < N_PASSES; i++)
                add(l, formats[f], 0.1, 64, passes[i]);
        if (strcmp(table, "rotation") == 0)
            for (int i = 0; i < 6; i++)
                add(l, formats[f], 0.1, rotations[i], 16);
        if (strcmp(table, "damping") == 0)
            for (int i = 0; i < 4; i++)
                add(l, formats[f], dampings[i], 64, 16);
        if (strcmp(table, "time") == 0)
            for (int i = 0; i < N_PASSES; i += 5)
                add(l, formats[f], 0.1, 64, passes[i]);
    }
    /* No table of that name: nothing but the yardstick was added. */
    if (l->n == 1)
        stop("tables: cases passes rotation damping time");
}

/* Every `every`-th expert of the file, so that a long recording can be
 * sampled. */
static int load(qmi_bench_problem *problems, const char *path, int every)
{
    FILE *file = fopen(path, "rb");
    int n = 0;
    qmi_bench_problem p;
    if (file == NULL)
        stop("cannot open the file");
    for (int i = 0; n < MAX_PROBLEMS && qmi_bench_problem_read(&p, file); i++) {
        /* Records come in pairs, wi and wo of an expert. */
        if (i / 2 % every == 0)
            problems[n++] = p;
        else
            qmi_bench_problem_free(&p);
    }
    fclose(file);
    return n;
}

static int make_all(qmi_bench_problem *problems, int64_t n_rows, int64_t n_cols)
{
    int n = 0;
    for (int w = 0; w < QMI_BENCH_N_WEIGHTS; w++)
        /* Every kind of weights with every kind of inputs, each with a seed of
         * its own. */
        for (int x = 0; x < QMI_BENCH_N_INPUTS; x++, n++)
            qmi_bench_problem_make(
                &problems[n], w, x, n_rows, n_cols, (uint32_t)n);
    return n;
}

int main(int argc, char **argv)
{
    static qmi_bench_problem problems[MAX_PROBLEMS];
    static recipe_list recipes;
    long long rows = 64, cols = 512;
    int n = 0;
    if (argc < 2)
        stop("usage: quantisers TABLE [ROWSxCOLS | --file FILE [EVERY]]");
    if (qmi_blas_load(1, NULL) != QMOE_OK)
        /* Without it there is no GPTQ. */
        stop("no OpenBLAS");
    add_table(&recipes, argv[1]);
    if (argc > 3 && strcmp(argv[2], "--file") == 0)
        n = load(problems, argv[3], argc > 4 ? atoi(argv[4]) : 1);
    else if (argc > 2 && sscanf(argv[2], "%lldx%lld", &rows, &cols) != 2)
        stop("not ROWSxCOLS");
    else if (strcmp(argv[1], "time") == 0)
        qmi_bench_problem_make(&problems[n++], QMI_BENCH_GAUSS,
            QMI_BENCH_CORRELATED, rows, cols, 1);
    else
        n = make_all(problems, rows, cols);
    if (strcmp(argv[1], "cases") == 0)
        print_cases(problems, n, recipes.list, recipes.n);
    else
        print_means(problems, n, recipes.list, recipes.n);
    for (int i = 0; i < n; i++)
        qmi_bench_problem_free(&problems[i]);
    return 0;
}
