/* SPDX-License-Identifier: Apache-2.0
 * Attention in the compiler's vector types, compiled for each instruction set.
 * Set by the including file: ISA (target attribute or nothing), NAME(x), LANES
 * (floats in a register), VECS (registers side by side: 1, 2 or 4),
 * FMA(a, b, c) = a * b + c, MAX(a, b) = the larger (when one is NaN: b, on Arm
 * NaN), SUM(v) = sum of the lanes, HALVES(p) = LANES numbers of 16 bits from any
 * address.  No include guard on purpose.
 *
 * Block of queries: a lane is a query, so that maxima, sums and rescaling of
 * the online softmax are plain operations on registers, and keys and values
 * are broadcast.  Step of one query: a lane is a channel, and every key and
 * value is read once, in the order of memory. */

#include "exp_template.h"

typedef int8_t NAME(codes) __attribute__((vector_size(LANES)));

/* ---- keys and values of the cache ---- */

/* Columns [first, first + n) of one block of 8 bits. */
INLINE void NAME(widen_block)(
    float *dst, const uint8_t *block, int64_t first, int64_t n)
{
    float scale;
    memcpy(&scale, block, sizeof scale);
    const int8_t *code = (const int8_t *)(block + sizeof scale) + first;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        NAME(codes) some;
        memcpy(&some, code + i, sizeof some);
        NAME(loose) *to = (void *)(dst + i);
        *to = __builtin_convertvector(some, NAME(vec)) * scale;
    }
    for (; i < n; i++)
        dst[i] = (float)code[i] * scale;
}

/* Columns [first, first + n) of one row. */
INLINE void NAME(widen)(
    float *dst, const uint8_t *row, qmi_kv_type type, int64_t first, int64_t n)
{
    int64_t i = 0;
    if (type == QMI_KV_F32) {
        memcpy(dst, row + 4 * first, (size_t)n * sizeof *dst);
    } else if (type == QMI_KV_F16) {
        for (; i + LANES <= n; i += LANES) {
            NAME(loose) *to = (void *)(dst + i);
            *to = HALVES(row + 2 * (first + i));
        }
        for (; i < n; i++)
            dst[i] = qmi_f16_to_f32(qmi_load_u16(row + 2 * (first + i)));
    } else {
        while (i < n) {
            const int64_t from = (first + i) % QMI_KV_BLOCK;
            const int64_t left = QMI_KV_BLOCK - from;
            const int64_t some = left < n - i ? left : n - i;
            NAME(widen_block)
            (dst + i, row + (first + i) / QMI_KV_BLOCK * QMI_KV_BLOCK_BYTES,
                from, some);
            i += some;
        }
    }
}

/* The columns of `n_heads` heads of n keys from `first` on, back to back.  The
 * heads beside them lie between their rows, which at the usual distances meet in
 * few sets of the L1 cache: copied, they stay there. */
ISA static void NAME(gather)(float *dst, const qcpu_kv_rows *from,
    int64_t n_heads, int64_t first, int64_t n)
{
    const int64_t width = n_heads * from->width;
    const uint8_t *row = from->rows + (uint64_t)first * from->row_bytes;
    for (int64_t i = 0; i < n; i++, row += from->row_bytes, dst += width)
        NAME(widen)(dst, row, from->type, from->first, width);
}

/* ---- a block of queries ---- */

/* scores[key][query] of n_rows keys; `largest` is raised to them.  `line`: of
 * the first query and the first of these keys.  Constant n_rows and n_vecs
 * after inlining, here and below. */
INLINE void NAME(score_rows)(NAME(vec) * scores, NAME(vec) * largest,
    const NAME(vec) * q, const float *k, int64_t d, NAME(vec) scale,
    const float *line, int n_rows, int n_vecs)
{
    NAME(vec) sums[ROWS][VECS] = {{{0}}};
    for (int64_t c = 0; c < d; c++, q += n_vecs) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const NAME(vec) key = NAME(all)(k[r * d + c]);
            QCPU_UNROLL
            for (int v = 0; v < n_vecs; v++)
                sums[r][v] = FMA(key, q[v], sums[r][v]);
        }
    }
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++) {
        const NAME(loose) *at = (const void *)(line - r);
        QCPU_UNROLL
        for (int v = 0; v < n_vecs; v++) {
            const NAME(vec) score = FMA(sums[r][v], scale, at[v]);
            scores[r * n_vecs + v] = score;
            largest[v] = MAX(score, largest[v]);
        }
    }
}

