/* SPDX-License-Identifier: Apache-2.0
 * Attention: a block per query and head goes over the keys in runs of one key
 * per thread, with a running maximum (online softmax), so that any number of
 * keys takes the same shared memory. */
#include "device.cuh"

struct attention_span {
    int32_t q_begin, q_len, k_begin, k_len, q_pos;
};

/* Shared memory: the query, the sums, the weights of a run, and this. */
struct attention_state {
    attention_span span;
    float of_warp[8];
};

/* Maximum or sum over the block, in every thread; needs all of them. */
DEVICE float block_reduce(float x, bool maximum, float *of_warp)
{
    x = maximum ? warp_max(x) : warp_sum(x);
    if (lane_of_thread() == 0)
        of_warp[warp_of_thread()] = x;
    __syncthreads();
    x = of_warp[0];
    for (int i = 1; i < int(blockDim.x) / WARP; i++)
        x = maximum ? fmaxf(x, of_warp[i]) : x + of_warp[i];
    __syncthreads();
    return x;
}

DEVICE float attention_score(const qcuda_attention_args &p, const float *q,
    const float *key, int head, int64_t distance)
{
    float sum = 0.0f;
    for (int i = 0; i < p.d_head; i++)
        sum = fused(q[i], key[i], sum);
    sum *= p.scale;
    if (p.bias == nullptr)
        return sum;
    const int64_t most = p.max_distance;
    distance = min(max(distance, -most), most);
    return sum + p.bias[head * (2 * most + 1) + distance + most];
}

DEVICE void attention_find_span(
    const qcuda_attention_args &p, int query, attention_state *state)
{
    const attention_span *spans =
        reinterpret_cast<const attention_span *>(p.spans);
    for (int s = int(threadIdx.x); s < p.n_spans; s += int(blockDim.x))
        if (query >= spans[s].q_begin &&
            query - spans[s].q_begin < spans[s].q_len)
            state->span = spans[s];
    __syncthreads();
}

QCUDA_KERNEL(attention, qcuda_attention_args, 128, 4)
{
    QCUDA_SHARED(float, q);
    float *const sums = q + p.d_head, *const weights = sums + p.d_head;
    attention_state *const state =
        reinterpret_cast<attention_state *>(weights + blockDim.x);
    const int head = int(blockIdx.x) % p.n_heads;
    const int query = p.first + int(blockIdx.x) / p.n_heads;
    const int thread = int(threadIdx.x), n_threads = int(blockDim.x);
    const int64_t width = int64_t(p.n_heads) * p.d_head;
    attention_find_span(p, query, state);
    const attention_span span = state->span;
    for (int i = thread; i < p.d_head; i += n_threads) {
        q[i] = p.q[query * width + head * p.d_head + i];
        sums[i] = 0.0f;
    }
    __syncthreads();
    const int position = span.q_pos + query - span.q_begin;
    const int n_keys =
        p.causal != 0 ? min(span.k_len, position + 1) : span.k_len;
    float largest = -INFINITY, total = 0.0f;
    for (int first = 0; first < n_keys; first += n_threads) {
        const int key = first + thread;
        float score = -INFINITY;
        if (key < n_keys)
            score = attention_score(p, q,
                p.k + (span.k_begin + key) * width + head * p.d_head, head,
                int64_t(key) - position);
        const float higher =
            fmaxf(largest, block_reduce(score, true, state->of_warp));
        const float weight = key < n_keys ? expf(score - higher) : 0.0f;
        weights[thread] = weight;
        const float rescale = first == 0 ? 0.0f : expf(largest - higher);
        total = total * rescale + block_reduce(weight, false, state->of_warp);
        largest = higher;
        const int n_run = min(n_threads, n_keys - first);
        for (int i = thread; i < p.d_head; i += n_threads) {
            float sum = sums[i] * rescale;
            for (int k = 0; k < n_run; k++)
                sum = fused(weights[k],
                    p.v[(span.k_begin + first + k) * width + head * p.d_head +
                        i],
                    sum);
            sums[i] = sum;
        }
        __syncthreads();
    }
    for (int i = thread; i < p.d_head; i += n_threads)
        p.dst[query * width + head * p.d_head + i] = sums[i] / total;
}
