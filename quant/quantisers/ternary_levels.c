/* SPDX-License-Identifier: Apache-2.0
 * Levels by least squares.
 *
 * With l and h the sets of columns of a row that are LOW and HIGH, its error
 * is a quadratic in the two levels whose coefficients are sums of A over
 * l x l, l x h and h x h.  About an eighth of the columns is non-zero, so the
 * sums take fewer operations than a matrix product would; to be as kind to the
 * cache, they are formed for all rows over some rows of A at a time. */
#include "ternary_levels.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "ternary_dict.h"

/* Bytes of A that stay in the second-level cache while all rows use them. */
enum { CACHED_BYTES = 512 << 10 };
/* Independent partial sums hide the latency of additions. */
enum { PARTIAL = 4 };

/* error = ll low^2 + 2 lh low high + hh high^2 - 2 bl low - 2 bh high + ... */
typedef struct normal {
    double ll, lh, hh, bl, bh;
} normal;

/* The LOW and then the HIGH columns of each row, one row after the other:
 * row r has [begin[2 r], begin[2 r + 1]) and [begin[2 r + 1], begin[2 r + 2]).
 */
typedef struct lists {
    int64_t *begin;   /* [2 n_rows + 1] */
    int64_t *next;    /* [2 n_rows] entries whose row of A was visited */
    int32_t *columns; /* ascending inside each list */
    float *weights;   /* A_jj of each entry */
} lists;

static void lists_release(lists *l)
{
    qmi_free(l->begin);
    qmi_free(l->next);
    qmi_free(l->columns);
    qmi_free(l->weights);
}

/* begin[1 + list] = length of each list, then their places. */
static void place_lists(lists *l, const qmi_ternary_levels *f)
{
    /* Counts first, then sums: the lists need no room but their own. */
    for (int64_t r = 0; r < f->n_rows; r++)
        for (int64_t c = 0; c < f->n_cols; c++) {
            const uint8_t code = f->codes[r * f->n_cols + c];
            l->begin[2 * r + 1] += code == QMI_CODE_LOW;
            l->begin[2 * r + 2] += code == QMI_CODE_HIGH;
        }
    for (int64_t i = 0; i < 2 * f->n_rows; i++) {
        l->begin[i + 1] += l->begin[i];
        l->next[i] = l->begin[i];
    }
}

static void fill_lists(lists *l, const qmi_ternary_levels *f)
{
    for (int64_t r = 0; r < f->n_rows; r++)
        for (int64_t c = 0; c < f->n_cols; c++) {
            const uint8_t code = f->codes[r * f->n_cols + c];
            if (code == QMI_CODE_ZERO)
                continue;
            const float root =
                f->descent != NULL ? f->descent->metric[c] : 1.0F;
            int64_t *at = &l->next[2 * r + (code == QMI_CODE_HIGH)];
            l->columns[*at] = (int32_t)c;
            l->weights[(*at)++] = root * root;
        }
    /* Filling moved `next` on; visiting starts again from the front. */
    memcpy(l->next, l->begin, 2 * (size_t)f->n_rows * sizeof *l->next);
}

static qmoe_status lists_create(
    lists *l, const qmi_ternary_levels *f, qmi_error *err)
{
    static const char what[] = "columns that are not zero";
    const size_t n = 2 * (size_t)f->n_rows;
    *l = (lists){
        .begin = qmi_calloc(n + 1, sizeof *l->begin, what, err),
        .next = qmi_calloc(n, sizeof *l->next, what, err),
    };
    if (l->begin == NULL || l->next == NULL)
        return QMOE_E_NOMEM;
    place_lists(l, f);
    const size_t count = (size_t)l->begin[n];
    l->columns = qmi_calloc(count, sizeof *l->columns, what, err);
    l->weights = qmi_calloc(count, sizeof *l->weights, what, err);
    if (l->columns == NULL || l->weights == NULL)
        return QMOE_E_NOMEM;
    fill_lists(l, f);
    return QMOE_OK;
}

/* The sum of A_ij over entries [begin, end) of the lists as j; row = row i of
 * A divided by A_jj. */
