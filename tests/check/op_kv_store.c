/* SPDX-License-Identifier: Apache-2.0
 * Cases of `kv_store`: rows copied bit by bit or rounded to 16 bits, all other
 * rows left alone; rows of 8 bits are judged by what they stand for. */
#include "check.h"
#include "kv_rows.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static const int64_t widths[] = {1, 15, 16, 17, 31, 33, 61, 256};
static const int64_t qmi_bench_widths[] = {768};
static const int64_t token_counts[] = {1, 2, 7, 33};
/* Cache rows beyond the tokens. */
static const int64_t spares[] = {0, 1, 40};
/* Of rows of 16 bits: beyond their range, subnormal, and zeros; of 8 bits: no
 * blocks of subnormal numbers alone, whose codes may be anything. */
static const value_kind f16_kinds[] = {
    VALUES_RANDOM, VALUES_MIXED, VALUES_TINY, VALUES_ZEROS};
static const value_kind q8_kinds[] = {
    VALUES_RANDOM, VALUES_POSITIVE, VALUES_LARGE, VALUES_ZEROS};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static check_case *add_case(case_list *list, int64_t n_cols, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->n_cols = n_cols;
    c->n_tokens = n_tokens;
    c->n_rows = n_tokens + spares[choose(list->n, 1, COUNT(spares))];
    c->x = VALUES_BITS;
    return c;
}

static void name_case(check_case *c)
{
    const bool narrow = c->kv_type != QMI_KV_F32;
    case_name(c, QMI_OP_KV_STORE, "%s%sc%lld/t%lld/cache%lld/%s",
        narrow ? qmi_kv_type_name(c->kv_type) : "", narrow ? "/" : "",
        (long long)c->n_cols, (long long)c->n_tokens, (long long)c->n_rows,
        value_kind_name(c->x));
}

static void list_cases(case_list *list, bool bench)
{
    const int64_t *of = bench ? qmi_bench_widths : widths;
    size_t n = bench ? COUNT(qmi_bench_widths) : COUNT(widths);
    for (size_t w = 0; w < n; w++)
        for (size_t t = 0; t < COUNT(token_counts); t++)
            name_case(add_case(list, of[w], token_counts[t]));
    for (int type = QMI_KV_F16; type < QMI_KV_COUNT; type++)
        for (size_t w = 0; w < n; w++)
            for (size_t t = 1; t < COUNT(token_counts); t += 2) {
                check_case *c = add_case(list, of[w], token_counts[t]);
                c->kv_type = (qmi_kv_type)type;
                c->wide = true;
                c->x = type == QMI_KV_F16 ? f16_kinds[choose(list->n, 2, 4)]
                                          : q8_kinds[choose(list->n, 2, 4)];
                name_case(c);
            }
}

static int64_t row_words(const check_case *c)
{
    return (int64_t)qmi_kv_row_bytes(c->kv_type, c->n_cols) / 4;
}

/* Now and then half way between two numbers of 16 bits, normal or subnormal: to
 * even. */
static void add_halves(float *row, int64_t n, rng *r)
{
    for (int64_t i = 0; i < n; i++) {
        const float steps = (float)rng_below(r, 120) + 0.5f;
        if (rng_below(r, 4) == 0)
            row[i] = ldexpf(1 + 0x1p-10f * steps, (int)rng_below(r, 8) - 4);
        if (rng_below(r, 16) == 0)
            row[i] = 0x1p-24f * steps;
    }
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    (void)err;
    p->body.u.kv_store.n_tokens = c->n_tokens;
    p->body.u.kv_store.n_cols = c->n_cols;
    p->body.u.kv_store.n_cache_rows = c->n_rows;
    p->body.u.kv_store.type = c->kv_type;
    operand *src =
        add_floats(p, "src", VIEW_AT(kv_store.src), c->n_tokens, c->n_cols);
    fill_values(src->data.floats, c->n_tokens * c->n_cols, r, c->x);
    if (c->kv_type == QMI_KV_F16 && c->x == VALUES_RANDOM)
        add_halves(src->data.floats, c->n_tokens * c->n_cols, r);
    int32_t *rows =
        add_ints(p, "rows", VIEW_AT(kv_store.rows), c->n_tokens, 1)->data.ints;
    int32_t *order = check_calloc((size_t)c->n_rows, sizeof *order);
    rng_permutation(r, order, c->n_rows);
    memcpy(rows, order, (size_t)c->n_tokens * sizeof *rows);
    free(order);
    operand *cache = add_floats(
        p, "cache", VIEW_AT(kv_store.cache), c->n_rows, row_words(c));
    cache->is_output = true;
    fill_values(cache->data.floats, c->n_rows * row_words(c), r, VALUES_BITS);
    return QMOE_OK;
}

