/* SPDX-License-Identifier: Apache-2.0
 * Fitted ternary levels.
 *
 * What is minimised is tr(D A D^T) + price * (number of non-zero codes): the
 * threshold between zero and a level follows from the price (ternary_grid.h),
 * divided in each column by what an error there costs.  One price for the
 * whole matrix spends the non-zero weights where they reduce the error most;
 * it is searched on a sample of the rows so that the share of zeros comes out
 * as wanted.
 *
 * Codes and levels are found in turn: walk over the columns, levels by least
 * squares given the codes, again; then coordinate descent, in which every code
 * is chosen anew given all others, the levels refitted after each pass. */
#include "ternary_fit.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "portions.h"
#include "ternary_dict.h"
#include "ternary_grid.h"
#include "ternary_levels.h"

/* Sweeps before descent, rows that the price is searched on (128, or an eighth
 * of more), trials of a price at most. */
enum { N_SWEEPS = 2, SAMPLE_ROWS = 128, SAMPLE_SHARE = 8, MAX_TRIALS = 8 };
/* Levels start from the mean of what lies beyond this many standard
 * deviations: the best threshold at 0.6 bit for Gaussian weights. */
static const double start_threshold = 1.65;
/* Where the search for a price starts, and d(zeros) / d(log price) there for
 * Gaussian weights at 87 % zeros. */
static const double start_price = 1.7, start_slope = 0.15;
static const double zeros_tolerance = 0.003;

/* Some rows of a matrix on their way. */
typedef struct rows {
    const qmi_ternary_fit *fit;
    int64_t n_rows;
    const float *w; /* [n_rows, n_cols] */
    float *work;    /* [n_rows, n_cols] */
    float *product; /* [n_rows, n_cols] W A; NULL when A = I */
    uint8_t *codes; /* [n_rows, n_cols] */
    qmi_ternary_grid grid;
    double unit;      /* mean(w^2) of the whole matrix */
    float *prices;    /* [2, n_cols] of the walk, of descent */
    double *diagonal; /* [n_cols] A_kk; NULL when A = I */
} rows;

/* ---- levels ---- */

/* Levels under the moments if there are any; `weighted` false: under A = I, for
 * sweeps without feedback. */
static qmoe_status refit(rows *s, bool weighted, qmi_error *err)
{
    const bool known = weighted && s->product != NULL;
    const qmi_ternary_levels fit = {
        .n_rows = s->n_rows,
        .n_cols = s->fit->n_cols,
        .codes = s->codes,
        .target = known ? s->product : s->w,
        .descent = known ? s->fit->descent : NULL,
        .unit = s->unit,
    };
    return qmi_ternary_levels_fit(&s->grid, &fit, err);
}

static float store(double level)
{
    float pair[2];
    qmi_bf16_neighbours(pair, level);
    return pair[0];
}

static void start_levels(rows *s)
{
    const int64_t n_cols = s->fit->n_cols;
    for (int64_t row = 0; row < s->n_rows; row++) {
        const float *w = s->w + row * n_cols;
        double square = 0, low = 0, high = 0;
        int64_t n_low = 0, n_high = 0;
        /* Mean square of the row: its mean is not taken off. */
        for (int64_t c = 0; c < n_cols; c++)
            square += (double)w[c] * (double)w[c];
        const double sigma = sqrt(square / (double)n_cols);
        const double limit = start_threshold * sigma;
        for (int64_t c = 0; c < n_cols; c++) {
            const double x = (double)w[c];
            low += x < -limit ? x : 0;
            high += x > limit ? x : 0;
            n_low += x < -limit;
            n_high += x > limit;
        }
        /* No weight beyond the limit: two standard deviations stand in. */
        low = n_low != 0 ? low / (double)n_low : -2 * sigma;
        high = n_high != 0 ? high / (double)n_high : 2 * sigma;
        qmi_ternary_grid_set(&s->grid, row, store(low), store(high), s->unit);
    }
}

/* ---- codes ---- */

static qmoe_status walk(
    rows *s, const qmi_gptq *gptq, const float *prices, qmi_error *err)
{
    qmi_sweep sweep = {
        .n_rows = s->n_rows,
        .n_cols = s->fit->n_cols,
        .w = s->w,
        .work = s->work,
        .codes = s->codes,
        .gptq = gptq,
        .choose = qmi_ternary_choose,
        .user = &s->grid,
    };
    s->grid.price = prices;
    return qmi_sweep_run(&sweep, err);
}

static qmoe_status walk_forward(rows *s, qmi_error *err)
{
    const size_t count = (size_t)s->n_rows * (size_t)s->fit->n_cols;
    memcpy(s->work, s->w, count * sizeof *s->work);
    return walk(s, s->fit->gptq, s->prices, err);
}

/* dst = sign * Q + (base or 0) */
static void add_chosen(float *dst, const rows *s, const float *base, float sign)
{
    const int64_t n_cols = s->fit->n_cols;
    for (int64_t row = 0; row < s->n_rows; row++) {
        const float values[3] = {
            0, sign * s->grid.low[row], sign * s->grid.high[row]};
        const int64_t at = row * n_cols;
        for (int64_t c = 0; c < n_cols; c++)
            dst[at + c] = base[at + c] + values[s->codes[at + c]];
    }
}

