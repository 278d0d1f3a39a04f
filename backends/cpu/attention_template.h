/* SPDX-License-Identifier: Apache-2.0
 * Attention in the compiler's vector types, compiled for each instruction set.
 * Set by the including file: ISA (target attribute or nothing), NAME(x), LANES
 * (floats in a register), VECS (registers side by side: 1, 2 or 4),
 * FMA(a, b, c) = a * b + c, MAX(a, b) = the larger (when one is NaN: b, on Arm
 * NaN), SUMS(v) = the sums of the lanes of LANES registers, one in each lane,
 * HALVES(p) = LANES numbers of 16 bits from any address, CODES(p) = LANES
 * signed bytes.  No include guard on purpose.
 *
 * Block of queries: a lane is a query, so that maxima, sums and rescaling of
 * the online softmax are plain operations on registers, and keys and values
 * are broadcast.  Step of one query: a lane is a channel.  Every key and value
 * is loaded once for up to HEADS heads that share it. */

#include "exp_template.h"

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
        NAME(loose) *to = (void *)(dst + i);
        *to = CODES(code + i) * scale;
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

/* Scores of n_keys keys for n_heads heads of queries that share them.  Constant
 * n_heads and n_keys after inlining, here and below, and n_heads * n_keys <=
 * LANES: every lane of the result is a sum. */
INLINE void NAME(score_keys)(float *scores, const qcpu_attention_task *a,
    const float *q, const float *k, int64_t stride, int n_heads, int n_keys)
{
    const int64_t d = a->d_key;
    NAME(vec) sums[LANES] = {{0}};
    int64_t c = 0;
    for (; c + LANES <= d; c += LANES) {
        QCPU_UNROLL
        for (int i = 0; i < n_keys; i++) {
            const NAME(loose) *key = (const void *)(k + i * stride + c);
            QCPU_UNROLL
            for (int h = 0; h < n_heads; h++) {
                const NAME(loose) *query = (const void *)(q + h * d + c);
                NAME(vec) *sum = &sums[h * n_keys + i];
                *sum = FMA(*key, *query, *sum);
            }
        }
    }
    float out[LANES];
    *(NAME(loose) *)(void *)out = SUMS(sums);
    for (; c < d; c++)
        for (int i = 0; i < n_keys; i++)
            for (int h = 0; h < n_heads; h++)
                out[h * n_keys + i] += k[i * stride + c] * q[h * d + c];
    QCPU_UNROLL
    for (int h = 0; h < n_heads; h++)
        QCPU_UNROLL
    for (int i = 0; i < n_keys; i++)
        scores[h * QCPU_CHUNK + i] = a->scale * out[h * n_keys + i];
}

INLINE void NAME(score_heads)(float *scores, const qcpu_attention_task *a,
    const float *q, tile k, int n_heads)
{
    const int some = LANES / (n_heads == 3 ? 4 : n_heads);
    const float *rows = k.rows;
    int64_t i = 0;
    for (; i + some <= k.n; i += some, rows += some * k.stride) {
        fetch_ahead(&k, i, some);
        NAME(score_keys)(scores + i, a, q, rows, k.stride, n_heads, some);
    }
    for (; i < k.n; i++, rows += k.stride)
        NAME(score_keys)(scores + i, a, q, rows, k.stride, n_heads, 1);
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
    out->sum = 0;
    for (int i = 0; i < LANES; i++)
        out->sum += sum[i];
}

/* out += weights times n_vecs registers of values from column c on, for n_heads
 * heads that share them. */
INLINE void NAME(value_vecs)(uint8_t *out, size_t out_bytes,
    const float *weights, tile v, int64_t c, int n_heads, int n_vecs)
{
    NAME(vec) sums[HEADS][VECS];
    out += (size_t)c * sizeof(float);
    QCPU_UNROLL
    for (int h = 0; h < n_heads; h++)
        memcpy(sums[h], out + out_bytes * (size_t)h,
            (size_t)n_vecs * sizeof **sums);
    for (int64_t k = 0; k < v.n; k++) {
        const NAME(loose) *value = (const void *)(v.rows + k * v.stride + c);
        fetch_ahead(&v, k, 1);
        QCPU_UNROLL
        for (int h = 0; h < n_heads; h++) {
            const NAME(vec) weight = NAME(all)(weights[h * QCPU_CHUNK + k]);
            QCPU_UNROLL
            for (int i = 0; i < n_vecs; i++)
                sums[h][i] = FMA(weight, value[i], sums[h][i]);
        }
    }
    QCPU_UNROLL
    for (int h = 0; h < n_heads; h++)
        memcpy(out + out_bytes * (size_t)h, sums[h],
            (size_t)n_vecs * sizeof **sums);
}