/* ---- rows of 8 bits ---- */

enum { BLOCK_WORDS = QMI_KV_BLOCK_BYTES / 4 };

/* Of the scales; codes are judged below, everything else is exact. */
static void bound(problem *p)
{
    const check_case *c = p->c;
    if (c->kv_type != QMI_KV_Q8)
        return;
    const operand *cache = find_operand(p, "cache");
    const int32_t *rows = find_operand(p, "rows")->data.ints;
    double *out = make_bound(p, "cache");
    for (int64_t t = 0; t < c->n_tokens; t++)
        for (int64_t w = 0; w < row_words(c); w += BLOCK_WORDS) {
            const int64_t at = rows[t] * row_words(c) + w;
            out[at] = 4 * UNIT_ROUNDOFF * fabs((double)cache->want.floats[at]) +
                      SMALLEST_NORMAL;
        }
}

/* The block of n values that begins with source column `first`. */
static void judge_block(const problem *p, int64_t t, int64_t first,
    const float *got, const float *want, verdict *v)
{
    const int64_t n_cols = p->c->n_cols;
    const float *src = find_floats(p, "src") + t * n_cols + first;
    const int64_t n =
        n_cols - first < QMI_KV_BLOCK ? n_cols - first : QMI_KV_BLOCK;
    const int8_t *codes = (const int8_t *)(got + 1);
    const int8_t *want_codes = (const int8_t *)(want + 1);
    const double scale = (double)want[0];
    const double bound = scale * (0.5 + 0x1p-14) + 128 * SMALLEST_NORMAL;
    if (!value_in_bound(
            got[0], want[0], 4 * UNIT_ROUNDOFF * scale + SMALLEST_NORMAL))
        verdict_fail(v, CHECK_VALUE,
            "scale of row %" PRId64 ", column %" PRId64
            " is %.9g, must be %.9g",
            t, first, (double)got[0], scale);
    for (int64_t i = 0; i < QMI_KV_BLOCK; i++) {
        const bool exact = i >= n || scale == 0;
        const double value = (double)got[0] * codes[i];
        if (exact ? codes[i] == want_codes[i]
                  : fabs(value - (double)src[i]) <= bound)
            continue;
        verdict_fail(v, CHECK_VALUE,
            "code of row %" PRId64 ", column %" PRId64 " is %d, must be %d", t,
            first + i, codes[i], want_codes[i]);
    }
}

static void judge(const problem *p, const void *const *got, verdict *v)
{
    const check_case *c = p->c;
    const operand *cache = find_operand(p, "cache");
    const float *rows_got = got[cache - p->operands];
    const int32_t *rows = find_operand(p, "rows")->data.ints;
    if (c->kv_type != QMI_KV_Q8) {
        judge_operand(cache, rows_got, v);
        return;
    }
    /* Put aside what is judged by blocks; the rest must not have changed. */
    operand rest = *cache;
    const size_t n_bytes = (size_t)(cache->n_rows * cache->n_cols) * 4;
    rest.bound = NULL;
    rest.is_integer = true;
    rest.want.bytes = check_calloc(n_bytes, 1);
    memcpy(rest.want.bytes, cache->want.bytes, n_bytes);
    for (int64_t t = 0; t < c->n_tokens; t++) {
        const int64_t at = rows[t] * cache->n_cols;
        for (int64_t i = 0; i < c->n_cols; i += QMI_KV_BLOCK) {
            const int64_t block = at + i / QMI_KV_BLOCK * BLOCK_WORDS;
            judge_block(
                p, t, i, rows_got + block, cache->want.floats + block, v);
        }
        memcpy(rest.want.floats + at, rows_got + at,
            (size_t)cache->n_cols * sizeof *rows_got);
    }
    judge_operand(&rest, rows_got, v);
    free(rest.want.bytes);
}

static check_cost cost(const problem *p)
{
    double n = (double)p->c->n_tokens;
    return (check_cost){.bytes = n * (8.0 * (double)p->c->n_cols + 4)};
}

const check_op check_kv_store = {.list = list_cases,
    .build = build,
    .bound = bound,
    .judge = judge,
    .cost = cost};
