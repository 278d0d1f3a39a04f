/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `attention`: encoder, decoder with cache, cross. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

/* How spans lie over queries and keys. */
typedef struct use {
    const char *name;
    bool causal, bias;
    bool step;   /* one query per span */
    bool past;   /* keys before the first query */
    bool future; /* keys after the last query */
} use;

static const use uses[] = {
    {"encoder", false, true, false, false, false},
    {"decoder", true, true, false, false, false},
    {"step", true, true, true, true, false},
    {"chunk", true, true, false, true, true},
    {"cross", false, false, false, true, true},
    {"cross-step", false, false, true, true, true},
};

static const struct {
    int64_t n_heads, d_head;
} heads[] = {
    {1, 1},
    {3, 15},
    {1, 16},
    {2, 17},
    {5, 7},
    {3, 31},
    {2, 33},
    {4, 64},
};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const int64_t distances[] = {1, 5, 128};
static const float scales[] = {1.0f, 0.125f, 25.0f};
static const value_kind q_kinds[] = {
    VALUES_RANDOM, VALUES_RANDOM, VALUES_RANDOM, VALUES_TINY, VALUES_ZEROS};
static const value_kind v_kinds[] = {VALUES_RANDOM, VALUES_RANDOM, VALUES_LARGE,
    VALUES_TINY, VALUES_ZEROS, VALUES_MIXED};

/* More queries and keys than a kernel takes at once, on both sides of the
 * edges of its blocks and parts. */
static const struct {
    size_t use;
    int64_t n_heads, d_head, n_tokens, n_spans;
} long_shapes[] = {
    {0, 2, 17, 64, 1},
    {0, 1, 64, 129, 1},
    {0, 3, 7, 200, 3},
    {1, 2, 17, 65, 2},
    {1, 1, 64, 128, 1},
    {1, 3, 7, 191, 2},
    {2, 2, 33, 256, 1},
    {2, 5, 64, 257, 3},
    {2, 3, 15, 600, 2},
    {3, 1, 16, 100, 1},
    {3, 2, 33, 150, 3},
    {4, 1, 16, 65, 1},
    {4, 2, 31, 130, 2},
    {5, 2, 64, 513, 2},
    {5, 3, 7, 300, 1},
};