/* out[channel][query] = factor * out + sum over keys of weight * value, of
 * n_rows channels. */
INLINE void NAME(value_rows)(NAME(vec) * out, const NAME(vec) * factor,
    const NAME(vec) * weights, const float *value, int64_t d, int64_t n_keys,
    int n_rows, int n_vecs)
{
    NAME(vec) sums[ROWS][VECS];
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++) {
        QCPU_UNROLL
        for (int v = 0; v < n_vecs; v++)
            sums[r][v] = out[r * n_vecs + v] * factor[v];
    }
    for (int64_t k = 0; k < n_keys; k++, value += d, weights += n_vecs) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const NAME(vec) one = NAME(all)(value[r]);
            QCPU_UNROLL
            for (int v = 0; v < n_vecs; v++)
                sums[r][v] = FMA(one, weights[v], sums[r][v]);
        }
    }
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++) {
        QCPU_UNROLL
        for (int v = 0; v < n_vecs; v++)
            out[r * n_vecs + v] = sums[r][v];
    }
}

/* Queries side by side in n_vecs registers. */
typedef struct NAME(strip) {
    int64_t first; /* query of the block */
    int n_vecs;
    NAME(vec) * q;   /* [d_key][n_vecs] */
    NAME(vec) * out; /* [d_value][n_vecs], not yet divided by `sum` */
    NAME(vec) largest[VECS], sum[VECS];
} NAME(strip);

/* Raises the maximum, makes weights of the scores of n keys and adds them to
 * the sum.  factor: what results so far are to be multiplied by. */
INLINE void NAME(weigh)(NAME(strip) * s, NAME(vec) * scores, int64_t n,
    const NAME(vec) * largest, NAME(vec) * factor, int n_vecs)
{
    QCPU_UNROLL
    for (int i = 0; i < n_vecs; i++) {
        factor[i] = NAME(exp)(s->largest[i] - largest[i]);
        s->largest[i] = largest[i];
        s->sum[i] *= factor[i];
    }
    for (int64_t key = 0; key < n; key++, scores += n_vecs) {
        QCPU_UNROLL
        for (int i = 0; i < n_vecs; i++) {
            scores[i] = NAME(exp)(scores[i] - largest[i]);
            s->sum[i] += scores[i];
        }
    }
}

/* A strip meets n keys, whose rows lie back to back.  `line`: of its first
 * query and the first key. */
INLINE void NAME(meet)(NAME(strip) * s, NAME(vec) * scores,
    const qcpu_attention_task *a, const float *k, const float *v, int64_t n,
    const float *line, int n_vecs)
{
    const NAME(vec) scale = NAME(all)(a->scale);
    NAME(vec) largest[VECS], factor[VECS];
    NAME(vec) *row = scores;
    int64_t key = 0, c = 0;
    QCPU_UNROLL
    for (int i = 0; i < n_vecs; i++)
        largest[i] = s->largest[i];
    for (; key + ROWS <= n; key += ROWS, row += ROWS * n_vecs)
        NAME(score_rows)
    (row, largest, s->q, k + key * a->d_key, a->d_key, scale, line - key, ROWS,
        n_vecs);
    for (; key < n; key++, row += n_vecs)
        NAME(score_rows)
    (row, largest, s->q, k + key * a->d_key, a->d_key, scale, line - key, 1,
        n_vecs);
    NAME(weigh)(s, scores, n, largest, factor, n_vecs);
    for (; c + ROWS <= a->d_value; c += ROWS)
        NAME(value_rows)
    (s->out + c * n_vecs, factor, scores, v + c, a->d_value, n, ROWS, n_vecs);
    for (; c < a->d_value; c++)
        NAME(value_rows)
    (s->out + c * n_vecs, factor, scores, v + c, a->d_value, n, 1, n_vecs);
}

ISA static void NAME(meet_any)(NAME(strip) * s, NAME(vec) * scores,
    const qcpu_attention_task *a, const float *k, const float *v, int64_t n,
    const float *line)
{
    if (s->n_vecs == VECS)
        NAME(meet)(s, scores, a, k, v, n, line, VECS);
    else if (s->n_vecs == 2)
        NAME(meet)(s, scores, a, k, v, n, line, 2);
    else
        NAME(meet)(s, scores, a, k, v, n, line, 1);
}

/* Queries from `first` on into a strip, zeros beyond the last; returns where
 * the memory behind it begins. */
