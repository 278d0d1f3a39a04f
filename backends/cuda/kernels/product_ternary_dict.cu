/* SPDX-License-Identifier: Apache-2.0
 * Products with ternary-dict for 1 to 4 items.  A warp takes a row; each lane
 * takes a codeword, looks it up as one word of 32 bits, learns from a prefix
 * sum over the warp where its weights lie, and adds what its at most three
 * weights select: 32 codewords, about 670 weights, per step, where the paper's
 * kernel takes one.  The codewords of four steps are on their way while four
 * are added. */
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

/* Runs of codewords of one row, 32 each, that are on their way together. */
enum { RUNS = 4 };

/* A row: where its codewords lie and its levels, asked for ahead. */
struct dict_row {
    uint32_t begin, end;
    uint16_t low, high;
};

DEVICE dict_row dict_ask(const qcuda_stack &w, int64_t mat, int row)
{
    dict_row out;
    const uint32_t *offsets = w.row_offsets + mat * (w.n_rows + 1) + row;
    const uint16_t *levels = w.levels + (mat * w.n_rows + row) * 2;
    out.begin = __ldg(offsets);
    out.end = __ldg(offsets + 1);
    out.low = __ldg(levels);
    out.high = __ldg(levels + 1);
    return out;
}

/* This lane's codewords of the runs from `at` on. */
DEVICE void dict_fetch(
    uint16_t code[RUNS], const uint16_t *codes, uint32_t at, uint32_t end)
{
#pragma unroll
    for (int k = 0; k < RUNS; k++) {
        const uint32_t mine = at + uint32_t(k * WARP + lane_of_thread());
        code[k] = mine < end ? __ldg(codes + mine) : uint16_t(0);
    }
}

/* The sum of one row for the item that has the lane's number; `code` holds the
 * row's first codewords, and then the first of the next row: a warp waits for
 * memory once, not once per row and run.  No row is without codewords. */
template <int T>
DEVICE float dict_sum(const qcuda_stack &w, const uint16_t *codes,
    const dict_row &row, const dict_row &next, uint16_t code[RUNS],
    const dict_inputs<T> &x)
{
    float low[T], high[T];
#pragma unroll
    for (int i = 0; i < T; i++)
        low[i] = high[i] = 0.0f;
    int column = 0;
    for (uint32_t at = row.begin; at < row.end; at += RUNS * WARP) {
        uint32_t word[RUNS];
#pragma unroll
        for (int k = 0; k < RUNS; k++) {
            const uint32_t mine = at + uint32_t(k * WARP + lane_of_thread());
            word[k] = mine < row.end ? __ldg(w.dict + code[k]) : 0;
        }
        const uint32_t ahead = at + RUNS * WARP;
        const bool more = ahead < row.end;
        dict_fetch(
            code, codes, more ? ahead : next.begin, more ? row.end : next.end);
#pragma unroll
        for (int k = 0; k < RUNS; k++) {
            if (at + uint32_t(k * WARP) >= row.end)
                break;
            const int count = int(word[k] & 31);
            const int upto = warp_scan(count);
            dict_add<T>(low, high, x, word[k], column + upto - count);
            column += __shfl_sync(ALL_LANES, upto, WARP - 1);
        }
    }
    const float level_low = bf16_value(row.low);
    const float level_high = bf16_value(row.high);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < T; i++) {
        const float one =
            fused(level_low, warp_sum(low[i]), level_high * warp_sum(high[i]));
        sum = lane_of_thread() == i ? one : sum;
    }
    return sum;
}

/* The items' inputs, all of them, into shared memory [n_cols, T]; a thread has
 * eight on their way at a time. */
template <int T>
DEVICE void dict_stage(
    float *shared, const dict_inputs<T> &x, const qcuda_product_args &p)
{
    enum { COUNT = 8 };
    for (int base = int(threadIdx.x); base < p.w.n_cols;
         base += COUNT / T * int(blockDim.x)) {
        float v[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const int c = base + k / T * int(blockDim.x);
            v[k] = c < p.w.n_cols ? __ldg(x.rows[k % T] + c) : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const int c = base + k / T * int(blockDim.x);
            if (c < p.w.n_cols)
                shared[c * T + k % T] = v[k];
        }
    }
}

template <int T>
DEVICE void dict_product(const qcuda_product_args &p, const product_tile &t,
    int first_row, int last_row, float *shared)
{
    const int step = int(blockDim.x) / WARP;
    const uint16_t *codes = reinterpret_cast<const uint16_t *>(p.w.codes) +
                            __ldg(p.w.mat_offsets + t.mat);
    int row = first_row + warp_of_thread();
    dict_row now = dict_ask(p.w, t.mat, min(row, last_row - 1));
    uint16_t code[RUNS];
    dict_inputs<T> x;
    x.staged = p.staged != 0 ? shared : nullptr;
#pragma unroll
    for (int i = 0; i < T; i++)
        x.rows[i] = product_source(p, t, min(i, t.count - 1));
    if (p.staged != 0)
        dict_stage<T>(shared, x, p);
    dict_fetch(code, codes, now.begin, now.end);
    __syncthreads();
    for (; row < last_row; row += step) {
        const dict_row next =
            dict_ask(p.w, t.mat, min(row + step, last_row - 1));
        const float sum = dict_sum<T>(p.w, codes, now, next, code, x);
        const int own = lane_of_thread();
        if (own < T && own < t.count)
            product_finish(p, product_item(p, t, own), row, sum);
        now = next;
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