/* The best value of each column given all others: Q + D (I + L) first, then the
 * walk replaces column by column. */
static qmoe_status descend(rows *s, qmi_error *err)
{
    add_chosen(s->work, s, s->w, -1);
    QMI_TRY(qmi_sweep_look_ahead(s->work, s->n_rows, s->fit->descent, err));
    add_chosen(s->work, s, s->work, 1);
    return walk(s, s->fit->descent, s->prices + s->fit->n_cols, err);
}

/* `price` is relative to what an error of the size of the weights costs in the
 * walk. */
static void set_prices(rows *s, double price)
{
    const qmi_gptq *gptq = s->fit->gptq;
    const int64_t n = s->fit->n_cols;
    double mean = 0;
    for (int64_t c = 0; gptq != NULL && c < n; c++)
        mean += (double)gptq->metric[c] * (double)gptq->metric[c] / (double)n;
    for (int64_t c = 0; c < n; c++) {
        s->prices[c] = s->prices[n + c] = (float)price;
        if (gptq == NULL)
            continue;
        const double v = (double)gptq->metric[c];
        s->prices[c] = (float)(price * mean / (v * v));
        s->prices[n + c] = (float)(price * mean / s->diagonal[c]);
    }
}

/* The whole search at one price. */
static qmoe_status search(rows *s, double price, int passes, qmi_error *err)
{
    const qmi_ternary_fit *fit = s->fit;
    set_prices(s, price);
    start_levels(s);
    for (int i = 0; i < N_SWEEPS; i++) {
        QMI_TRY(walk_forward(s, err));
        QMI_TRY(refit(s, fit->gptq != NULL, err));
    }
    /* Without feedback there is no descent: the levels are fitted once more,
     * under the moments if there are any. */
    if (fit->gptq == NULL)
        QMI_TRY(refit(s, true, err));
    for (int i = 0; fit->gptq != NULL && i < passes; i++) {
        QMI_TRY(descend(s, err));
        QMI_TRY(refit(s, true, err));
    }
    return QMOE_OK;
}

/* ---- memory ---- */

static void rows_release(rows *s)
{
    qmi_ternary_grid_release(&s->grid);
    qmi_free(s->product);
    qmi_free(s->prices);
    qmi_free(s->diagonal);
}

/* product = W A */
static qmoe_status multiply(rows *s, qmi_error *err)
{
    const qmi_gptq *a = s->fit->descent;
    const int n = (int)s->fit->n_cols;
    s->diagonal =
        qmi_calloc((size_t)n, sizeof *s->diagonal, "a Hessian's diagonal", err);
    s->product = qmi_calloc((size_t)s->n_rows * (size_t)n, sizeof *s->product,
        "a matrix times its Hessian", err);
    if (s->diagonal == NULL || s->product == NULL)
        return QMOE_E_NOMEM;
    for (int c = 0; c < n; c++)
        s->diagonal[c] = (double)a->metric[c] * (double)a->metric[c];
    QMI_TRY(qmi_multiply(s->product, n, (qmi_rows){s->w, n},
        (qmi_rows){a->feedback, n}, s->n_rows, n, n, 0, err));
    /* F holds A_jk / A_kk: times the diagonal it is A again. */
    for (int64_t row = 0; row < s->n_rows; row++)
        for (int64_t c = 0; c < n; c++)
            s->product[row * n + c] *= (float)s->diagonal[c];
    return QMOE_OK;
}

