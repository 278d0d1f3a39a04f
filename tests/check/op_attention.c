/* SPDX-License-Identifier: Apache-2.0
 * Cases and bounds of `attention`: encoder, decoder with cache, cross; grouped
 * heads, windows, sinks and narrow caches of decoder-only models. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

#include "kv_rows.h"

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

enum { ENCODER, DECODER, STEP, CHUNK, CROSS, CROSS_STEP };

typedef struct wide_shape {
    size_t use;
    int64_t n_heads, n_kv_heads, d_key, d_value, n_tokens, n_spans, window;
    qmi_kv_type kv_type;
    bool sinks;
} wide_shape;

static const wide_shape wide_shapes[] = {
    /* Heads of queries that share one of keys. */
    {DECODER, 4, 2, 16, 16, 33, 2, 0, QMI_KV_F32, false},
    {STEP, 6, 2, 15, 15, 130, 2, 0, QMI_KV_F32, false},
    {CHUNK, 7, 1, 17, 17, 70, 3, 0, QMI_KV_F32, false},
    {STEP, 16, 2, 64, 64, 257, 1, 0, QMI_KV_F32, false},
    {DECODER, 8, 1, 31, 31, 7, 3, 0, QMI_KV_F32, false},
    {ENCODER, 9, 3, 7, 7, 65, 2, 0, QMI_KV_F32, false},
    {CROSS_STEP, 14, 2, 33, 33, 300, 2, 0, QMI_KV_F32, false},
    /* Keys and values of different widths. */
    {DECODER, 2, 2, 24, 16, 65, 2, 0, QMI_KV_F32, false},
    {STEP, 3, 3, 16, 40, 300, 2, 0, QMI_KV_F32, false},
    {CHUNK, 4, 2, 33, 17, 90, 2, 0, QMI_KV_F32, false},
    {STEP, 2, 1, 1, 70, 33, 1, 0, QMI_KV_F32, false},
    {CROSS, 2, 1, 70, 1, 64, 1, 0, QMI_KV_F32, false},
    /* Windows: one key, inside a block, blocks and parts, wider than all. */
    {DECODER, 2, 2, 16, 16, 130, 2, 1, QMI_KV_F32, false},
    {STEP, 2, 2, 16, 16, 70, 3, 1, QMI_KV_F32, false},
    {CHUNK, 1, 1, 17, 17, 70, 2, 7, QMI_KV_F32, false},
    {DECODER, 2, 2, 15, 15, 200, 1, 64, QMI_KV_F32, false},
    {STEP, 3, 3, 31, 31, 300, 3, 65, QMI_KV_F32, false},
    {STEP, 1, 1, 64, 64, 600, 1, 257, QMI_KV_F32, false},
    {CHUNK, 2, 2, 16, 16, 257, 3, 100, QMI_KV_F32, false},
    {DECODER, 3, 3, 7, 7, 40, 2, 1000, QMI_KV_F32, false},
    {STEP, 3, 3, 7, 7, 40, 2, 1000, QMI_KV_F32, false},
    /* Sinks. */
    {DECODER, 3, 3, 16, 16, 70, 2, 0, QMI_KV_F32, true},
    {STEP, 2, 2, 17, 17, 600, 2, 0, QMI_KV_F32, true},
    {ENCODER, 5, 5, 15, 15, 33, 1, 0, QMI_KV_F32, true},
    {CHUNK, 4, 4, 31, 31, 100, 3, 0, QMI_KV_F32, true},
    {CROSS_STEP, 2, 2, 33, 33, 513, 1, 0, QMI_KV_F32, true},
    /* Caches in 16 and 8 bits; heads that begin within a block of 32. */
    {DECODER, 2, 2, 16, 16, 70, 2, 0, QMI_KV_F16, false},
    {STEP, 4, 4, 64, 64, 300, 2, 0, QMI_KV_F16, false},
    {CHUNK, 3, 3, 17, 17, 90, 3, 0, QMI_KV_F16, false},
    {STEP, 3, 3, 7, 7, 257, 1, 0, QMI_KV_F16, false},
    {DECODER, 2, 2, 32, 32, 70, 2, 0, QMI_KV_Q8, false},
    {STEP, 4, 4, 64, 64, 300, 2, 0, QMI_KV_Q8, false},
    {CHUNK, 3, 3, 20, 20, 90, 3, 0, QMI_KV_Q8, false},
    {STEP, 5, 5, 7, 7, 257, 1, 0, QMI_KV_Q8, false},
    {CROSS, 2, 2, 31, 31, 130, 1, 0, QMI_KV_Q8, false},
    /* All together. */
    {STEP, 8, 1, 64, 64, 400, 2, 128, QMI_KV_F16, true},
    {DECODER, 8, 1, 64, 64, 150, 1, 32, QMI_KV_Q8, true},
    {CHUNK, 6, 2, 24, 17, 130, 3, 50, QMI_KV_F16, true},
    {CHUNK, 14, 2, 16, 16, 70, 2, 9, QMI_KV_Q8, true},
    {STEP, 4, 2, 20, 33, 300, 3, 70, QMI_KV_Q8, true},
    {STEP, 4, 1, 72, 64, 513, 1, 0, QMI_KV_F16, false},
    {STEP, 16, 2, 128, 128, 90, 1, 0, QMI_KV_Q8, false},
};

