/* SPDX-License-Identifier: Apache-2.0
 * Products with tlut weights for 1 to 4 items.  A block of threads takes a tile
 * of 64 rows and one split of the columns; a thread has 4 rows of it, which are
 * whole steps, and every sixteenth group of 4 columns.  Inputs are staged in
 * shared memory, rotated as the weight is and times the scales of the columns.
 * V: rows per step. */
#include "product.cuh"
#include "stage.cuh"
#include "tlut.cuh"

enum {
    N_WARPS = 8,
    SLOTS = 16,                     /* threads that share a column */
    SHARES = N_WARPS * WARP / SLOTS /* of the columns */
};
enum { ROWS = TLUT_TILE / SLOTS };

/* The values of a window for the V rows of a step, in a lane's own copy. */
template <int V>
DEVICE void tlut_values(float out[V], const uint32_t *table, uint32_t window)
{
    const uint32_t lane = uint32_t(lane_of_thread());
    if constexpr (V == 4) {
        const uint2 e = reinterpret_cast<const uint2 *>(
            table)[window * SLOTS + lane % SLOTS];
        out[0] = __uint_as_float(e.x << 16);
        out[1] = __uint_as_float(e.x & 0xffff0000u);
        out[2] = __uint_as_float(e.y << 16);
        out[3] = __uint_as_float(e.y & 0xffff0000u);
    } else {
        const uint32_t e = table[window * WARP + lane];
        out[0] = __uint_as_float(V == 2 ? e << 16 : e);
        out[V - 1] = __uint_as_float(e & 0xffff0000u);
    }
}

/* Inputs of column `j` of a group, x [columns, T]. */
template <int T>
DEVICE void tlut_inputs(float out[T], const float *x, int j)
{
    if constexpr (T == 1) {
        out[0] = x[j];
    } else {
        const float4 v = *reinterpret_cast<const float4 *>(x + j * T);
        out[0] = v.x;
        out[1] = v.y;
        out[2] = v.z;
        out[3] = v.w;
    }
}

/* sums += this thread's rows times its groups of [first, last); `codes` and x
 * begin at `first`. */
template <int V, int T>
DEVICE void tlut_add_groups(float sums[ROWS][T], const qcuda_stack &w,
    const uint8_t *codes, const float *x, const uint32_t *table, int n_groups)
{
    enum { STEPS = ROWS / V };
    const int slot = int(threadIdx.x) % SLOTS;
    const tlut_place at = tlut_find(w, slot * STEPS);
    const size_t group_bytes = size_t(tlut_words(w)) * 8;
    uint32_t shift[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        shift[s] = at.shift + uint32_t(w.k * s);
#pragma unroll 2
    for (int g = int(threadIdx.x) / SLOTS; g < n_groups; g += SHARES) {
        const uint8_t *group = codes + size_t(g) * group_bytes;
        const uint2 first = tlut_load(group, at.word);
        const uint2 next = tlut_load(group, at.next);
#pragma unroll
        for (int j = 0; j < TLUT_GROUP; j++) {
            const uint32_t pair = tlut_pair(first, next, j);
            float v[T];
            tlut_inputs<T>(v, x + g * TLUT_GROUP * T, j);
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                float value[V];
                tlut_values<V>(value, table, tlut_window(pair, shift[s]));
#pragma unroll
                for (int r = 0; r < V; r++)
#pragma unroll
                    for (int t = 0; t < T; t++)
                        sums[s * V + r][t] =
                            fused(value[r], v[t], sums[s * V + r][t]);
            }
        }
    }
}

/* Sums of a warp's two shares to of_warp [N_WARPS, T, TLUT_TILE]. */
template <int T>
DEVICE void tlut_store_sums(float *of_warp, const float sums[ROWS][T])
{
    const int lane = lane_of_thread();
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int t = 0; t < T; t++) {
            const float sum =
                sums[r][t] + __shfl_xor_sync(ALL_LANES, sums[r][t], SLOTS);
            if (lane < SLOTS)
                of_warp[(warp_of_thread() * T + t) * TLUT_TILE + lane * ROWS +
                        r] = sum;
        }
}

template <int V, int T>
DEVICE void product_tlut_items(
    const qcuda_product_args &p, const product_tile &t, uint32_t *shared)
{
    uint32_t *const table = shared;
    float *const x = reinterpret_cast<float *>(shared + TLUT_TABLE_WORDS);
    const int begin = int(blockIdx.z) * p.split_cols;
    const int end = min(begin + p.split_cols, p.w.n_cols);
    const int n_groups = (end - begin + TLUT_GROUP - 1) / TLUT_GROUP;
    const product_share share = product_share_of(p);
    tlut_copy_table(table, p.w);
    product_stage<T>(x, p, t, begin, end, n_groups * TLUT_GROUP);
    for (int i = int(threadIdx.x); i < n_groups * TLUT_GROUP * T;
         i += int(blockDim.x))
        x[i] *= column_scale(p.w, t.mat, begin + i / T);
    __syncthreads();
    float sums[ROWS][T];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < T; i++)
            sums[r][i] = 0.0f;
    const uint8_t *codes = tlut_tile(&p.w, t.mat, int(blockIdx.x)) +
                           size_t(begin / TLUT_GROUP) * tlut_words(p.w) * 8;
    tlut_add_groups<V, T>(sums, p.w, codes, x, table, n_groups);
    /* Over the warps, in order; the inputs are no longer needed. */
    __syncthreads();
    tlut_store_sums<T>(x, sums);
    __syncthreads();
    for (int i = share.first; share.inside && i < t.count; i += share.step) {
        float sum = 0.0f;
        for (int warp = 0; warp < N_WARPS; warp++)
            sum += x[(warp * T + i) * TLUT_TILE + share.row % TLUT_TILE];
        const float scale =
            bf16_value(__ldg(p.w.levels + t.mat * p.w.n_rows + share.row));
        product_store(p, product_item(p, t, i), share.row, sum * scale);
    }
    product_merge(
        p, t, share, reinterpret_cast<uint32_t *>(x + N_WARPS * T * TLUT_TILE));
}

template <int V>
DEVICE void product_tlut_block(const qcuda_product_args &p, uint32_t *shared)
{
    const product_tile t = product_find_tile(p);
    const int first_row = int(blockIdx.x) * TLUT_TILE;
    if (t.count == 0)
        return;
    if (t.mat < 0)
        product_pass_through(
            p, t, first_row, min(int(TLUT_TILE), p.w.n_rows - first_row));
    else if (t.count == 1)
        product_tlut_items<V, 1>(p, t, shared);
    else
        product_tlut_items<V, QCUDA_FEW_ITEMS>(p, t, shared);
}

#define TLUT_KERNEL(v)                                                         \
    QCUDA_KERNEL(product_tlut##v, qcuda_product_args, 256, 3)                  \
    {                                                                          \
        QCUDA_SHARED(uint32_t, shared);                                        \
        product_tlut_block<v>(p, shared);                                      \
    }

TLUT_KERNEL(1)
TLUT_KERNEL(2)
TLUT_KERNEL(4)
