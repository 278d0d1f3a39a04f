/* SPDX-License-Identifier: Apache-2.0
 * Attention in blocks of keys with an online softmax, as kernels compute it,
 * with one mistake each.  That each is caught shows that the cases have more
 * keys than a block, and maxima that rise late. */
#include "selftest.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kv_rows.h"

typedef enum mistake {
    NONE,
    STALE_SUM,    /* a new maximum rescales the values alone */
    STALE_VALUES, /* ... or the sum alone */
    KEY_LOST,     /* the last key of a whole block is left out */
    KEY_TWICE,    /* the first key of a block belongs to two */
    BLOCK_MASK,   /* causal: the block of a query is seen as a whole */
    BLOCK_BIAS,   /* distances count from the block's first key */
    PART_SCALE,   /* results of parts of the keys are added as they are */
    HEADS_ROUND,  /* heads of queries go round those of keys */
    WINDOW_BLOCK, /* the window begins with a block */
    WINDOW_MORE,  /* it has one key more ... */
    WINDOW_LESS,  /* ... or less */
    SINK_BLOCKS,  /* every block has a sink */
    SINK_SCALED,  /* the sink is scaled as scores are */
    SINK_LARGEST, /* a sink counts for no more than the largest key */
    NARROW_BLOCK, /* 8 bits: a head's first scale is that of the head */
    NARROW_FLUSH  /* 16 bits: subnormal numbers are zero */
} mistake;

/* One query and head; `k_width` floats lie between keys. */
typedef struct row {
    const qmi_op_attention *o;
    float *all_k, *all_v; /* of the cache, as numbers */
    const float *q, *k, *v, *bias, *sink;
    int64_t k_width, v_width, q_pos, first, n_keys;
    mistake wrong;
    int64_t block; /* keys */
    double largest, sum, *values;
} row;

static double score_of(const row *r, int64_t k, int64_t block)
{
    const qmi_op_attention *o = r->o;
    const int64_t m = o->max_distance;
    double score = 0;
    for (int64_t i = 0; i < o->d_key; i++)
        score += (double)r->q[i] * r->k[k * r->k_width + i];
    score *= o->scale;
    if (r->bias == NULL)
        return score;
    int64_t distance = (r->wrong == BLOCK_BIAS ? block : k) - r->q_pos;
    distance = distance > m ? m : distance < -m ? -m : distance;
    return score + r->bias[distance + m];
}

/* What was found so far, brought to a new maximum. */
static void rescale(row *r, double largest)
{
    const double factor = exp(r->largest - largest);
    r->largest = largest;
    if (r->wrong != STALE_SUM)
        r->sum *= factor;
    for (int64_t i = 0; i < r->o->d_value && r->wrong != STALE_VALUES; i++)
        r->values[i] *= factor;
}

static void meet(row *r, int64_t begin, int64_t end)
{
    double largest = r->largest;
    for (int64_t k = begin; k < end; k++)
        largest = fmax(largest, score_of(r, k, begin));
    if (r->wrong == PART_SCALE)
        r->largest = largest;
    else
        rescale(r, largest);
    for (int64_t k = begin; k < end; k++) {
        const double weight = exp(score_of(r, k, begin) - r->largest);
        r->sum += weight;
        for (int64_t i = 0; i < r->o->d_value; i++)
            r->values[i] += weight * r->v[k * r->v_width + i];
    }
}

static void add_sink(row *r)
{
    const double sink =
        (double)*r->sink * (r->wrong == SINK_SCALED ? r->o->scale : 1.0f);
    rescale(r, fmax(r->largest, sink));
    r->sum += exp(sink - r->largest);
}

