/* SPDX-License-Identifier: Apache-2.0
 * Attention: a block takes one query and up to QCUDA_ATTENTION_HEADS of its
 * heads that share a head of keys, so that these are read once for all.  It
 * goes over the keys that the query sees in runs of one key per thread, with a
 * running maximum (online softmax), so that any number of keys takes the same
 * shared memory. */
#include "kv_rows.cuh"

struct attention_span {
    int32_t q_begin, q_len, k_begin, k_len, q_pos;
};

enum { ATTENTION_WARPS = 4 };

/* What a block does, and its shared memory. */
struct attention_work {
    int n_heads;       /* of queries */
    int head, kv_head; /* the first of them; theirs */
    int query;
    int position, first, last; /* among the span's keys; the keys it sees */
    int64_t k_begin;           /* the span's */
    float *weights;            /* [keys of a run, H] */
    float *q, *sums;           /* [n_heads, d_key], [n_heads, d_value] */
    float *of_warp;            /* [n_heads, ATTENTION_WARPS] */
};

DEVICE attention_span attention_find_span(
    const qcuda_attention_args &p, int query, attention_span *found)
{
    const attention_span *spans =
        reinterpret_cast<const attention_span *>(p.spans);
    for (int s = int(threadIdx.x); s < p.n_spans; s += int(blockDim.x))
        if (query >= spans[s].q_begin &&
            query - spans[s].q_begin < spans[s].q_len)
            *found = spans[s];
    __syncthreads();
    return *found;
}

/* Reads the queries too; a barrier must follow. */
template <int H>
DEVICE attention_work attention_begin(const qcuda_attention_args &p)
{
    QCUDA_SHARED(float, shared);
    attention_work w;
    const int parts = (p.group + p.block_heads - 1) / p.block_heads;
    const int index = int(blockIdx.x) / parts, part = int(blockIdx.x) % parts;
    w.kv_head = index % p.n_kv_heads;
    w.query = p.first + index / p.n_kv_heads;
    w.n_heads = min(p.block_heads, p.group - part * p.block_heads);
    w.head = w.kv_head * p.group + part * p.block_heads;
    w.weights = shared;
    w.q = w.weights + blockDim.x * H;
    w.sums = w.q + p.block_heads * p.d_key;
    w.of_warp = w.sums + p.block_heads * p.d_value;
    const attention_span span = attention_find_span(p, w.query,
        reinterpret_cast<attention_span *>(
            w.of_warp + p.block_heads * ATTENTION_WARPS));
    w.k_begin = span.k_begin;
    w.position = span.q_pos + w.query - span.q_begin;
    w.last = p.causal != 0 ? min(span.k_len, w.position + 1) : span.k_len;
    w.first = p.window != 0 ? max(0, w.position - (p.window - 1)) : 0;
    const int64_t of_query = int64_t(p.n_kv_heads) * p.group;
    const float *q = p.q + (w.query * of_query + w.head) * p.d_key;
    for (int i = int(threadIdx.x); i < w.n_heads * p.d_key;
         i += int(blockDim.x))
        w.q[i] = q[i];
    for (int i = int(threadIdx.x); i < w.n_heads * p.d_value;
         i += int(blockDim.x))
        w.sums[i] = 0.0f;
    return w;
}

/* Is there a head h?  Of one head the compiler knows. */
template <int H>
DEVICE bool attention_has(const attention_work &w, int h)
{
    return H == 1 || h < w.n_heads;
}

/* Maxima or sums over the block, in every thread; all of them call it.  A
 * barrier must lie between two calls. */
template <int H>
DEVICE void attention_reduce(float x[H], const attention_work &w, bool maximum)
{
#pragma unroll
    for (int h = 0; h < H; h++) {
        if (!attention_has<H>(w, h))
            break;
        x[h] = maximum ? warp_max(x[h]) : warp_sum(x[h]);
        if (lane_of_thread() == 0)
            w.of_warp[h * ATTENTION_WARPS + warp_of_thread()] = x[h];
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < H; h++) {
        if (!attention_has<H>(w, h))
            break;
        const float *all = w.of_warp + h * ATTENTION_WARPS;
        x[h] = all[0];
#pragma unroll
        for (int i = 1; i < ATTENTION_WARPS; i++)
            x[h] = maximum ? fmaxf(x[h], all[i]) : x[h] + all[i];
    }
}

/* score[h] = q[h] . key */
template <int K, int H>
DEVICE void attention_dot(float score[H], const qcuda_attention_args &p,
    const attention_work &w, const kv_row<K> &key)
{
    const int column = w.kv_head * p.d_key;
    const bool by_four = p.d_key % 4 == 0;
#pragma unroll
    for (int h = 0; h < H; h++)
        score[h] = 0.0f;
    for (int i = 0; by_four && i < p.d_key; i += 4) {
        float x[4];
        key.four(x, column + i);
#pragma unroll
        for (int h = 0; h < H; h++) {
            if (!attention_has<H>(w, h))
                break;
            const float4 q =
                *reinterpret_cast<const float4 *>(w.q + h * p.d_key + i);
            score[h] = fused(q.x, x[0], score[h]);
            score[h] = fused(q.y, x[1], score[h]);
            score[h] = fused(q.z, x[2], score[h]);
            score[h] = fused(q.w, x[3], score[h]);
        }
    }
    for (int i = 0; !by_four && i < p.d_key; i++) {
        const float x = key.one(column + i);
#pragma unroll
        for (int h = 0; h < H; h++)
            if (attention_has<H>(w, h))
                score[h] = fused(w.q[h * p.d_key + i], x, score[h]);
    }
}

