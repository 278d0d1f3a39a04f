/* SPDX-License-Identifier: Apache-2.0
 * Operations rmsnorm, rope, glu and kv-store, the sum over an item's experts,
 * and what follows a dense product. */
#include "kv_rows.cuh"

/* A block per token; every thread's squares in order, then the warps'. */
QCUDA_KERNEL(rmsnorm, qcuda_rmsnorm_args, 128, 1)
{
    QCUDA_SHARED(float, sums);
    const int64_t first = int64_t(blockIdx.x) * p.n_cols;
    float sum = 0.0f;
    for (int c = int(threadIdx.x); c < p.n_cols; c += int(blockDim.x))
        sum = fused(p.src[first + c], p.src[first + c], sum);
    sum = warp_sum(sum);
    if (lane_of_thread() == 0)
        sums[warp_of_thread()] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < int(blockDim.x) / WARP; i++)
        sum += sums[i];
    const float factor = 1.0f / sqrtf(sum / float(p.n_cols) + p.epsilon);
    for (int c = int(threadIdx.x); c < p.n_cols; c += int(blockDim.x))
        p.dst[first + c] = p.src[first + c] * factor * p.weight[c];
}

/* A thread turns a pair, or copies a value that does not rotate.  dst may be
 * src: nobody else reads what a thread writes. */
QCUDA_KERNEL(rope, qcuda_rope_args, 128, 1)
{
    const int token = int(blockIdx.x) / p.token_blocks;
    const int thread =
        (int(blockIdx.x) % p.token_blocks) * int(blockDim.x) + int(threadIdx.x);
    const int n_pairs = p.d_rotary / 2, of_head = p.d_head - n_pairs;
    const int head = thread / of_head, m = thread % of_head;
    if (head >= p.n_heads)
        return;
    const int64_t at = (int64_t(token) * p.n_heads + head) * p.d_head;
    if (m >= n_pairs) {
        p.dst[at + n_pairs + m] = p.src[at + n_pairs + m];
        return;
    }
    const float *turn = p.turns + int64_t(token) * p.d_rotary + m;
    const float c = turn[0], s = turn[n_pairs];
    const int64_t i = at + (p.interleaved != 0 ? 2 * m : m);
    const int64_t j = i + (p.interleaved != 0 ? 1 : n_pairs);
    const float a = p.src[i], b = p.src[j];
    p.dst[i] = a * c - b * s;
    p.dst[j] = b * c + a * s;
}

QCUDA_KERNEL(glu, qcuda_glu_args, 128, 1)
{
    const int64_t token = int(blockIdx.x) / p.token_blocks;
    const int c =
        (int(blockIdx.x) % p.token_blocks) * int(blockDim.x) + int(threadIdx.x);
    if (c >= p.n_cols)
        return;
    const float gate =
        p.gate[token * p.n_gate_cols + (p.n_gate_cols == 1 ? 0 : c)];
    const int64_t at = token * p.n_cols + c;
    p.dst[at] = activated(gate, p.act) * p.up[at];
}

QCUDA_KERNEL(kv_store, qcuda_kv_store_args, 128, 1)
{
    const int64_t token = blockIdx.x;
    uint8_t *row = p.cache + p.rows[token] * p.row_bytes;
    const float *src = p.src + token * p.n_cols;
    if (p.type == QCUDA_KV_Q8)
        kv_pack_q8(row, src, p.n_cols);
    else if (p.type == QCUDA_KV_F16)
        kv_pack_f16(reinterpret_cast<uint32_t *>(row), src, p.n_cols);
    else
        for (int c = int(threadIdx.x); c < p.n_cols; c += int(blockDim.x))
            reinterpret_cast<float *>(row)[c] = src[c];
}

QCUDA_KERNEL(combine, qcuda_combine_args, 128, 1)
{
    const int64_t token = blockIdx.x;
    for (int c = int(threadIdx.x); c < p.d_model; c += int(blockDim.x)) {
        const int64_t at = token * p.d_model + c;
        float sum = p.residual != nullptr ? p.residual[at] : 0.0f;
        for (int j = 0; j < p.top_k; j++) {
            const int64_t pair = token * p.top_k + j;
            const float y =
                p.expert[pair] < 0 ? p.src[at] : p.result[pair * p.d_model + c];
            sum = fused(p.weight[pair], y, sum);
        }
        p.dst[at] = sum;
    }
}

QCUDA_KERNEL(finish, qcuda_finish_args, 256, 2)
{
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.n;
         i += step) {
        float y = p.alpha * p.sum[i];
        if (p.bias != nullptr)
            y += p.bias[i % p.n_cols];
        y = activated(y, p.act);
        p.dst[i] = p.residual != nullptr ? p.residual[i] + y : y;
    }
}
