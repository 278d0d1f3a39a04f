/* SPDX-License-Identifier: Apache-2.0
 * The largest logits of rows.  A logit and its id become one key whose order
 * is the wanted one, and no two keys are equal.  A block finds the k largest
 * keys of a segment: the k-th bit by bit, by counting how many keys are not
 * below a trial.  Steps follow each other until a row is one segment. */
#include "device.cuh"

constexpr float LARGEST = 3.402823466e+38f;

/* What a logit counts as: NaN as -infinity, infinity as the largest number. */
DEVICE float counted(float x)
{
    return x != x ? -INFINITY : x > LARGEST ? LARGEST : x;
}

/* Larger for larger logits, equal for both zeros. */
DEVICE uint32_t rank_of(float x)
{
    const uint32_t bits = __float_as_uint(counted(x));
    if ((bits & 0x7fffffffu) == 0)
        return 0x80000000u;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/* Of equal logits the lower id is larger.  0 is no key. */
DEVICE uint64_t key_of(float logit, int64_t id)
{
    return uint64_t(rank_of(logit)) << 32 | (0xffffffffu - uint32_t(id));
}

DEVICE uint64_t key_at(const qcuda_top_args &p, int64_t row, int64_t i)
{
    if (i >= p.n)
        return 0;
    return p.keys != nullptr ? p.keys[row * p.n + i]
                             : key_of(p.logits[row * p.n_cols + i], i);
}

/* Sum over a block in every thread; *below: of the threads before.  `totals`
 * must not be used again before another barrier. */
DEVICE int block_scan(int x, int *below, int32_t *totals)
{
    const int upto = warp_scan(x);
    if (lane_of_thread() == WARP - 1)
        totals[warp_of_thread()] = upto;
    __syncthreads();
    int all = 0;
    *below = upto - x;
#pragma unroll
    for (int w = 0; w < QCUDA_TOP_THREADS / WARP; w++) {
        *below += w < warp_of_thread() ? totals[w] : 0;
        all += totals[w];
    }
    return all;
}

DEVICE int block_total(int x, int32_t *totals)
{
    x = warp_total(x);
    if (lane_of_thread() == 0)
        totals[warp_of_thread()] = x;
    __syncthreads();
    int all = 0;
#pragma unroll
    for (int w = 0; w < QCUDA_TOP_THREADS / WARP; w++)
        all += totals[w];
    return all;
}

DEVICE int count_from(const uint64_t keys[QCUDA_TOP_EACH], uint64_t limit)
{
    int n = 0;
#pragma unroll
    for (int i = 0; i < QCUDA_TOP_EACH; i++)
        n += keys[i] >= limit;
    return n;
}

/* The largest limit that at least top_k keys of the block reach, then exactly
 * so many; 1, which every key reaches, when there are fewer.  Counts of two
 * bits never share `totals`: one barrier is enough. */
DEVICE uint64_t find_limit(
    const uint64_t keys[QCUDA_TOP_EACH], int top_k, int32_t *totals)
{
    uint64_t limit = 0;
    for (int bit = 63; bit >= 0; bit--) {
        const uint64_t trial = limit | uint64_t(1) << bit;
        const int n = block_total(count_from(keys, trial),
            totals + bit % 2 * (QCUDA_TOP_THREADS / WARP));
        if (n >= top_k)
            limit = trial;
        if (n == top_k)
            break;
    }
    __syncthreads();
    return limit > 0 ? limit : 1;
}

/* Puts the keys of the block from `limit` on into `chosen`; their number. */
DEVICE int choose(const uint64_t keys[QCUDA_TOP_EACH], uint64_t limit,
    uint64_t *chosen, int32_t *totals)
{
    int at;
    const int n = block_scan(count_from(keys, limit), &at, totals);
#pragma unroll
    for (int i = 0; i < QCUDA_TOP_EACH; i++)
        if (keys[i] >= limit)
            chosen[at++] = keys[i];
    __syncthreads();
    return n;
}

/* The place of a key is the number of larger ones. */
DEVICE void store_sorted(
    const qcuda_top_args &p, int64_t row, const uint64_t *chosen, int j)
{
    const uint64_t key = chosen[j];
    int rank = 0;
    for (int i = 0; i < p.top_k; i++)
        rank += chosen[i] > key;
    const int64_t at = row * p.top_k + rank;
    const uint32_t id = 0xffffffffu - uint32_t(key);
    p.id[at] = int32_t(id);
    p.value[at] = counted(p.logits[row * p.n_cols + id]);
}

QCUDA_KERNEL(top_logits, qcuda_top_args, QCUDA_TOP_THREADS, 1)
{
    QCUDA_SHARED(uint64_t, chosen);
    int32_t *totals = reinterpret_cast<int32_t *>(chosen + QCUDA_TOP_MAX);
    const int64_t row = blockIdx.x / uint32_t(p.n_segments);
    const int64_t segment = blockIdx.x % uint32_t(p.n_segments);
    const int j = int(threadIdx.x);
    uint64_t keys[QCUDA_TOP_EACH];
#pragma unroll
    for (int i = 0; i < QCUDA_TOP_EACH; i++)
        keys[i] = key_at(
            p, row, segment * QCUDA_TOP_SEGMENT + i * QCUDA_TOP_THREADS + j);
    const uint64_t limit = find_limit(keys, p.top_k, totals);
    const int n = choose(keys, limit, chosen, totals);
    if (j >= p.top_k)
        return;
    if (p.best != nullptr)
        p.best[int64_t(blockIdx.x) * p.top_k + j] = j < n ? chosen[j] : 0;
    else
        store_sorted(p, row, chosen, j);
}