INLINE void NAME(value_heads)(uint8_t *out, size_t out_bytes,
    const float *weights, tile v, int64_t d, int n_heads)
{
    int64_t c = 0;
    for (; c + VECS * LANES <= d; c += VECS * LANES) {
        NAME(value_vecs)(out, out_bytes, weights, v, c, n_heads, VECS);
        v.ahead_bytes = 0; /* once is enough */
    }
    for (; c + LANES <= d; c += LANES)
        NAME(value_vecs)(out, out_bytes, weights, v, c, n_heads, 1);
    for (; c < d; c++)
        for (int h = 0; h < n_heads; h++) {
            float *sum = (float *)(void *)(out + out_bytes * (size_t)h) + c;
            for (int64_t k = 0; k < v.n; k++)
                *sum += weights[h * QCPU_CHUNK + k] * v.rows[k * v.stride + c];
        }
}

/* n keys from `first` on as floats: where they lie, or widened into `memory`. */
INLINE tile NAME(tile_of)(float *memory, const qcpu_kv_rows *from,
    int64_t n_heads, int64_t first, int64_t n)
{
    const uint64_t next = (uint64_t)(first + QCPU_TILE);
    tile t = {.n = n,
        .ahead = from->rows + next * from->row_bytes,
        .ahead_stride = from->row_bytes};
    if (from->type == QMI_KV_F32) {
        t.stride = (int64_t)(from->row_bytes / sizeof(float));
        t.rows = (const float *)(const void *)from->rows + first * t.stride +
                 from->first;
    } else {
        t.stride = n_heads * from->width;
        t.rows = memory;
        NAME(gather)(memory, from, n_heads, first, n);
    }
    return t;
}

/* scores [n_heads][QCPU_CHUNK] of keys [at, at + n) of those from `first`. */
ISA static void NAME(score_tile)(float *scores, float *memory,
    const qcpu_attention_task *a, int64_t first, int64_t at, int64_t n)
{
    const tile all =
        NAME(tile_of)(memory, &a->k, a->n_heads / a->shared, first + at, n);
    int some;
    for (int64_t h = 0; h < a->n_heads; h += some) {
        const tile k = tile_of_head(&all, a, &a->k, h);
        const float *q = a->q + h * a->d_key;
        float *to = scores + h * QCPU_CHUNK + at;
        some = heads_from(a, h);
        if (some == 4)
            NAME(score_heads)(to, a, q, k, 4);
        else if (some == 3)
            NAME(score_heads)(to, a, q, k, 3);
        else if (some == 2)
            NAME(score_heads)(to, a, q, k, 2);
        else
            NAME(score_heads)(to, a, q, k, 1);
    }
}

ISA static void NAME(value_tile)(uint8_t *partials, size_t partial_bytes,
    const float *scores, float *memory, const qcpu_attention_task *a,
    int64_t first, int64_t at, int64_t n)
{
    const int64_t d = a->d_value;
    const size_t bytes = partial_bytes;
    const tile all =
        NAME(tile_of)(memory, &a->v, a->n_heads / a->shared, first + at, n);
    int some;
    for (int64_t h = 0; h < a->n_heads; h += some) {
        const tile v = tile_of_head(&all, a, &a->v, h);
        const float *weights = scores + h * QCPU_CHUNK + at;
        uint8_t *out = partials + bytes * (size_t)h + sizeof(qcpu_partial);
        some = heads_from(a, h);
        if (some == 4)
            NAME(value_heads)(out, bytes, weights, v, d, 4);
        else if (some == 3)
            NAME(value_heads)(out, bytes, weights, v, d, 3);
        else if (some == 2)
            NAME(value_heads)(out, bytes, weights, v, d, 2);
        else
            NAME(value_heads)(out, bytes, weights, v, d, 1);
    }
}

ISA static void NAME(step)(uint8_t *partials, size_t partial_bytes,
    const qcpu_attention_task *a, int64_t first, int64_t n, void *scratch)
{
    float *line = scratch, *scores = line + LINE_FLOATS; /* [n_heads][CHUNK] */
    float *memory = scores + a->n_heads * QCPU_CHUNK;
    for (int64_t i = 0; i < n; i += QCPU_TILE)
        NAME(score_tile)
    (scores, memory, a, first, i, n - i < QCPU_TILE ? n - i : QCPU_TILE);
    for (int64_t h = 0; h < a->n_heads; h++) {
        qcpu_partial *out = (void *)(partials + partial_bytes * (size_t)h);
        /* The query sees all of these keys: nothing to mask. */
        if (a->bias != NULL) {
            qcpu_attention_line(line, a, h, 1, first, n);
            for (int64_t i = 0; i < n; i++)
                scores[h * QCPU_CHUNK + i] += line[n - 1 - i];
        }
        NAME(softmax)(out, scores + h * QCPU_CHUNK, n);
        memset(out + 1, 0, (size_t)a->d_value * sizeof(float));
    }
    for (int64_t i = 0; i < n; i += QCPU_TILE)
        NAME(value_tile)
    (partials, partial_bytes, scores, memory, a, first, i,
        n - i < QCPU_TILE ? n - i : QCPU_TILE);
}

#undef INLINE
