/* SPDX-License-Identifier: Apache-2.0
 * What all products share: which items a block computes, and what becomes of
 * its sums (splits merged in a fixed order, then what args.h says). */
#ifndef QCUDA_PRODUCT_CUH
#define QCUDA_PRODUCT_CUH

#include "device.cuh"

struct product_tile {
    int64_t mat;
    int begin, count; /* 0: nothing to do */
    int slot;         /* among packed activations */
};

DEVICE product_tile product_find_tile(const qcuda_product_args &p)
{
    product_tile t;
    const int index = p.first_tile + int(blockIdx.y);
    if (p.tiles != nullptr) {
        const qcuda_tile found = p.tiles[index];
        t.mat = found.mat;
        t.begin = found.begin;
        t.count = found.count;
        t.slot = found.slot;
        if (t.mat < 0 && p.item_factor == nullptr)
            t.count = 0;
    } else {
        t.mat = p.expert != nullptr ? p.expert[index] : p.mat;
        t.begin = index * p.tile_items;
        t.slot = index * (p.tile_items / 8);
        t.count = min(p.tile_items, p.n_items - t.begin);
        if (t.mat < 0 && p.item_factor == nullptr)
            t.count = 0;
    }
    if (t.count < p.least || t.count > p.most)
        t.count = 0;
    return t;
}

/* Row of dst of the tile's item `i`. */
DEVICE int product_item(
    const qcuda_product_args &p, const product_tile &t, int i)
{
    return p.order != nullptr ? p.order[t.begin + i] : t.begin + i;
}

DEVICE const float *product_source(
    const qcuda_product_args &p, const product_tile &t, int i)
{
    const int item = product_item(p, t, i);
    return p.src +
           int64_t(p.divisor > 1 ? item / p.divisor : item) * p.w.n_cols;
}

/* dst[item, row] from the whole sum. */
DEVICE void product_finish(
    const qcuda_product_args &p, int item, int row, float sum)
{
    const int64_t at = int64_t(item) * p.w.n_rows + row;
    float y = p.alpha * sum;
    if (p.bias != nullptr)
        y += p.bias[row];
    y = activated(y, p.act);
    if (p.factor != nullptr)
        y *= p.factor[at];
    if (p.item_factor != nullptr)
        y *= p.item_factor[item];
    if (p.residual != nullptr)
        y += p.residual[at];
    p.dst[at] = y;
}

/* Tokens no expert took pass their input on.  Needs p.item_factor. */
DEVICE void product_pass_through(const qcuda_product_args &p,
    const product_tile &t, int first_row, int n_rows)
{
    if (blockIdx.z != 0)
        return;
    for (int i = int(threadIdx.x); i < n_rows * t.count; i += int(blockDim.x)) {
        const int item = product_item(p, t, i / n_rows);
        const int64_t at = int64_t(item) * p.w.n_rows + first_row + i % n_rows;
        float y = p.item_factor[item] * p.skip[at];
        if (p.residual != nullptr)
            y += p.residual[at];
        p.dst[at] = y;
    }
}

/* A split's share of one sum, or the sum when nothing is split. */
DEVICE void product_store(
    const qcuda_product_args &p, int item, int row, float sum)
{
    if (gridDim.z == 1) {
        product_finish(p, item, row, sum);
        return;
    }
    const int64_t split = blockIdx.z;
    p.partial[(split * p.n_items + item) * p.w.n_rows + row] = sum;
}

/* What a thread does of a block's 32 * row_tiles rows and the tile's items: one
 * row, and every so many-th item. */
struct product_share {
    int row, first, step;
    bool inside; /* the row exists */
};

DEVICE product_share product_share_of(const qcuda_product_args &p)
{
    product_share out;
    const int log = 5 + p.row_tiles / 2; /* 1, 2 or 4 tiles */
    const int thread = int(threadIdx.x);
    out.row = (int(blockIdx.x) << log) + (thread & ((1 << log) - 1));
    out.first = thread >> log;
    out.step = int(blockDim.x) >> log;
    out.inside = out.row < p.w.n_rows;
    return out;
}

/* The block that finishes last adds up the splits of its rows, always in the
 * order of the splits.  `flag`: shared memory.  All threads call it.  Stores of
 * all threads, a barrier, then fence and addition by one thread: what orders
 * the block's stores before the addition is that the fence comes after the
 * barrier; on the way back, that it comes before. */
DEVICE void product_merge(const qcuda_product_args &p, const product_tile &t,
    const product_share &share, uint32_t *flag)
{
    if (gridDim.z == 1)
        return;
    uint32_t *arrived = p.arrived + blockIdx.y * gridDim.x + blockIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        *flag = atomicAdd(arrived, 1u);
        __threadfence();
    }
    __syncthreads();
    if (*flag != gridDim.z - 1)
        return;
    for (int i = share.first; share.inside && i < t.count; i += share.step) {
        const int item = product_item(p, t, i);
        float sum = 0.0f;
        for (int64_t z = 0; z < int64_t(gridDim.z); z++)
            sum += __ldcg(
                p.partial + (z * p.n_items + item) * p.w.n_rows + share.row);
        product_finish(p, item, share.row, sum);
    }
    if (threadIdx.x == 0)
        *arrived = 0;
}

#endif