static void attend(row *r, float *dst, int64_t k_len)
{
    if (r->wrong == BLOCK_MASK && r->n_keys < k_len) {
        r->n_keys = (r->n_keys + r->block - 1) / r->block * r->block;
        r->n_keys = r->n_keys < k_len ? r->n_keys : k_len;
    }
    r->largest = -DBL_MAX;
    r->sum = 0;
    for (int64_t i = 0; i < r->o->d_value; i++)
        r->values[i] = 0;
    if (r->sink != NULL && r->wrong != SINK_BLOCKS && r->wrong != SINK_LARGEST)
        add_sink(r);
    for (int64_t k = r->first; k < r->n_keys; k += r->block) {
        int64_t end = k + r->block < r->n_keys ? k + r->block : r->n_keys;
        if (r->sink != NULL && r->wrong == SINK_BLOCKS)
            add_sink(r);
        if (r->wrong == KEY_TWICE && end < r->n_keys)
            end++;
        if (r->wrong == KEY_LOST && end == k + r->block)
            end--;
        meet(r, k, end);
    }
    /* A sink above all scores counts as if it were the largest. */
    if (r->sink != NULL && r->wrong == SINK_LARGEST)
        r->sum += (double)(float)exp(fmin((double)*r->sink - r->largest, 0));
    for (int64_t i = 0; i < r->o->d_value; i++)
        dst[i] = (float)(r->values[i] / r->sum);
}

/* Keys [first, n_keys) are what the query sees. */
static void see(row *r, const qmi_attention_span *s)
{
    const int64_t window =
        r->o->window + (r->wrong == WINDOW_MORE) - (r->wrong == WINDOW_LESS);
    r->n_keys = s->k_len;
    if (r->o->causal && r->q_pos + 1 < r->n_keys)
        r->n_keys = r->q_pos + 1;
    r->first = 0;
    if (r->o->window > 0 && r->q_pos + 1 > window)
        r->first = r->q_pos + 1 - window;
    if (r->wrong == WINDOW_BLOCK)
        r->first = r->first / r->block * r->block;
}

static void attend_span(row *r, const qmi_attention_span *s, const float *sinks)
{
    const qmi_op_attention *o = r->o;
    const float *bias = qmi_host_pointer(o->bias);
    for (int64_t i = 0; i < s->q_len; i++)
        for (int64_t h = 0; h < o->n_heads; h++) {
            const int64_t at = (s->q_begin + i) * o->n_heads + h;
            const int64_t kv_head = r->wrong == HEADS_ROUND
                                        ? h % o->n_kv_heads
                                        : h / (o->n_heads / o->n_kv_heads);
            r->q = (const float *)qmi_host_pointer(o->q) + at * o->d_key;
            r->k = r->all_k + s->k_begin * r->k_width + kv_head * o->d_key;
            r->v = r->all_v + s->k_begin * r->v_width + kv_head * o->d_value;
            r->bias =
                bias != NULL ? bias + h * (2 * o->max_distance + 1) : NULL;
            r->sink = sinks != NULL ? sinks + h : NULL;
            r->q_pos = s->q_pos + i;
            see(r, s);
            attend(r, (float *)qmi_host_pointer(o->dst) + at * o->d_value,
                s->k_len);
        }
}

/* A cache row with all scales of a head equal to its first. */
static void spoil_scales(uint8_t *cache_row, int64_t n_heads, int64_t width)
{
    for (int64_t h = 0; h < n_heads; h++) {
        const int64_t first = h * width / QMI_KV_BLOCK;
        const int64_t last = ((h + 1) * width - 1) / QMI_KV_BLOCK;
        for (int64_t b = first + 1; b <= last; b++)
            memcpy(cache_row + b * QMI_KV_BLOCK_BYTES,
                cache_row + first * QMI_KV_BLOCK_BYTES, sizeof(float));
    }
}

/* All rows that spans use; the others are never looked at. */
static float *read_rows(
    const qmi_op_attention *o, qmi_view view, int64_t width, mistake wrong)
{
    const qmi_attention_span *spans = qmi_host_pointer(o->spans);
    const int64_t n = o->n_kv_heads * width;
    const uint64_t n_bytes = qmi_kv_row_bytes(o->kv_type, n);
    const uint8_t *rows = qmi_host_pointer(view);
    int64_t n_rows = 0;
    for (int64_t s = 0; s < o->n_spans; s++)
        if (n_rows < spans[s].k_begin + spans[s].k_len)
            n_rows = spans[s].k_begin + spans[s].k_len;
    float *out = check_calloc((size_t)(n_rows * n), sizeof *out);
    uint8_t *copy = check_calloc(n_bytes, 1);
    for (int64_t i = 0; i < n_rows; i++) {
        memcpy(copy, rows + (uint64_t)i * n_bytes, n_bytes);
        if (wrong == NARROW_BLOCK && o->kv_type == QMI_KV_Q8)
            spoil_scales(copy, o->n_kv_heads, width);
        qmi_kv_unpack(out + i * n, copy, o->kv_type, 0, n);
    }
    for (int64_t i = 0; wrong == NARROW_FLUSH && i < n_rows * n; i++)
        if (o->kv_type == QMI_KV_F16 && fabsf(out[i]) < 0x1p-14f)
            out[i] = 0;
    free(copy);
    return out;
}