/* Of the thread's key. */
template <int K, int H>
DEVICE void attention_score(float score[H], const qcuda_attention_args &p,
    const attention_work &w, int key)
{
    const int64_t most = p.max_distance;
    const int64_t far = min(max(int64_t(key) - w.position, -most), most);
    kv_row<K> row;
    row.at = p.k + (w.k_begin + key) * p.k_row_bytes;
    attention_dot<K, H>(score, p, w, row);
#pragma unroll
    for (int h = 0; h < H; h++) {
        score[h] *= p.scale;
        if (p.bias != nullptr && attention_has<H>(w, h))
            score[h] += p.bias[(w.head + h) * (2 * most + 1) + far + most];
    }
}

/* Weights of the run of keys from `first` on, and what they do to the maximum
 * and the sum so far; `rescale` is for the sums of values. */
template <int K, int H>
DEVICE void attention_weigh(float largest[H], float total[H], float rescale[H],
    const qcuda_attention_args &p, const attention_work &w, int first)
{
    const int key = first + int(threadIdx.x);
    float score[H], higher[H];
#pragma unroll
    for (int h = 0; h < H; h++)
        score[h] = -INFINITY;
    if (key < w.last)
        attention_score<K, H>(score, p, w, key);
#pragma unroll
    for (int h = 0; h < H; h++)
        higher[h] = score[h];
    attention_reduce<H>(higher, w, true);
#pragma unroll
    for (int h = 0; h < H; h++) {
        if (!attention_has<H>(w, h))
            break;
        higher[h] = fmaxf(largest[h], higher[h]);
        const float weight = key < w.last ? expf(score[h] - higher[h]) : 0.0f;
        w.weights[int(threadIdx.x) * H + h] = weight;
        rescale[h] = expf(largest[h] - higher[h]);
        total[h] = total[h] * rescale[h] + weight;
        largest[h] = higher[h];
    }
    __syncthreads();
}

/* Adds the run's values, a column per thread. */
template <int K, int H>
DEVICE void attention_add(const float rescale[H], const qcuda_attention_args &p,
    const attention_work &w, int first)
{
    const int n = min(int(blockDim.x), w.last - first);
    for (int i = int(threadIdx.x); i < p.d_value; i += int(blockDim.x)) {
        kv_row<K> row;
        row.at = p.v + (w.k_begin + first) * p.v_row_bytes;
        float sum[H];
#pragma unroll
        for (int h = 0; h < H; h++)
            if (attention_has<H>(w, h))
                sum[h] = w.sums[h * p.d_value + i] * rescale[h];
        for (int k = 0; k < n; k++, row.at += p.v_row_bytes) {
            const float x = row.one(w.kv_head * p.d_value + i);
#pragma unroll
            for (int h = 0; h < H; h++)
                if (attention_has<H>(w, h))
                    sum[h] = fused(w.weights[k * H + h], x, sum[h]);
        }
#pragma unroll
        for (int h = 0; h < H; h++)
            if (attention_has<H>(w, h))
                w.sums[h * p.d_value + i] = sum[h];
    }
}

template <int K, int H>
DEVICE void attention_block(const qcuda_attention_args &p)
{
    const attention_work w = attention_begin<H>(p);
    float largest[H], total[H], rescale[H];
#pragma unroll
    for (int h = 0; h < H; h++) {
        /* A sink is a score that came before the first key's. */
        const bool sinks = p.sinks != nullptr && attention_has<H>(w, h);
        largest[h] = sinks ? p.sinks[w.head + h] : -INFINITY;
        total[h] = sinks && threadIdx.x == 0 ? 1.0f : 0.0f;
    }
    __syncthreads();
    /* Two barriers a run: between them weights are written, behind them read. */
    for (int first = w.first; first < w.last; first += int(blockDim.x)) {
        attention_weigh<K, H>(largest, total, rescale, p, w, first);
        attention_add<K, H>(rescale, p, w, first);
    }
    attention_reduce<H>(total, w, false);
    float *dst = p.dst + (int64_t(w.query) * p.n_kv_heads * p.group + w.head) *
                             p.d_value;
#pragma unroll
    for (int h = 0; h < H; h++)
        for (int i = int(threadIdx.x); attention_has<H>(w, h) && i < p.d_value;
             i += int(blockDim.x))
            dst[h * p.d_value + i] = w.sums[h * p.d_value + i] / total[h];
}

#define ATTENTION_KERNEL(name, type)                                           \
    QCUDA_KERNEL(attention_##name, qcuda_attention_args, 128, 4)               \
    {                                                                          \
        if (p.block_heads == 1)                                                \
            attention_block<type, 1>(p);                                       \
        else                                                                   \
            attention_block<type, QCUDA_ATTENTION_HEADS>(p);                   \
    }

ATTENTION_KERNEL(f32, QCUDA_KV_F32)
ATTENTION_KERNEL(f16, QCUDA_KV_F16)
ATTENTION_KERNEL(q8, QCUDA_KV_Q8)
