/* SPDX-License-Identifier: Apache-2.0
 * Synthetic matrices: heavy or light tails, even or uneven columns, inputs that
 * are independent, correlated and uneven, few, or cut off by a relu.  In:
 * families and a seed.  Out: weights, and the second moments of two independent
 * samples of inputs: one to calibrate on, one to judge by.  The same seed gives
 * the same problem on every machine, up to rounding. */
#include "quantisers_problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "alloc.h"
#include "blas.h"
#include "mt19937.h"

const char *const qmi_bench_weight_names[] = {
    "gauss", "student t4", "laplace", "gauss, uneven columns"};
const char *const qmi_bench_input_names[] = {
    "iid", "correlated, uneven", "200 tokens", "relu"};

enum { FEW_TOKENS = 200, MAX_TOKENS = 4096 };

/* A program and no library: without memory it ends. */
static void *reserve(int64_t count, size_t size)
{
    void *block = qmi_calloc((size_t)count, size, "a problem", NULL);
    if (block == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return block;
}

/* ---- random numbers ---- */

/* Never 0, whose logarithm is infinite. */
static double uniform(qmi_mt19937 *rng)
{
    return qmi_mt19937_double(rng) + 0x1p-54;
}

/* Box-Muller; the second number is not used, so each costs two uniform ones. */
static double gauss(qmi_mt19937 *rng)
{
    double r = sqrt(-2 * log(uniform(rng)));
    return r * cos(2 * acos(-1.0) * uniform(rng));
}

static double draw_weight(qmi_mt19937 *rng, int family)
{
    double g = gauss(rng);
    /* A normal number over the root of chi squared / 4: heavy tails. */
    if (family == QMI_BENCH_STUDENT) {
        double sum = 0;
        for (int i = 0; i < 4; i++) {
            double x = gauss(rng);
            sum += x * x;
        }
        return g / sqrt(sum / 4);
    }
    if (family == QMI_BENCH_LAPLACE)
        return copysign(log(uniform(rng)), g);
    return g;
}

/* ---- weights and inputs ---- */

static void make_weights(qmi_bench_problem *p, int family, qmi_mt19937 *rng)
{
    double *spread = reserve(p->n_cols, sizeof *spread);
    for (int64_t c = 0; c < p->n_cols; c++)
        /* Columns differ by factors of e^N(0, 1). */
        spread[c] = family == QMI_BENCH_UNEVEN ? exp(gauss(rng)) : 1;
    for (int64_t r = 0; r < p->n_rows; r++)
        for (int64_t c = 0; c < p->n_cols; c++)
            p->w[r * p->n_cols + c] =
                (float)(spread[c] * draw_weight(rng, family));
    qmi_free(spread);
}

/* Inputs are x = spread * (F z + e / 2) with n_cols / 8 factors z. */
typedef struct source {
    int64_t n_cols, n_factors;
    int family;
    double *factors; /* F^T [n_factors, n_cols] */
    double *spread;  /* [n_cols] */
} source;

static void source_init(source *s, int64_t n_cols, int family, qmi_mt19937 *rng)
{
    *s = (source){
        .n_cols = n_cols, .n_factors = n_cols / 8 + 1, .family = family};
    s->factors = reserve(s->n_factors * n_cols, sizeof(double));
    s->spread = reserve(n_cols, sizeof(double));
    for (int64_t i = 0; i < s->n_factors * n_cols; i++)
        /* Variance 1 for a column of F z, whatever the number of factors. */
        s->factors[i] = gauss(rng) / sqrt((double)s->n_factors);
    for (int64_t c = 0; c < n_cols; c++)
        s->spread[c] = exp(0.75 * gauss(rng));
}

static void draw_tokens(
    const source *s, double *x, int64_t n_tokens, qmi_mt19937 *rng)
{
    const int64_t n = s->n_cols;
    const bool iid = s->family == QMI_BENCH_IID;
    double *z = reserve(n_tokens * s->n_factors, sizeof *z);
    /* Independent noise on every column, so that the moments have full rank by
     * design. */
    for (int64_t i = 0; i < n_tokens * n; i++)
        x[i] = iid ? gauss(rng) : 0.5 * gauss(rng);
    for (int64_t i = 0; i < n_tokens * s->n_factors; i++)
        z[i] = gauss(rng);
    if (!iid)
        qmi_blas.dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n_tokens,
            (int)n, (int)s->n_factors, 1.0, z, (int)s->n_factors, s->factors,
            (int)n, 1.0, x, (int)n);
    for (int64_t i = 0; !iid && i < n_tokens * n; i++) {
        x[i] *= s->spread[i % n];
        if (s->family == QMI_BENCH_RELU && x[i] < 0)
            x[i] = 0;
    }
    qmi_free(z);
}

