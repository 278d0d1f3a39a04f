/* SPDX-License-Identifier: Apache-2.0
 * Attention in blocks of keys with an online softmax, as kernels compute it,
 * with one mistake each.  That each is caught shows that the cases have more
 * keys than a block, and maxima that rise late. */
#include "selftest.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

typedef enum mistake {
    NONE,
    STALE_SUM,    /* a new maximum rescales the values alone */
    STALE_VALUES, /* ... or the sum alone */
    KEY_LOST,     /* the last key of a whole block is left out */
    KEY_TWICE,    /* the first key of a block belongs to two */
    BLOCK_MASK,   /* causal: the block of a query is seen as a whole */
    BLOCK_BIAS,   /* distances count from the block's first key */
    PART_SCALE    /* results of parts of the keys are added as they are */
} mistake;

/* One query and head; `width` floats lie between keys. */
typedef struct row {
    const qmi_op_attention *o;
    const float *q, *k, *v, *bias;
    int64_t width, q_pos, n_keys;
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
        score += (double)r->q[i] * r->k[k * r->width + i];
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
    for (int64_t i = 0; i < r->o->d_key && r->wrong != STALE_VALUES; i++)
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
        for (int64_t i = 0; i < r->o->d_key; i++)
            r->values[i] += weight * r->v[k * r->width + i];
    }
}

static void attend(row *r, float *dst, int64_t k_len)
{
    if (r->wrong == BLOCK_MASK && r->n_keys < k_len) {
        r->n_keys = (r->n_keys + r->block - 1) / r->block * r->block;
        r->n_keys = r->n_keys < k_len ? r->n_keys : k_len;
    }
    r->largest = -DBL_MAX;
    r->sum = 0;
    for (int64_t i = 0; i < r->o->d_key; i++)
        r->values[i] = 0;
    for (int64_t k = 0; k < r->n_keys; k += r->block) {
        int64_t end = k + r->block < r->n_keys ? k + r->block : r->n_keys;
        if (r->wrong == KEY_TWICE && end < r->n_keys)
            end++;
        if (r->wrong == KEY_LOST && end == k + r->block)
            end--;
        meet(r, k, end);
    }
    for (int64_t i = 0; i < r->o->d_key; i++)
        dst[i] = (float)(r->values[i] / r->sum);
}

static void attend_span(row *r, const qmi_attention_span *s)
{
    const qmi_op_attention *o = r->o;
    const float *bias = qmi_host_pointer(o->bias);
    for (int64_t i = 0; i < s->q_len; i++)
        for (int64_t h = 0; h < o->n_heads; h++) {
            const int64_t at = (s->q_begin + i) * r->width + h * o->d_key;
            const int64_t keys = s->k_begin * r->width + h * o->d_key;
            r->q = (const float *)qmi_host_pointer(o->q) + at;
            r->k = (const float *)qmi_host_pointer(o->k) + keys;
            r->v = (const float *)qmi_host_pointer(o->v) + keys;
            r->bias =
                bias != NULL ? bias + h * (2 * o->max_distance + 1) : NULL;
            r->q_pos = s->q_pos + i;
            r->n_keys = s->k_len;
            if (o->causal && r->q_pos + 1 < r->n_keys)
                r->n_keys = r->q_pos + 1;
            attend(r, (float *)qmi_host_pointer(o->dst) + at, s->k_len);
        }
}

static qmoe_status run_wrong(const qmi_op *op, mistake wrong, int64_t block)
{
    const qmi_op_attention *o = &op->u.attention;
    const qmi_attention_span *spans = qmi_host_pointer(o->spans);
    row r = {.o = o,
        .width = o->n_heads * o->d_key,
        .wrong = wrong,
        .block = block,
        .values = check_calloc((size_t)o->d_key, sizeof(double))};
    for (int64_t s = 0; s < o->n_spans; s++)
        attend_span(&r, &spans[s]);
    free(r.values);
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
    X(part_lost, "last-key-of-part-lost", KEY_LOST, 256)

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
    {text, QMI_OP_ATTENTION, NULL, name, (wrong) == NONE ? ALWAYS : SOMETIMES, \
        (wrong) == NONE ? 0 : CHECK_VALUE, 0},
    MISTAKE_MAP(MUTANT)
#undef MUTANT
};

const mutant *attention_mutant_at(size_t index)
{
    return index < sizeof mutants / sizeof *mutants ? &mutants[index] : NULL;
}