static const struct {
    size_t use;
    int64_t n_tokens, n_spans;
} qmi_bench_shapes[] = {
    {0, 128, 1}, {2, 128, 1}, {2, 128, 8}, {5, 512, 1}, {2, 16384, 1}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static check_case *add_case(case_list *list, size_t use_index, int64_t n_heads,
    int64_t d_head, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->mode = (int)use_index;
    c->n_heads = n_heads;
    c->d_head = d_head;
    c->n_tokens = n_tokens;
    c->n_spans = 1;
    c->max_distance = 128;
    c->causal = uses[use_index].causal;
    c->bias = uses[use_index].bias;
    return c;
}

/* c->w is the kind of values in v, c->x in q and k. */
static void name_case(check_case *c)
{
    case_name(c, QMI_OP_ATTENTION, "%s/h%lldx%lld/t%lld/s%lld/%s/%s/d%lld/a%g",
        uses[c->mode].name, (long long)c->n_heads, (long long)c->d_head,
        (long long)c->n_tokens, (long long)c->n_spans, value_kind_name(c->x),
        value_kind_name(c->w), (long long)c->max_distance, (double)c->alpha);
}

static void list_bench(case_list *list)
{
    for (size_t i = 0; i < COUNT(qmi_bench_shapes); i++) {
        check_case *c = add_case(list, qmi_bench_shapes[i].use, 12, 64,
            qmi_bench_shapes[i].n_tokens);
        c->n_spans = qmi_bench_shapes[i].n_spans;
        name_case(c);
    }
}

/* Chooses the rest of the last case, and its name, by its number. */
static void vary(case_list *list, int64_t n_spans)
{
    const size_t i = list->n;
    check_case *c = &list->cases[i - 1];
    c->n_spans = n_spans;
    c->max_distance = distances[choose(i, 2, COUNT(distances))];
    c->alpha = scales[choose(i, 3, COUNT(scales))];
    c->x = q_kinds[choose(i, 4, COUNT(q_kinds))];
    c->w = v_kinds[choose(i, 5, COUNT(v_kinds))];
    name_case(c);
}

static void list_cases(case_list *list, bool bench)
{
    if (bench) {
        list_bench(list);
        return;
    }
    for (size_t u = 0; u < COUNT(uses); u++) {
        for (size_t h = 0; h < COUNT(heads); h++) {
            for (size_t t = 0; t < COUNT(token_counts); t++) {
                add_case(list, u, heads[h].n_heads, heads[h].d_head,
                    token_counts[t]);
                vary(list, 1 + (int64_t)choose(list->n, 1, 3));
            }
        }
    }
    for (size_t i = 0; i < COUNT(long_shapes); i++) {
        add_case(list, long_shapes[i].use, long_shapes[i].n_heads,
            long_shapes[i].d_head, long_shapes[i].n_tokens);
        vary(list, long_shapes[i].n_spans);
    }
}

/* Lengths of span s; the first has the case's full length. */
static void draw_span(
    qmi_attention_span *span, const check_case *c, int64_t s, rng *r)
{
    const use *u = &uses[c->mode];
    int64_t n = s == 0 ? c->n_tokens : 1 + rng_below(r, c->n_tokens);
    /* In a step the case's tokens are the keys, elsewhere the queries. */
    int64_t past = u->step ? n - 1 : u->past ? rng_below(r, 20) : 0;
    int64_t future = u->future ? rng_below(r, 9) : 0;
    span->q_len = (int32_t)(u->step ? 1 : n);
    span->q_pos = (int32_t)past;
    span->k_len = (int32_t)(past + future) + span->q_len;
}

/* Rows of k and v that belong to no span stay NaN: reading one shows. */
static void poison_rows(operand *o)
{
    for (int64_t i = 0; i < o->n_rows * o->n_cols; i++)
        o->data.floats[i] = NAN;
}

static void fill_rows(
    operand *o, int64_t begin, int64_t n, rng *r, value_kind kind)
{
    fill_values(o->data.floats + begin * o->n_cols, n * o->n_cols, r, kind);
}

static void add_operands(problem *p, const qmi_attention_span *spans,
    int64_t n_queries, int64_t n_keys, rng *r)
{
    const check_case *c = p->c;
    int64_t width = c->n_heads * c->d_head;
    operand *q = add_floats(p, "q", VIEW_AT(attention.q), n_queries, width);
    fill_rows(q, 0, n_queries, r, c->x);
    operand *k = add_floats(p, "k", VIEW_AT(attention.k), n_keys, width);
    operand *v = add_floats(p, "v", VIEW_AT(attention.v), n_keys, width);
    poison_rows(k);
    poison_rows(v);
    for (int64_t s = 0; s < c->n_spans; s++) {
        fill_rows(k, spans[s].k_begin, spans[s].k_len, r, c->x);
        fill_rows(v, spans[s].k_begin, spans[s].k_len, r, c->w);
    }
    operand *table = add_ints(p, "spans", VIEW_AT(attention.spans), c->n_spans,
        sizeof *spans / sizeof(int32_t));
    memcpy(table->data.ints, spans, (size_t)c->n_spans * sizeof *spans);
    if (c->bias) {
        operand *bias = add_floats(p, "bias", VIEW_AT(attention.bias),
            c->n_heads, 2 * c->max_distance + 1);
        fill_rows(bias, 0, c->n_heads, r, VALUES_RANDOM);
    }
    add_output(p, "dst", VIEW_AT(attention.dst), n_queries, width);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    (void)err;
    qmi_attention_span *spans = check_calloc((size_t)c->n_spans, sizeof *spans);
    qmi_op_attention *o = &p->body.u.attention;
    int32_t n_queries = 0, n_keys = 0;
    for (int64_t s = 0; s < c->n_spans; s++) {
        draw_span(&spans[s], c, s, r);
        n_keys += (int32_t)rng_below(r, 4);
        spans[s].q_begin = n_queries;
        spans[s].k_begin = n_keys;
        n_queries += spans[s].q_len;
        n_keys += spans[s].k_len;
        if (o->max_keys < spans[s].k_len)
            o->max_keys = spans[s].k_len;
    }
    n_keys += 3;
    /* Spans need not be listed in the order of their rows. */
    if (c->n_spans == 3) {
        qmi_attention_span first = spans[0];
        spans[0] = spans[2];
        spans[2] = first;
    }
    o->n_spans = c->n_spans;
    o->n_queries = n_queries;
    o->n_heads = c->n_heads;
    o->n_kv_heads = c->n_heads;
    o->d_key = o->d_value = c->d_head;
    o->max_distance = c->max_distance;
    o->scale = c->alpha;
    o->causal = c->causal;
    add_operands(p, spans, n_queries, n_keys, r);
    free(spans);
    return QMOE_OK;
}

/* One query and head: places of its data, and work space of max_keys. */
typedef struct unit {
    const check_case *c;
    const float *q, *k, *v; /* k, v: first key of the span, of this head */
    const float *bias;      /* of this head, distance 0; NULL: none */
    int64_t width, n_keys, q_pos;
    double *chance, *error, *rise; /* [n_keys] */
} unit;

/* How often a running maximum may rise after each key, at most: as often as
 * it does that begins with that key. */
static void add_rescalings(const unit *u, const double *score)
{
    double *higher =
        u->rise; /* those to come that would raise it, last first */
    int64_t n = 0;
    for (int64_t k = u->n_keys; k-- > 0;) {
        while (n > 0 && higher[n - 1] <= score[k])
            n--;
        u->error[k] += UNIT_ROUNDOFF * 5 * (double)n;
        higher[n++] = score[k];
    }
}

/* Softmax weights and the relative error of each before normalisation. */
static void weigh(const unit *u)
{
    int64_t d = u->c->d_head, m = u->c->max_distance;
    double scale = fabs((double)u->c->alpha);
    double largest = -INFINITY, sum = 0;
    for (int64_t k = 0; k < u->n_keys; k++) {
        const float *key = u->k + k * u->width;
        double score = 0;
        for (int64_t i = 0; i < d; i++)
            score += (double)u->q[i] * key[i];
        score *= (double)u->c->alpha;
        double size = scale * sum_abs_products(u->q, key, d);
        double tiny =
            scale * (sum_abs(u->q, d) + sum_abs(key, d) + (double)d) + 1;
        u->error[k] = UNIT_ROUNDOFF * (sum_growth(d) + 3) * size;
        if (u->bias != NULL) {
            int64_t far = k - u->q_pos;
            far = far > m ? m : far < -m ? -m : far;
            score += (double)u->bias[far];
            u->error[k] += UNIT_ROUNDOFF * 2 * fabs((double)u->bias[far]);
        }
        u->error[k] += SMALLEST_NORMAL * tiny;
        u->chance[k] = score;
        largest = fmax(largest, score);
    }
    add_rescalings(u, u->chance);
    for (int64_t k = 0; k < u->n_keys; k++) {
        double below = largest - u->chance[k];
        u->error[k] += UNIT_ROUNDOFF * (2 * below + 4);
        u->chance[k] = exp(-below);
        sum += u->chance[k];
    }
    for (int64_t k = 0; k < u->n_keys; k++)
        u->chance[k] /= sum;
}

static void bound_unit(double *out, const unit *u)
{
    weigh(u);
    double growth = UNIT_ROUNDOFF * (2 * sum_growth(u->n_keys) + 12);
    double normaliser = 0;
    for (int64_t k = 0; k < u->n_keys; k++)
        if (u->chance[k] > 0)
            normaliser += u->chance[k] * exp(u->error[k]);
    for (int64_t i = 0; i < u->c->d_head; i++) {
        double sum = 0, tiny = (double)u->n_keys + 2;
        for (int64_t k = 0; k < u->n_keys; k++) {
            double v = fabs((double)u->v[k * u->width + i]);
            double factor = exp(u->error[k]) * normaliser - 1;
            if (u->chance[k] > 0)
                sum += u->chance[k] * v * (factor + growth);
            tiny += 2 * v;
        }
        out[i] = sum + SMALLEST_NORMAL * tiny;
    }
}

static void bound_span(
    problem *p, double *out, const qmi_attention_span *s, double *work)
{
    const check_case *c = p->c;
    int64_t width = c->n_heads * c->d_head;
    const float *bias = find_floats(p, "bias");
    const int64_t n = p->body.u.attention.max_keys;
    unit u = {.c = c,
        .width = width,
        .chance = work,
        .error = work + n,
        .rise = work + 2 * n};
    for (int64_t i = 0; i < s->q_len; i++) {
        for (int64_t h = 0; h < c->n_heads; h++) {
            int64_t at = (s->q_begin + i) * width + h * c->d_head;
            int64_t keys = s->k_begin * width + h * c->d_head;
            u.q = find_floats(p, "q") + at;
            u.k = find_floats(p, "k") + keys;
            u.v = find_floats(p, "v") + keys;
            u.bias = bias == NULL ? NULL
                                  : bias + h * (2 * c->max_distance + 1) +
                                        c->max_distance;
            u.q_pos = s->q_pos + i;
            u.n_keys = s->k_len;
            if (c->causal && u.q_pos + 1 < u.n_keys)
                u.n_keys = u.q_pos + 1;
            bound_unit(out + at, &u);
        }
    }
}

static void bound(problem *p)
{
    const qmi_op_attention *o = &p->body.u.attention;
    const qmi_attention_span *spans = find_operand(p, "spans")->data.bytes;
    double *out = make_bound(p, "dst");
    double *work = check_calloc(3 * (size_t)o->max_keys, sizeof *work);
    for (int64_t s = 0; s < o->n_spans; s++)
        bound_span(p, out, &spans[s], work);
    free(work);
}

static check_cost cost(const problem *p)
{
    const qmi_op_attention *o = &p->body.u.attention;
    const qmi_attention_span *spans = find_operand(p, "spans")->data.bytes;
    double pairs = 0;
    for (int64_t s = 0; s < o->n_spans; s++)
        pairs += (double)spans[s].q_len * (double)spans[s].k_len;
    return (check_cost){
        .bytes = operand_bytes(p),
        .flops = 4 * pairs * (double)(o->n_heads * o->d_key),
    };
}

const check_op check_attention = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