static void *NAME(strip_begin)(NAME(strip) * s, const qcpu_attention_task *a,
    int64_t first, NAME(vec) * memory)
{
    /* A sink is a score without a value, and comes first. */
    const float largest = a->sinks != NULL ? a->sinks[0] : -FLT_MAX;
    const int64_t left = a->n_queries - first;
    const int64_t n_vecs = (left + LANES - 1) / LANES;
    const float *q = a->q + first * a->q_stride;
    *s = (NAME(strip)){.first = first, .q = memory};
    s->n_vecs = n_vecs > 2 ? VECS : n_vecs == 2 && VECS > 1 ? 2 : 1;
    s->out = s->q + a->d_key * s->n_vecs;
    const int64_t width = s->n_vecs * LANES;
    for (int64_t i = 0; i < width; i++) {
        ((float *)s->largest)[i] = largest;
        ((float *)s->sum)[i] = a->sinks != NULL ? 1 : 0;
    }
    float *to = (float *)s->q;
    for (int64_t c = 0; c < a->d_key; c++)
        for (int64_t i = 0; i < width; i++)
            *to++ = i < left ? q[i * a->q_stride + c] : 0;
    memset(s->out, 0, (size_t)(a->d_value * width) * sizeof(float));
    return s->out + a->d_value * s->n_vecs;
}

static void NAME(strip_end)(const NAME(strip) * s, const qcpu_attention_task *a)
{
    const int64_t width = s->n_vecs * LANES, left = a->n_queries - s->first;
    const float *out = (const float *)s->out, *sum = (const float *)s->sum;
    float *dst = a->dst + s->first * a->dst_stride;
    for (int64_t i = 0; i < width && i < left; i++, dst += a->dst_stride)
        for (int64_t c = 0; c < a->d_value; c++)
            dst[c] = out[c * width + i] / sum[i];
}

static void NAME(block)(
    const qcpu_attention_task *a, void *scratch, const qmi_error *err)
{
    NAME(strip) strips[QCPU_QUERIES / (VECS * LANES)];
    const block_parts parts = parts_of(a, scratch);
    void *memory = parts.strips;
    int n_strips = 0;
    for (int64_t i = 0; i < a->n_queries; i += VECS * LANES)
        memory = NAME(strip_begin)(&strips[n_strips++], a, i, memory);
    const int64_t n_keys = visible_keys(a);
    for (int64_t k = qcpu_first_key(a->window, a->q_pos);
         k < n_keys && !qmi_cancelled(err); k += QCPU_KEYS) {
        const int64_t n = n_keys - k < QCPU_KEYS ? n_keys - k : QCPU_KEYS;
        qcpu_attention_line(parts.line, a, 0, QCPU_QUERIES, k, n);
        NAME(gather)(parts.k, &a->k, 1, k, n);
        NAME(gather)(parts.v, &a->v, 1, k, n);
        for (int i = 0; i < n_strips; i++)
            NAME(meet_any)
        (&strips[i], (void *)parts.scores, a, parts.k, parts.v, n,
            parts.line + n - 1 + strips[i].first);
    }
    for (int i = 0; i < n_strips; i++)
        NAME(strip_end)(&strips[i], a);
}

/* ---- a step of one query ---- */

INLINE float NAME(dot)(const float *x, const float *y, int64_t n)
{
    const NAME(loose) *a = (const void *)x, *b = (const void *)y;
    NAME(vec) sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sums = FMA(*a++, *b++, sums);
    float sum = SUM(sums);
    for (; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Scores of n keys, padded to whole registers, into weights. */
INLINE void NAME(softmax)(qcpu_partial *out, float *scores, int64_t n)
{
    NAME(vec) *at = (void *)scores;
    NAME(vec) largest = (NAME(vec)){0} - FLT_MAX, sum = {0};
    const int64_t n_vecs = (n + LANES - 1) / LANES;
    for (int64_t i = n; i < n_vecs * LANES; i++)
        scores[i] = -INFINITY;
    for (int64_t i = 0; i < n_vecs; i++)
        largest = MAX(at[i], largest);
    out->largest = largest[0];
    for (int i = 1; i < LANES; i++)
        if (!(out->largest > largest[i]))
            out->largest = largest[i];
    for (int64_t i = 0; i < n_vecs; i++) {
        at[i] = NAME(exp)(at[i] - NAME(all)(out->largest));
        sum += at[i];
    }
    out->sum = SUM(sum);
}

/* out += weights of n_rows keys times their values. */
INLINE void NAME(add_values)(float *out, const float *weights, const float *v,
    int64_t v_stride, int64_t d, int n_rows)
{
    NAME(vec) weight[ROWS];
    int64_t c = 0;
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++)
        weight[r] = NAME(all)(weights[r]);
    for (; c + LANES <= d; c += LANES) {
        NAME(loose) *to = (void *)(out + c);
        NAME(vec) sum = *to;
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const NAME(loose) *value = (const void *)(v + r * v_stride + c);
            sum = FMA(weight[r], *value, sum);
        }
        *to = sum;
    }
    for (; c < d; c++)
        for (int r = 0; r < n_rows; r++)
            out[c] += weights[r] * v[r * v_stride + c];
}