/* `s` comes with fit, n_rows, w, work, codes and unit. */
static qmoe_status rows_prepare(rows *s, qmi_error *err)
{
    const size_t n = (size_t)s->fit->n_cols;
    s->prices = qmi_calloc(2 * n, sizeof *s->prices, "prices of columns", err);
    if (s->prices == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(qmi_ternary_grid_create(&s->grid, s->n_rows, err));
    return s->fit->descent != NULL ? multiply(s, err) : QMOE_OK;
}

/* ---- the price ---- */

static double zeros_of(const rows *s)
{
    const int64_t n = s->n_rows * s->fit->n_cols;
    int64_t zeros = 0;
    for (int64_t i = 0; i < n; i++)
        zeros += s->codes[i] == QMI_CODE_ZERO;
    return (double)zeros / (double)n;
}

/* A trial of the search: zeros grow with the price. */
typedef struct trial {
    double price, zeros; /* log price */
} trial;

/* Where the line through a and b meets the aim. */
static double meet(const trial *a, const trial *b, double aim)
{
    /* Linear between trials: zeros are nearly linear in the log of the
     * price. */
    const double slope = (b->zeros - a->zeros) / (b->price - a->price);
    return b->price + (aim - b->zeros) / slope;
}

static double clamp(double x, double low, double high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* The next log price after trials t[n], n > 0: between the nearest ones below
 * and above the aim, kept off both; as long as all are on one side, a bounded
 * step a little beyond where the last two point. */
static double next_price(const trial *t, int n, double aim)
{
    const trial *few = NULL, *many = NULL, *last = &t[n - 1];
    for (int i = 0; i < n; i++) {
        if (t[i].zeros < aim && (few == NULL || t[i].price > few->price))
            few = &t[i];
        if (t[i].zeros >= aim && (many == NULL || t[i].price < many->price))
            many = &t[i];
    }
    /* A tenth of the width off both ends: trials cannot creep up on one of
     * them. */
    if (few != NULL && many != NULL) {
        const double width = many->price - few->price;
        return clamp(meet(few, many, aim), few->price + 0.1 * width,
            many->price - 0.1 * width);
    }
    double step = (aim - last->zeros) / start_slope;
    if (n > 1 && last->zeros != t[n - 2].zeros)
        step = meet(&t[n - 2], last, aim) - last->price;
    /* Too few zeros want a higher price. */
    const double direction = few != NULL ? 1 : -1;
    return last->price + direction * clamp(1.2 * fabs(step), 0.02, 2);
}

static qmoe_status find_price(double *price, rows *s, qmi_error *err)
{
    const double aim = s->fit->zeros;
    /* Further passes hardly change the number of zeros. */
    const int passes = s->fit->passes < 1 ? s->fit->passes : 1;
    trial trials[MAX_TRIALS];
    double nearest = 2;
    /* The nearest trial wins, not the last one. */
    for (int i = 0; i < MAX_TRIALS && nearest > zeros_tolerance; i++) {
        trial *t = &trials[i];
        t->price = i == 0 ? log(start_price) : next_price(trials, i, aim);
        QMI_TRY(search(s, exp(t->price), passes, err));
        t->zeros = zeros_of(s);
        if (fabs(t->zeros - aim) < nearest) {
            nearest = fabs(t->zeros - aim);
            *price = exp(t->price);
        }
    }
    return QMOE_OK;
}

/* Evenly spaced rows; all of a small matrix.  The choice is fixed, so the price
 * does not depend on chance. */
static int64_t sample_size(int64_t n_rows)
{
    int64_t share = n_rows / SAMPLE_SHARE;
    int64_t n = share > SAMPLE_ROWS ? share : SAMPLE_ROWS;
    return n < n_rows ? n : n_rows;
}

static qmoe_status search_sample(
    double *price, float *w, rows *s, qmi_error *err)
{
    const qmi_ternary_fit *fit = s->fit;
    const size_t n_cols = (size_t)fit->n_cols;
    /* Copied together: the search works on contiguous rows. */
    for (int64_t i = 0; i < s->n_rows; i++)
        memcpy(w + (size_t)i * n_cols,
            fit->w + (size_t)(i * fit->n_rows / s->n_rows) * n_cols,
            n_cols * sizeof *w);
    s->w = w;
    QMI_TRY(rows_prepare(s, err));
    return find_price(price, s, err);
}

/* codes and work are the caller's, large enough for all rows, and are written
 * again later. */
static qmoe_status sample_price(double *price, uint8_t *codes, float *work,
    const qmi_ternary_fit *fit, double unit, qmi_error *err)
{
    rows s = {
        .fit = fit,
        .n_rows = sample_size(fit->n_rows),
        .work = work,
        .codes = codes,
        .unit = unit,
    };
    float *w = qmi_calloc(
        (size_t)s.n_rows * (size_t)fit->n_cols, sizeof *w, "sampled rows", err);
    if (w == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = search_sample(price, w, &s, err);
    rows_release(&s);
    qmi_free(w);
    return status;
}

/* ---- all rows ---- */

/* Equal values must have equal codes, and a level nobody uses says nothing. */
static void store_levels(uint16_t *levels, const rows *s)
{
    const int64_t n_cols = s->fit->n_cols;
    for (int64_t row = 0; row < s->n_rows; row++) {
        bool used[3] = {false};
        for (int64_t c = 0; c < n_cols; c++)
            used[s->codes[row * n_cols + c]] = true;
        levels[2 * row] =
            used[QMI_CODE_LOW] ? qmi_f32_to_bf16(s->grid.low[row]) : 0;
        levels[2 * row + 1] =
            used[QMI_CODE_HIGH] ? qmi_f32_to_bf16(s->grid.high[row]) : 0;
    }
}

static double mean_square(const float *w, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)w[i] * (double)w[i];
    return sum / (double)n;
}

qmoe_status qmi_ternary_fit_run(uint8_t *codes, uint16_t *levels, float *work,
    const qmi_ternary_fit *fit, qmi_error *err)
{
    double price = start_price;
    rows s = {
        .fit = fit,
        .n_rows = fit->n_rows,
        .w = fit->w,
        .work = work,
        .codes = codes,
        .unit = mean_square(fit->w, fit->n_rows * fit->n_cols),
    };
    /* The price first, on a sample; then one search over all rows with it. */
    QMI_TRY(sample_price(&price, codes, work, fit, s.unit, err));
    qmoe_status status = rows_prepare(&s, err);
    if (status == QMOE_OK)
        status = search(&s, price, fit->passes, err);
    if (status == QMOE_OK)
        store_levels(levels, &s);
    rows_release(&s);
    return status;
}