/* The inputs themselves are not kept: a quantiser sees their moments alone. */
static void make_moments(
    qmi_hessian *h, const source *s, int64_t n_tokens, qmi_mt19937 *rng)
{
    const int n = (int)s->n_cols;
    double *x = reserve(n_tokens * n, sizeof *x);
    *h = (qmi_hessian){.n_cols = n, .n_tokens = n_tokens};
    h->sum = reserve((int64_t)n * n, sizeof *h->sum);
    draw_tokens(s, x, n_tokens, rng);
    /* X^T X, the sum over tokens that GPTQ takes. */
    qmi_blas.dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, n, (int)n_tokens,
        1.0, x, n, x, n, 0.0, h->sum, n);
    qmi_free(x);
}

void qmi_bench_problem_make(qmi_bench_problem *out, int weights, int inputs,
    int64_t n_rows, int64_t n_cols, uint32_t seed)
{
    qmi_mt19937 rng;
    source s;
    qmi_mt19937_seed(&rng, seed);
    *out = (qmi_bench_problem){.n_rows = n_rows, .n_cols = n_cols};
    snprintf(out->name, sizeof out->name, "%s / %s",
        qmi_bench_weight_names[weights], qmi_bench_input_names[inputs]);
    out->w = reserve(n_rows * n_cols, sizeof *out->w);
    make_weights(out, weights, &rng);
    source_init(&s, n_cols, inputs, &rng);
    /* Four tokens per column, but no more than time allows. */
    int64_t n_tokens = 4 * n_cols < MAX_TOKENS ? 4 * n_cols : MAX_TOKENS;
    /* Fewer tokens than columns: the case of an expert that few tokens
     * reach. */
    make_moments(
        &out->calib, &s, inputs == QMI_BENCH_FEW ? FEW_TOKENS : n_tokens, &rng);
    make_moments(&out->held_out, &s, n_tokens, &rng);
    qmi_free(s.factors);
    qmi_free(s.spread);
}

/* ---- recorded problems ---- */

static bool read_moments(qmi_hessian *h, int n_cols, int n_tokens, FILE *file)
{
    size_t n = (size_t)n_cols * (size_t)n_cols;
    *h = (qmi_hessian){.n_cols = n_cols, .n_tokens = n_tokens};
    h->sum = reserve((int64_t)n, sizeof *h->sum);
    return fread(h->sum, sizeof *h->sum, n, file) == n;
}

bool qmi_bench_problem_read(qmi_bench_problem *out, void *file)
{
    int32_t head[4];
    *out = (qmi_bench_problem){0};
    /* The end of the file, or a record cut short. */
    if (fread(head, sizeof *head, 4, file) != 4)
        return false;
    out->n_rows = head[0];
    out->n_cols = head[1];
    size_t n = (size_t)(out->n_rows * out->n_cols);
    out->w = reserve((int64_t)n, sizeof *out->w);
    snprintf(
        out->name, sizeof out->name, "%d x %d", (int)head[0], (int)head[1]);
    /* Row by row, then both moments, as the recorder writes them. */
    return fread(out->w, sizeof *out->w, n, file) == n &&
           read_moments(&out->calib, head[1], head[2], file) &&
           read_moments(&out->held_out, head[1], head[3], file);
}

void qmi_bench_problem_free(qmi_bench_problem *problem)
{
    qmi_free(problem->w);
    qmi_free(problem->calib.sum);
    qmi_free(problem->held_out.sum);
    *problem = (qmi_bench_problem){0};
}