/* n keys as floats: where they lie, or widened into `tile`.  A head of keys is
 * read once for all heads of queries that share it. */
INLINE const float *NAME(tile_of)(float *tile, int64_t *stride,
    const qcpu_kv_rows *from, int64_t n_heads, int64_t first, int64_t n)
{
    if (from->type == QMI_KV_F32) {
        *stride = (int64_t)(from->row_bytes / sizeof(float));
        return (const float *)(const void *)from->rows + first * *stride +
               from->first;
    }
    *stride = n_heads * from->width;
    NAME(gather)(tile, from, n_heads, first, n);
    return tile;
}

/* scores [n_heads][QCPU_CHUNK] of keys [at, at + n) of those from `first`. */
INLINE void NAME(score_tile)(float *scores, float *tile,
    const qcpu_attention_task *a, int64_t first, int64_t at, int64_t n)
{
    int64_t stride;
    const float *k = NAME(tile_of)(
        tile, &stride, &a->k, a->n_heads / a->shared, first + at, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < a->n_heads; h++)
            scores[h * QCPU_CHUNK + at + i] =
                a->scale * NAME(dot)(a->q + h * a->d_key,
                               k + i * stride + h / a->shared * a->d_key,
                               a->d_key);
}

INLINE void NAME(value_tile)(uint8_t *partials, size_t partial_bytes,
    const float *scores, float *tile, const qcpu_attention_task *a,
    int64_t first, int64_t at, int64_t n)
{
    int64_t stride, i = 0;
    const float *v = NAME(tile_of)(
        tile, &stride, &a->v, a->n_heads / a->shared, first + at, n);
    while (i < n) {
        const int some = n - i >= ROWS ? ROWS : 1;
        for (int64_t h = 0; h < a->n_heads; h++) {
            float *out =
                (float *)(void *)(partials + partial_bytes * (size_t)h +
                                  sizeof(qcpu_partial));
            const float *weights = scores + h * QCPU_CHUNK + at + i;
            const float *value = v + i * stride + h / a->shared * a->d_value;
            if (some == ROWS)
                NAME(add_values)(out, weights, value, stride, a->d_value, ROWS);
            else
                NAME(add_values)(out, weights, value, stride, a->d_value, 1);
        }
        i += some;
    }
}

ISA static void NAME(step)(uint8_t *partials, size_t partial_bytes,
    const qcpu_attention_task *a, int64_t first, int64_t n, void *scratch)
{
    float *line = scratch, *scores = line + LINE_FLOATS; /* [n_heads][CHUNK] */
    float *tile = scores + a->n_heads * QCPU_CHUNK;
    for (int64_t i = 0; i < n; i += QCPU_TILE)
        NAME(score_tile)
    (scores, tile, a, first, i, n - i < QCPU_TILE ? n - i : QCPU_TILE);
    for (int64_t h = 0; h < a->n_heads; h++) {
        qcpu_partial *out = (void *)(partials + partial_bytes * (size_t)h);
        qcpu_attention_line(line, a, h, 1, first, n);
        for (int64_t i = 0; i < n; i++)
            scores[h * QCPU_CHUNK + i] += line[n - 1 - i];
        NAME(softmax)(out, scores + h * QCPU_CHUNK, n);
        memset(out + 1, 0, (size_t)a->d_value * sizeof(float));
    }
    for (int64_t i = 0; i < n; i += QCPU_TILE)
        NAME(value_tile)
    (partials, partial_bytes, scores, tile, a, first, i,
        n - i < QCPU_TILE ? n - i : QCPU_TILE);
}

#undef INLINE