static double row_sum(
    const float *row, const lists *l, int64_t begin, int64_t end)
{
    double sum[PARTIAL] = {0};
    /* Four sums in turn, joined in one fixed order. */
    int64_t j = begin;
    for (; j + PARTIAL <= end; j += PARTIAL)
        for (int k = 0; k < PARTIAL; k++)
            sum[k] += (double)(row[l->columns[j + k]] * l->weights[j + k]);
    for (; j < end; j++)
        sum[0] += (double)(row[l->columns[j]] * l->weights[j]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Adds what rows of A before `end` that were not visited yet contribute to one
 * row's sums: both halves of l x l and h x h from the lower one, l x h from
 * its LOW rows. */
static void visit(
    normal *n, lists *l, int64_t row, const qmi_ternary_levels *f, int64_t end)
{
    const float *a = f->descent->feedback;
    const int64_t low = l->begin[2 * row], high = l->begin[2 * row + 1];
    const int64_t stop = l->begin[2 * row + 2];
    int64_t *next = &l->next[2 * row];
    for (; next[0] < high && l->columns[next[0]] < end; next[0]++) {
        const float *a_row = a + l->columns[next[0]] * f->n_cols;
        /* The lower half twice, the diagonal once. */
        n->ll +=
            2 * row_sum(a_row, l, low, next[0]) + (double)l->weights[next[0]];
        n->lh += row_sum(a_row, l, high, stop);
    }
    for (; next[1] < stop && l->columns[next[1]] < end; next[1]++) {
        const float *a_row = a + l->columns[next[1]] * f->n_cols;
        n->hh +=
            2 * row_sum(a_row, l, high, next[1]) + (double)l->weights[next[1]];
    }
}

static void sum_squares(normal *n, lists *l, const qmi_ternary_levels *f)
{
    /* At least one row of A per round. */
    int64_t step = CACHED_BYTES / (f->n_cols * (int64_t)sizeof(float)) + 1;
    for (int64_t begin = 0; begin < f->n_cols; begin += step)
        /* All rows of the matrix use the cached rows of A before the next ones
         * are loaded. */
        for (int64_t row = 0; row < f->n_rows; row++)
            visit(&n[row], l, row, f, begin + step);
}

/* Without a Hessian: A = I. */
static void count_squares(normal *n, const lists *l, int64_t n_rows)
{
    for (int64_t r = 0; r < n_rows; r++) {
        n[r].ll = (double)(l->begin[2 * r + 1] - l->begin[2 * r]);
        n[r].hh = (double)(l->begin[2 * r + 2] - l->begin[2 * r + 1]);
    }
}

static double target_sum(
    const float *target, const lists *l, int64_t begin, int64_t end)
{
    double sum = 0;
    for (int64_t j = begin; j < end; j++)
        sum += (double)target[l->columns[j]];
    return sum;
}

/* ---- levels ---- */

static double cost_of(const normal *n, double low, double high)
{
    return n->ll * low * low + 2 * n->lh * low * high + n->hh * high * high -
           2 * (n->bl * low + n->bh * high);
}

void qmi_bf16_neighbours(float out[2], double x)
{
    uint32_t bits;
    /* The upper half of a float is the bf16 towards zero; one more is its
     * neighbour away from zero. */
    const float f = (float)x;
    memcpy(&bits, &f, sizeof bits);
    out[0] = qmi_bf16_to_f32((uint16_t)(bits >> 16));
    out[1] = qmi_bf16_to_f32((uint16_t)((bits >> 16) + 1));
    /* Beyond the largest bf16 there is none. */
    if (!isfinite(out[1]))
        out[1] = out[0];
}

/* The best of the stored values around (low, high): rounding both to nearest
 * could add up in the output. */
static void take_best(qmi_ternary_grid *grid, int64_t row, const normal *n,
    double low, double high, double unit)
{
    float lows[2], highs[2];
    float best_low = grid->low[row], best_high = grid->high[row];
    /* The present levels are in the comparison: a fit never makes the error
     * larger. */
    double best = cost_of(n, (double)best_low, (double)best_high);
    qmi_bf16_neighbours(lows, low);
    qmi_bf16_neighbours(highs, high);
    for (int i = 0; i < 4; i++) {
        const float l = lows[i / 2], h = highs[i % 2];
        const double cost = cost_of(n, (double)l, (double)h);
        /* Levels keep their signs: a level of zero would give two codes one
         * value. */
        if (cost < best && l < 0 && h > 0) {
            best = cost;
            best_low = l;
            best_high = h;
        }
    }
    qmi_ternary_grid_set(grid, row, best_low, best_high, unit);
}

static void solve(
    qmi_ternary_grid *grid, int64_t row, const normal *n, double unit)
{
    const double low = (double)grid->low[row], high = (double)grid->high[row];
    const double det = n->ll * n->hh - n->lh * n->lh;
    if (n->ll > 0 && n->hh > 0) {
        /* Nearly dependent columns have no unique answer: the present levels
         * stay. */
        if (det > 1e-9 * n->ll * n->hh)
            take_best(grid, row, n, (n->bl * n->hh - n->bh * n->lh) / det,
                (n->bh * n->ll - n->bl * n->lh) / det, unit);
    } else if (n->ll > 0) {
        /* Only one of the levels is used: the other stays. */
        take_best(grid, row, n, n->bl / n->ll, high, unit);
    } else if (n->hh > 0) {
        take_best(grid, row, n, low, n->bh / n->hh, unit);
    }
}

static void fit_rows(
    qmi_ternary_grid *grid, normal *n, lists *l, const qmi_ternary_levels *f)
{
    if (f->descent != NULL)
        sum_squares(n, l, f);
    else
        count_squares(n, l, f->n_rows);
    for (int64_t r = 0; r < f->n_rows; r++) {
        const float *target = f->target + r * f->n_cols;
        const int64_t *begin = l->begin + 2 * r;
        n[r].bl = target_sum(target, l, begin[0], begin[1]);
        n[r].bh = target_sum(target, l, begin[1], begin[2]);
        solve(grid, r, &n[r], f->unit);
    }
}

qmoe_status qmi_ternary_levels_fit(
    qmi_ternary_grid *grid, const qmi_ternary_levels *fit, qmi_error *err)
{
    lists l;
    normal *n = qmi_calloc(
        (size_t)fit->n_rows, sizeof *n, "normal equations of levels", err);
    if (n == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = lists_create(&l, fit, err);
    if (status == QMOE_OK)
        fit_rows(grid, n, &l, fit);
    lists_release(&l);
    qmi_free(n);
    return status;
}
