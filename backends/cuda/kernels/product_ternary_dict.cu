/* SPDX-License-Identifier: Apache-2.0
 * Products with ternary-dict for 1 to 4 items.  A warp takes a row; each lane
 * takes a codeword, looks it up as one word of 32 bits, learns from a prefix
 * sum over the warp where its weights lie, and adds what its at most three
 * weights select: 32 codewords, about 670 weights, per step, where the paper's
 * kernel takes one. */
#include "product.cuh"

/* Inputs of the items at a column: x [columns, T] in shared memory, or the
 * items' own rows when those are too long for it. */
template <int T>
struct dict_inputs {
    const float *staged;
    const float *rows[T];
    DEVICE_MEMBER void get(float out[T], int column) const
    {
        if (staged == nullptr) {
#pragma unroll
            for (int i = 0; i < T; i++)
                out[i] = __ldg(rows[i] + column);
        } else if (T == 1) {
            out[0] = staged[column];
        } else {
            const float4 v =
                *reinterpret_cast<const float4 *>(staged + column * T);
            out[0] = v.x;
            out[1 % T] = v.y;
            out[2 % T] = v.z;
            out[3 % T] = v.w;
        }
    }
};

/* Adds what a codeword at `column` selects. */
template <int T>
DEVICE void dict_add(float low[T], float high[T], const dict_inputs<T> &x,
    uint32_t word, int column)
{
#pragma unroll
    for (int k = 0; k < 3; k++) {
        const uint32_t one =
            word >> (QCUDA_DICT_COUNT_BITS + QCUDA_DICT_ENTRY_BITS * k);
        const uint32_t code = one >> 5 & 3;
        if (code == 0)
            continue;
        float v[T];
        x.get(v, column + int(one & 31));
#pragma unroll
        for (int i = 0; i < T; i++) {
            low[i] += code == 1 ? v[i] : 0.0f;
            high[i] += code == 1 ? 0.0f : v[i];
        }
    }
}

template <int T>
DEVICE void dict_row(float sums[T], const qcuda_stack &w, int64_t mat, int row,
    const dict_inputs<T> &x)
{
    const uint32_t *offsets = w.row_offsets + mat * (w.n_rows + 1) + row;
    const uint32_t begin = __ldg(offsets), end = __ldg(offsets + 1);
    const uint16_t *codes = reinterpret_cast<const uint16_t *>(w.codes) +
                            __ldg(w.mat_offsets + mat);
    const uint32_t lane = uint32_t(lane_of_thread());
    float low[T], high[T];
#pragma unroll
    for (int i = 0; i < T; i++)
        low[i] = high[i] = 0.0f;
    int column = 0;
    uint32_t next =
        begin + lane < end ? __ldg(w.dict + __ldg(codes + begin + lane)) : 0;
    for (uint32_t at = begin; at < end; at += WARP) {
        const uint32_t word = next, ahead = at + WARP + lane;
        next = ahead < end ? __ldg(w.dict + __ldg(codes + ahead)) : 0;
        const int count = int(word & 31);
        const int upto = warp_scan(count);
        dict_add<T>(low, high, x, word, column + upto - count);
        column += __shfl_sync(ALL_LANES, upto, WARP - 1);
    }
    const uint16_t *levels = w.levels + (mat * w.n_rows + row) * 2;
    const float level_low = bf16_value(__ldg(levels));
    const float level_high = bf16_value(__ldg(levels + 1));
#pragma unroll
    for (int i = 0; i < T; i++)
        sums[i] =
            fused(level_low, warp_sum(low[i]), level_high * warp_sum(high[i]));
}

template <int T>
DEVICE void dict_product(const qcuda_product_args &p, const product_tile &t,
    int first_row, int last_row, float *shared)
{
    dict_inputs<T> x;
    x.staged = p.staged != 0 ? shared : nullptr;
#pragma unroll
    for (int i = 0; i < T; i++) {
        x.rows[i] = product_source(p, t, min(i, t.count - 1));
        for (int c = int(threadIdx.x); p.staged != 0 && c < p.w.n_cols;
             c += int(blockDim.x))
            shared[c * T + i] = x.rows[i][c];
    }
    __syncthreads();
    for (int row = first_row + warp_of_thread(); row < last_row;
         row += int(blockDim.x) / WARP) {
        float sums[T];
        dict_row<T>(sums, p.w, t.mat, row, x);
#pragma unroll
        for (int i = 0; i < T; i++)
            if (lane_of_thread() == 0 && i < t.count)
                product_finish(p, product_item(p, t, i), row, sums[i]);
    }
}

QCUDA_KERNEL(product_ternary_dict, qcuda_product_args, 256, 3)
{
    QCUDA_SHARED(float, shared);
    const product_tile t = product_find_tile(p);
    const int first_row = int(blockIdx.x) * p.block_rows;
    const int last_row = min(first_row + p.block_rows, p.w.n_rows);
    if (t.count == 0)
        return;
    if (t.mat < 0)
        product_pass_through(p, t, first_row, last_row - first_row);
    else if (t.count == 1)
        dict_product<1>(p, t, first_row, last_row, shared);
    else
        dict_product<QCUDA_FEW_ITEMS>(p, t, first_row, last_row, shared);
}
