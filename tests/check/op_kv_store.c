/* SPDX-License-Identifier: Apache-2.0
 * Cases of `kv_store`: rows copied bit by bit, all other rows left alone. */
#include "check.h"

#include <stdlib.h>

static const int64_t widths[] = {1, 15, 16, 17, 31, 33, 61, 256};
static const int64_t qmi_bench_widths[] = {768};
static const int64_t token_counts[] = {1, 2, 7, 33};
/* Cache rows beyond the tokens. */
static const int64_t spares[] = {0, 1, 40};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void list_cases(case_list *list, bool bench)
{
    const int64_t *of = bench ? qmi_bench_widths : widths;
    size_t n = bench ? COUNT(qmi_bench_widths) : COUNT(widths);
    for (size_t w = 0; w < n; w++) {
        for (size_t t = 0; t < COUNT(token_counts); t++) {
            check_case *c = case_add(list);
            c->n_cols = of[w];
            c->n_tokens = token_counts[t];
            c->n_rows = c->n_tokens + spares[choose(list->n, 1, COUNT(spares))];
            case_name(c, QMI_OP_KV_STORE, "c%lld/t%lld/cache%lld/bits",
                (long long)c->n_cols, (long long)c->n_tokens,
                (long long)c->n_rows);
        }
    }
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    (void)err;
    p->body.u.kv_store.n_tokens = c->n_tokens;
    p->body.u.kv_store.n_cols = c->n_cols;
    p->body.u.kv_store.n_cache_rows = c->n_rows;
    operand *src =
        add_floats(p, "src", VIEW_AT(kv_store.src), c->n_tokens, c->n_cols);
    fill_values(src->data.floats, c->n_tokens * c->n_cols, r, VALUES_BITS);
    int32_t *rows =
        add_ints(p, "rows", VIEW_AT(kv_store.rows), c->n_tokens, 1)->data.ints;
    int32_t *order = check_calloc((size_t)c->n_rows, sizeof *order);
    rng_permutation(r, order, c->n_rows);
    memcpy(rows, order, (size_t)c->n_tokens * sizeof *rows);
    free(order);
    operand *cache =
        add_floats(p, "cache", VIEW_AT(kv_store.cache), c->n_rows, c->n_cols);
    cache->is_output = true;
    fill_values(cache->data.floats, c->n_rows * c->n_cols, r, VALUES_BITS);
    return QMOE_OK;
}

static check_cost cost(const problem *p)
{
    double n = (double)p->c->n_tokens;
    return (check_cost){.bytes = n * (8.0 * (double)p->c->n_cols + 4)};
}

const check_op check_kv_store = {
    .list = list_cases, .build = build, .cost = cost};
