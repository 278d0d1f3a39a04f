/* SPDX-License-Identifier: Apache-2.0
 * Cases of `top_logits`.  Numbers are compared, never computed with: results
 * are exact in every bit. */
#include "check.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/* How logits are drawn. */
enum {
    LOGITS_RANDOM,
    LOGITS_NEGATIVE,
    LOGITS_TIES, /* of few different values */
    LOGITS_EQUAL,
    LOGITS_CLOSE, /* the last bits tell them apart */
    LOGITS_ZEROS,
    LOGITS_SPECIAL, /* infinities, NaN, the largest finite numbers */
    LOGITS_BITS,
    LOGITS_ASCENDING,
    LOGITS_DESCENDING,
    LOGITS_TOGETHER, /* the largest lie side by side */
    LOGITS_COUNT
};
static const char *const logit_names[LOGITS_COUNT] = {"random", "negative",
    "ties", "equal", "close", "zeros", "special", "bits", "ascending",
    "descending", "together"};

static const int64_t vocabularies[] = {
    1, 2, 17, 31, 33, 61, 127, 128, 129, 257, 1031, 2048, 2049, 4099};
static const int64_t tops[] = {1, 2, 40, QMI_TOP_LOGITS_MAX};
static const int64_t token_counts[] = {1, 2, 7, 33};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void add_case(
    case_list *list, int64_t n_cols, int64_t n_tokens, int64_t top_k, int mode)
{
    check_case *c = case_add(list);
    c->n_rows = 1;
    c->n_cols = n_cols;
    c->n_tokens = n_tokens;
    c->top_k = top_k < n_cols ? top_k : n_cols;
    c->mode = mode;
    case_name(c, QMI_OP_TOP_LOGITS, "v%lld/t%lld/top%lld/%s", (long long)n_cols,
        (long long)n_tokens, (long long)c->top_k, logit_names[mode]);
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        add_case(list, 32128, 1, 1, LOGITS_RANDOM);
        add_case(list, 32128, 1, 40, LOGITS_RANDOM);
        add_case(list, 32128, 1, QMI_TOP_LOGITS_MAX, LOGITS_RANDOM);
        add_case(list, 32128, 33, 40, LOGITS_RANDOM);
        return;
    }
    for (size_t v = 0; v < COUNT(vocabularies); v++) {
        const int64_t n = vocabularies[v];
        for (int mode = 0; mode < LOGITS_COUNT; mode++) {
            /* Large rows once or twice; what they add is more segments. */
            const size_t most = n > 1031 ? 2 : COUNT(token_counts);
            const int64_t top_k = tops[choose(list->n, 1, COUNT(tops))];
            add_case(
                list, n, token_counts[choose(list->n, 2, most)], top_k, mode);
        }
        for (size_t k = 0; k < COUNT(tops) && tops[k] < n; k++)
            add_case(list, n, 3, tops[k], LOGITS_RANDOM);
    }
    add_case(list, 32128, 1, 1, LOGITS_TIES);
    add_case(list, 32128, 1, QMI_TOP_LOGITS_MAX, LOGITS_TOGETHER);
    add_case(list, 32128, 2, 40, LOGITS_RANDOM);
    /* More segments than one more step of merging takes. */
    add_case(list, 70001, 1, QMI_TOP_LOGITS_MAX, LOGITS_ASCENDING);
}

static float draw_special(rng *r)
{
    static const float values[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX,
        0.0f, -0.0f, FLT_MIN, 1.0f};
    return values[rng_below(r, COUNT(values))];
}

static float draw_logit(
    int mode, int64_t col, int64_t n, int64_t together, rng *r)
{
    switch (mode) {
    case LOGITS_NEGATIVE:
        return -1 - 6 * rng_unit(r);
    case LOGITS_TIES:
        return 0.5f * (float)rng_below(r, 3) - 0.5f;
    case LOGITS_EQUAL:
        return -3.25f;
    case LOGITS_CLOSE:
        return 1 + 0x1p-23f * (float)rng_below(r, n);
    case LOGITS_ZEROS:
        return draw_value(r, VALUES_ZEROS);
    case LOGITS_SPECIAL:
        return draw_special(r);
    case LOGITS_BITS:
        return draw_value(r, VALUES_BITS);
    case LOGITS_ASCENDING:
        return 0.25f * (float)col - 9;
    case LOGITS_DESCENDING:
        return 9 - 0.25f * (float)col;
    case LOGITS_TOGETHER:
        return (col - together + n) % n < QMI_TOP_LOGITS_MAX ? 50 + rng_unit(r)
                                                             : rng_unit(r);
    default:
        return 6 * draw_value(r, VALUES_RANDOM);
    }
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    (void)err;
    qmi_op_top_logits *o = &p->body.u.top_logits;
    o->n_tokens = c->n_tokens;
    o->n_cols = c->n_cols;
    o->top_k = c->top_k;
    float *logits = add_floats(
        p, "logits", VIEW_AT(top_logits.logits), c->n_tokens, c->n_cols)
                        ->data.floats;
    for (int64_t t = 0; t < c->n_tokens; t++) {
        const int64_t together = rng_below(r, c->n_cols);
        for (int64_t i = 0; i < c->n_cols; i++)
            logits[t * c->n_cols + i] =
                draw_logit(c->mode, i, c->n_cols, together, r);
    }
    add_output(p, "id", VIEW_AT(top_logits.id), c->n_tokens, c->top_k)
        ->is_integer = true;
    add_output(p, "value", VIEW_AT(top_logits.value), c->n_tokens, c->top_k);
    return QMOE_OK;
}

static check_cost cost(const problem *p)
{
    return (check_cost){.bytes = operand_bytes(p)};
}

const check_op check_top_logits = {
    .list = list_cases, .build = build, .cost = cost};
