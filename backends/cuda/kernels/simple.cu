/* SPDX-License-Identifier: Apache-2.0
 * Operations rmsnorm and kv-store, the sum over an item's experts, and what
 * follows a dense product. */
#include "device.cuh"

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

QCUDA_KERNEL(kv_store, qcuda_kv_store_args, 128, 1)
{
    const int64_t token = blockIdx.x;
    const int64_t row = p.rows[token];
    for (int64_t c = threadIdx.x; c < p.n_cols; c += blockDim.x)
        p.cache[row * p.n_cols + c] = p.src[token * p.n_cols + c];
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
        if (p.relu != 0 && y < 0.0f) /* a NaN stays */
            y = 0.0f;
        p.dst[i] = p.residual != nullptr ? p.residual[i] + y : y;
    }
}