static const struct {
    size_t use;
    int64_t n_tokens, n_spans;
} qmi_bench_shapes[] = {
    {0, 128, 1}, {2, 128, 1}, {2, 128, 8}, {5, 512, 1}, {2, 16384, 1}};
/* Qwen3-30B, gpt-oss. */
static const wide_shape wide_bench_shapes[] = {
    {DECODER, 32, 4, 128, 128, 512, 1, 0, QMI_KV_F32, false},
    {STEP, 32, 4, 128, 128, 4096, 1, 0, QMI_KV_F32, false},
    {STEP, 32, 4, 128, 128, 4096, 1, 0, QMI_KV_F16, false},
    {STEP, 32, 4, 128, 128, 4096, 1, 0, QMI_KV_Q8, false},
    {STEP, 64, 8, 64, 64, 4096, 1, 128, QMI_KV_F16, true},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static check_case *add_case(case_list *list, size_t use_index, int64_t n_heads,
    int64_t d_head, int64_t n_tokens)
{
    check_case *c = case_add(list);
    c->mode = (int)use_index;
    c->n_heads = c->n_kv_heads = n_heads;
    c->d_head = c->d_value = d_head;
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
    if (c->wide)
        case_name_add(c, "/kv%lldx%lld/w%lld/%s/%s%s", (long long)c->n_kv_heads,
            (long long)c->d_value, (long long)c->window,
            qmi_kv_type_name(c->kv_type),
            c->second != NULL ? c->second->name : "no",
            c->bias ? "-sinks/bias" : "-sinks");
}

static check_case *add_wide(case_list *list, const wide_shape *s)
{
    check_case *c = add_case(list, s->use, s->n_heads, s->d_key, s->n_tokens);
    c->wide = true;
    c->n_kv_heads = s->n_kv_heads;
    c->d_value = s->d_value;
    c->n_spans = s->n_spans;
    c->window = s->window;
    c->kv_type = s->kv_type;
    if (s->sinks)
        c->second = choose_dense(list->n, 6);
    return c;
}

static void list_bench(case_list *list)
{
    for (size_t i = 0; i < COUNT(qmi_bench_shapes); i++) {
        check_case *c = add_case(list, qmi_bench_shapes[i].use, 12, 64,
            qmi_bench_shapes[i].n_tokens);
        c->n_spans = qmi_bench_shapes[i].n_spans;
        name_case(c);
    }
    for (size_t i = 0; i < COUNT(wide_bench_shapes); i++) {
        check_case *c = add_wide(list, &wide_bench_shapes[i]);
        c->alpha = 0.125f;
        c->bias = false;
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
    c->bias = c->bias && (!c->wide || choose(i, 7, 3) == 0);
    /* Beyond the range of 16 bits. */
    if (c->kv_type == QMI_KV_F16 &&
        (c->w == VALUES_LARGE || c->w == VALUES_MIXED))
        c->w = VALUES_RANDOM;
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
    for (size_t i = 0; i < COUNT(wide_shapes); i++) {
        add_wide(list, &wide_shapes[i]);
        vary(list, wide_shapes[i].n_spans);
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

/* In cache rows of 16 bits, some columns hold numbers that are subnormal
 * there: none of them may be lost. */
static void shrink_columns(float *row, int64_t n)
{
    for (int64_t i = 5; i < n; i += 8)
        row[i] *= 0x1p-15f;
}

/* Keys or values.  Rows that belong to no span stay NaN in any type: reading
 * one shows. */
static void add_rows(problem *p, const char *name, int64_t view_at,
    const qmi_attention_span *spans, int64_t n_keys, int64_t n, value_kind kind,
    rng *r)
{
    const qmi_kv_type type = p->c->kv_type;
    const int64_t words = (int64_t)qmi_kv_row_bytes(type, n) / 4;
    operand *o = add_floats(p, name, view_at, n_keys, words);
    memset(o->data.bytes, 0xff, (size_t)(n_keys * words) * 4);
    float *row = check_calloc((size_t)n, sizeof *row);
    for (int64_t s = 0; s < p->c->n_spans; s++)
        for (int64_t k = 0; k < spans[s].k_len; k++) {
            fill_values(row, n, r, kind);
            if (type == QMI_KV_F16)
                shrink_columns(row, n);
            qmi_kv_pack(
                o->data.floats + (spans[s].k_begin + k) * words, type, row, n);
        }
    free(row);
}

static void add_operands(problem *p, const qmi_attention_span *spans,
    int64_t n_queries, int64_t n_keys, rng *r)
{
    const check_case *c = p->c;
    const int64_t width = c->n_heads * c->d_head;
    operand *q = add_floats(p, "q", VIEW_AT(attention.q), n_queries, width);
    fill_values(q->data.floats, n_queries * width, r, c->x);
    add_rows(p, "k", VIEW_AT(attention.k), spans, n_keys,
        c->n_kv_heads * c->d_head, c->x, r);
    add_rows(p, "v", VIEW_AT(attention.v), spans, n_keys,
        c->n_kv_heads * c->d_value, c->w, r);
    operand *table = add_ints(p, "spans", VIEW_AT(attention.spans), c->n_spans,
        sizeof *spans / sizeof(int32_t));
    memcpy(table->data.ints, spans, (size_t)c->n_spans * sizeof *spans);
    if (c->bias) {
        const int64_t n = 2 * c->max_distance + 1;
        operand *bias =
            add_floats(p, "bias", VIEW_AT(attention.bias), c->n_heads, n);
        fill_values(bias->data.floats, c->n_heads * n, r, VALUES_RANDOM);
    }
    add_output(
        p, "dst", VIEW_AT(attention.dst), n_queries, c->n_heads * c->d_value);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    QMI_TRY(add_vector(p, offsetof(qmi_op, u.attention.sinks), c->n_heads,
        VALUES_RANDOM, r, err));
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
    o->n_kv_heads = c->n_kv_heads;
    o->d_key = c->d_head;
    o->d_value = c->d_value;
    o->window = c->window;
    o->kv_type = c->kv_type;
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
    const float *q, *k, *v;        /* k, v: first key it sees, of its head */
    const float *bias;             /* of this head, distance 0; NULL: none */
    const float *sink;             /* of this head; NULL: none */
    int64_t k_width, v_width;      /* floats between keys, between values */
    int64_t n_keys, q_pos;         /* q_pos: from the first key it sees */
    double *chance, *error, *rise; /* [n_keys] */
} unit;

/* How often a running maximum may rise after each key, at most: as often as
 * it does that begins with that key.  A sink may come last and raise it once
 * more, or first: returns how often it may rise after that. */
static int64_t add_rescalings(const unit *u, const double *score)
{
    double *higher =
        u->rise; /* those to come that would raise it, last first */
    int64_t n = 0;
    for (int64_t k = u->n_keys; k-- > 0;) {
        while (n > 0 && higher[n - 1] <= score[k])
            n--;
        u->error[k] += UNIT_ROUNDOFF * 5 * (double)(n + (u->sink != NULL));
        higher[n++] = score[k];
    }
    return n;
}

/* Scores, and the absolute error of each.  Returns the largest. */
static double score_keys(const unit *u)
{
    const int64_t d = u->c->d_head, m = u->c->max_distance;
    const double scale = fabs((double)u->c->alpha);
    double largest = u->sink != NULL ? (double)*u->sink : -INFINITY;
    for (int64_t k = 0; k < u->n_keys; k++) {
        const float *key = u->k + k * u->k_width;
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
    return largest;
}

/* Softmax weights and the relative error of each before normalisation.  Returns
 * by what factor the normaliser may be off. */
static double weigh(const unit *u)
{
    const double largest = score_keys(u);
    const int64_t n_rises = add_rescalings(u, u->chance);
    double sum = 0, off = 0;
    for (int64_t k = 0; k < u->n_keys; k++) {
        double below = largest - u->chance[k];
        u->error[k] += UNIT_ROUNDOFF * (2 * below + 4);
        u->chance[k] = exp(-below);
        sum += u->chance[k];
        if (u->chance[k] > 0)
            off += u->chance[k] * exp(u->error[k]);
    }
    if (u->sink != NULL) {
        const double below = largest - (double)*u->sink, chance = exp(-below);
        sum += chance;
        off +=
            chance * exp(UNIT_ROUNDOFF * (2 * below + 4 + 5 * (double)n_rises));
    }
    for (int64_t k = 0; k < u->n_keys; k++)
        u->chance[k] /= sum;
    return off / sum;
}

static void bound_unit(double *out, const unit *u)
{
    const double normaliser = weigh(u);
    double growth =
        UNIT_ROUNDOFF * (2 * sum_growth(u->n_keys + (u->sink != NULL)) + 12);
    for (int64_t i = 0; i < u->c->d_value; i++) {
        double sum = 0, tiny = (double)u->n_keys + 2;
        for (int64_t k = 0; k < u->n_keys; k++) {
            double v = fabs((double)u->v[k * u->v_width + i]);
            double factor = exp(u->error[k]) * normaliser - 1;
            if (u->chance[k] > 0)
                sum += u->chance[k] * v * (factor + growth);
            tiny += 2 * v;
        }
        out[i] = sum + SMALLEST_NORMAL * tiny;
    }
}

/* Keys and values as numbers. */
typedef struct rows {
    float *k, *v;
} rows;

static float *decode_rows(const problem *p, const char *name, int64_t n)
{
    const operand *o = find_operand(p, name);
    float *out = check_calloc((size_t)(o->n_rows * n), sizeof *out);
    for (int64_t i = 0; i < o->n_rows; i++)
        qmi_kv_unpack(
            out + i * n, o->data.floats + i * o->n_cols, p->c->kv_type, 0, n);
    return out;
}

static void bound_span(problem *p, double *out, const qmi_attention_span *s,
    const rows *kv, double *work)
{
    const check_case *c = p->c;
    const float *bias = find_floats(p, "bias"), *sinks = find_vector(p);
    const int64_t n = p->body.u.attention.max_keys;
    const int64_t shared = c->n_heads / c->n_kv_heads;
    unit u = {.c = c,
        .k_width = c->n_kv_heads * c->d_head,
        .v_width = c->n_kv_heads * c->d_value,
        .chance = work,
        .error = work + n,
        .rise = work + 2 * n};
    for (int64_t i = 0; i < s->q_len; i++) {
        const int64_t q_pos = s->q_pos + i;
        const int64_t first =
            c->window > 0 && q_pos >= c->window ? q_pos + 1 - c->window : 0;
        u.q_pos = q_pos - first;
        u.n_keys =
            (c->causal && q_pos + 1 < s->k_len ? q_pos + 1 : s->k_len) - first;
        for (int64_t h = 0; h < c->n_heads; h++) {
            const int64_t at = (s->q_begin + i) * c->n_heads + h;
            const int64_t key = s->k_begin + first;
            u.q = find_floats(p, "q") + at * c->d_head;
            u.k = kv->k + key * u.k_width + h / shared * c->d_head;
            u.v = kv->v + key * u.v_width + h / shared * c->d_value;
            u.bias = bias == NULL ? NULL
                                  : bias + h * (2 * c->max_distance + 1) +
                                        c->max_distance;
            u.sink = sinks == NULL ? NULL : &sinks[h];
            bound_unit(out + at * c->d_value, &u);
        }
    }
}

static void bound(problem *p)
{
    const qmi_op_attention *o = &p->body.u.attention;
    const qmi_attention_span *spans = find_operand(p, "spans")->data.bytes;
    double *out = make_bound(p, "dst");
    double *work = check_calloc(3 * (size_t)o->max_keys, sizeof *work);
    const rows kv = {decode_rows(p, "k", o->n_kv_heads * o->d_key),
        decode_rows(p, "v", o->n_kv_heads * o->d_value)};
    for (int64_t s = 0; s < o->n_spans; s++)
        bound_span(p, out, &spans[s], &kv, work);
    free(kv.k);
    free(kv.v);
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
        .flops = 2 * pairs * (double)(o->n_heads * (o->d_key + o->d_value)),
    };
}

const check_op check_attention = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .cost = cost,
};