static qmoe_status run_wrong(const qmi_op *op, mistake wrong, int64_t block)
{
    const qmi_op_attention *o = &op->u.attention;
    const qmi_attention_span *spans = qmi_host_pointer(o->spans);
    row r = {.o = o,
        .all_k = read_rows(o, o->k, o->d_key, wrong),
        .all_v = read_rows(o, o->v, o->d_value, wrong),
        .k_width = o->n_kv_heads * o->d_key,
        .v_width = o->n_kv_heads * o->d_value,
        .wrong = wrong,
        .block = block,
        .values = check_calloc((size_t)o->d_value, sizeof(double))};
    float *sinks = NULL;
    if (o->sinks != NULL) {
        sinks = check_calloc((size_t)o->n_heads, sizeof *sinks);
        qmi_weight_decode(o->sinks->host, 0, 0, 1, sinks);
    }
    for (int64_t s = 0; s < o->n_spans; s++)
        attend_span(&r, &spans[s], sinks);
    free(sinks);
    free(r.values);
    free(r.all_k);
    free(r.all_v);
    return QMOE_OK;
}

/* X(function, "name", mistake, keys of a block): the blocks of the CPU
 * backend's two forms. */
#define MISTAKE_MAP(X)                                                         \
    X(good, "good-blocks", NONE, 64)                                           \
    X(stale_sum, "stale-sum", STALE_SUM, 64)                                   \
    X(stale_values, "stale-values", STALE_VALUES, 64)                          \
    X(key_lost, "last-key-of-block-lost", KEY_LOST, 64)                        \
    X(key_twice, "first-key-of-block-twice", KEY_TWICE, 64)                    \
    X(block_mask, "mask-by-blocks", BLOCK_MASK, 64)                            \
    X(block_bias, "bias-by-blocks", BLOCK_BIAS, 64)                            \
    X(part_scale, "parts-not-rescaled", PART_SCALE, 256)                       \
    X(part_lost, "last-key-of-part-lost", KEY_LOST, 256)                       \
    X(heads_round, "heads-go-round", HEADS_ROUND, 64)                          \
    X(window_block, "window-by-blocks", WINDOW_BLOCK, 64)                      \
    X(window_more, "window-one-more", WINDOW_MORE, 64)                         \
    X(window_less, "window-one-less", WINDOW_LESS, 64)                         \
    X(sink_blocks, "sink-in-every-block", SINK_BLOCKS, 64)                     \
    X(sink_scaled, "sink-scaled", SINK_SCALED, 64)                             \
    X(sink_largest, "sink-above-maximum", SINK_LARGEST, 64)                    \
    X(narrow_block, "first-scale-of-a-head", NARROW_BLOCK, 64)                 \
    X(narrow_flush, "subnormal-f16-is-zero", NARROW_FLUSH, 64)

#define FUNCTION(name, text, wrong, block)                                     \
    static qmoe_status name(                                                   \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        (void)device;                                                          \
        (void)err;                                                             \
        return run_wrong(op, wrong, block);                                    \
    }
MISTAKE_MAP(FUNCTION)
#undef FUNCTION

static const mutant mutants[] = {
#define MUTANT(name, text, wrong, block)                                       \
    {text, QMI_OP_ATTENTION, NULL, name,                                       \
        (wrong) == NONE          ? ALWAYS                                      \
        : (wrong) >= HEADS_ROUND ? SOMETIMES_WIDE                              \
                                 : SOMETIMES,                                  \
        (wrong) == NONE ? 0 : CHECK_VALUE, 0},
    MISTAKE_MAP(MUTANT)
#undef MUTANT
};

const mutant *attention_mutant_at(size_t index)
{
    return index < sizeof mutants / sizeof *mutants ? &mutants[index] : NULL;
}
