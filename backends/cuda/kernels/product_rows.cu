/* SPDX-License-Identifier: Apache-2.0
 * Products with dense weights and q2 for 1 to 4 items: a warp takes two rows
 * at a time, its lanes share the columns. */
#include "product.cuh"

enum { ROWS = 2 };

/* Elements of one row from column `c` on, as f32. */
template <int F>
struct row_reader;

/* Eight bf16 or f16, or four f32, as one word of 16 bytes. */
template <int F>
struct dense_reader {
    enum { VECTOR = F == QMI_FORMAT_F32 ? 4 : 8, BYTES = 16 / VECTOR };
    const uint8_t *at;
    DEVICE_MEMBER bool whole_vectors(const qcuda_product_args &p)
    {
        return p.w.n_cols % VECTOR == 0;
    }
    DEVICE_MEMBER void open(const qcuda_product_args &p, int64_t mat, int row)
    {
        at =
            p.w.codes + mat * p.w.mat_bytes + int64_t(row) * p.w.n_cols * BYTES;
    }
    DEVICE_MEMBER float one(int c) const
    {
        if (F == QMI_FORMAT_F32)
            return __ldg(reinterpret_cast<const float *>(at) + c);
        const uint16_t h = __ldg(reinterpret_cast<const uint16_t *>(at) + c);
        return F == QMI_FORMAT_F16 ? f16_value(h) : bf16_value(h);
    }
    DEVICE_MEMBER void vector(float out[VECTOR], int c) const
    {
        const uint4 v =
            __ldg(reinterpret_cast<const uint4 *>(at + size_t(c) * BYTES));
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (F == QMI_FORMAT_F32) {
                out[i] = __uint_as_float(words[i]);
            } else if (F == QMI_FORMAT_F16) {
                out[2 * i % VECTOR] = f16_value(uint16_t(words[i]));
                out[(2 * i + 1) % VECTOR] = f16_value(uint16_t(words[i] >> 16));
            } else {
                out[2 * i % VECTOR] = __uint_as_float(words[i] << 16);
                out[(2 * i + 1) % VECTOR] =
                    __uint_as_float(words[i] & 0xffff0000u);
            }
        }
    }
};

template <>
struct row_reader<QMI_FORMAT_BF16> : dense_reader<QMI_FORMAT_BF16> {
};
template <>
struct row_reader<QMI_FORMAT_F16> : dense_reader<QMI_FORMAT_F16> {
};
template <>
struct row_reader<QMI_FORMAT_F32> : dense_reader<QMI_FORMAT_F32> {
};

/* Four codes per byte, sixteen as one word. */
template <>
struct row_reader<QMI_FORMAT_Q2> {
    enum { VECTOR = 16 };
    const uint8_t *at;
    float level[4];
    DEVICE_MEMBER bool whole_vectors(const qcuda_product_args &p)
    {
        return p.w.n_cols % VECTOR == 0;
    }
    DEVICE_MEMBER void open(const qcuda_product_args &p, int64_t mat, int row)
    {
        at = p.w.codes + mat * p.w.mat_bytes +
             int64_t(row) * ((p.w.n_cols + 3) / 4);
        for (int i = 0; i < 4; i++)
            level[i] = bf16_value(
                __ldg(p.w.levels + (mat * p.w.n_rows + row) * 4 + i));
    }
    /* Selections, because a register has no address. */
    DEVICE_MEMBER float value(uint32_t code) const
    {
        const float even = (code & 2) != 0 ? level[2] : level[0];
        const float odd = (code & 2) != 0 ? level[3] : level[1];
        return (code & 1) != 0 ? odd : even;
    }
    DEVICE_MEMBER float one(int c) const
    {
        return value(uint32_t(__ldg(at + c / 4)) >> 2 * (c % 4));
    }
    DEVICE_MEMBER void vector(float out[VECTOR], int c) const
    {
        const uint32_t codes =
            __ldg(reinterpret_cast<const uint32_t *>(at + c / 4));
#pragma unroll
        for (int i = 0; i < VECTOR; i++)
            out[i] = value(codes >> 2 * i);
    }
};

/* V inputs from x on; 16 bytes at a time where addresses allow it, because
 * lanes read runs of their own: single words of them would be 32 sectors each. */
template <int V>
DEVICE void rows_inputs(float out[V], const float *x, bool aligned)
{
    if (aligned) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 v = __ldg(reinterpret_cast<const float4 *>(x + i));
            out[i] = v.x;
            out[i + 1] = v.y;
            out[i + 2] = v.z;
            out[i + 3] = v.w;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++)
        out[i] = __ldg(x + i);
}

/* sums[r][t] of this lane's columns. */
template <int F, int T>
DEVICE void rows_sum(float sums[ROWS][T], const row_reader<F> rows[ROWS],
    const float *const x[T], int n_cols, bool vectors, bool aligned)
{
    enum { VECTOR = row_reader<F>::VECTOR };
    const int n_vector = vectors ? n_cols / VECTOR * VECTOR : 0;
    for (int c = lane_of_thread() * VECTOR; c < n_vector; c += WARP * VECTOR) {
        float w[ROWS][VECTOR];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            rows[r].vector(w[r], c);
#pragma unroll
        for (int t = 0; t < T; t++) {
            float v[VECTOR];
            rows_inputs<VECTOR>(v, x[t] + c, aligned);
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    sums[r][t] = fused(w[r][i], v[i], sums[r][t]);
        }
    }
    for (int c = n_vector + lane_of_thread(); c < n_cols; c += WARP)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float w = rows[r].one(c);
#pragma unroll
            for (int t = 0; t < T; t++)
                sums[r][t] = fused(w, __ldg(x[t] + c), sums[r][t]);
        }
}

template <int F, int T>
DEVICE void rows_product(const qcuda_product_args &p, const product_tile &t,
    int first_row, int last_row)
{
    const float *x[T];
#pragma unroll
    for (int i = 0; i < T; i++)
        x[i] = product_source(p, t, min(i, t.count - 1));
    /* Rows of inputs lie whole rows apart. */
    const bool aligned =
        reinterpret_cast<uintptr_t>(p.src) % 16 == 0 && p.w.n_cols % 4 == 0;
    for (int row = first_row + warp_of_thread() * ROWS; row < last_row;
         row += int(blockDim.x) / WARP * ROWS) {
        row_reader<F> rows[ROWS];
        float sums[ROWS][T];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            rows[r].open(p, t.mat, min(row + r, last_row - 1));
#pragma unroll
            for (int i = 0; i < T; i++)
                sums[r][i] = 0.0f;
        }
        rows_sum<F, T>(
            sums, rows, x, p.w.n_cols, rows[0].whole_vectors(p), aligned);
        /* A lane finishes each sum, all of them at once. */
        const int own_row = lane_of_thread() / T, own = lane_of_thread() % T;
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int i = 0; i < T; i++) {
                const float one = warp_sum(sums[r][i]);
                sum = own_row == r && own == i ? one : sum;
            }
        if (own_row < ROWS && row + own_row < last_row && own < t.count)
            product_finish(p, product_item(p, t, own), row + own_row, sum);
    }
}

template <int F>
DEVICE void rows_block(const qcuda_product_args &p)
{
    const product_tile t = product_find_tile(p);
    const int first_row = int(blockIdx.x) * p.block_rows;
    const int last_row = min(first_row + p.block_rows, p.w.n_rows);
    if (t.count == 0)
        return;
    if (t.mat < 0)
        product_pass_through(p, t, first_row, last_row - first_row);
    else if (t.count == 1)
        rows_product<F, 1>(p, t, first_row, last_row);
    else
        rows_product<F, QCUDA_FEW_ITEMS>(p, t, first_row, last_row);
}

QCUDA_KERNEL(product_bf16, qcuda_product_args, 256, 2)
{
    rows_block<QMI_FORMAT_BF16>(p);
}

QCUDA_KERNEL(product_f16, qcuda_product_args, 256, 2)
{
    rows_block<QMI_FORMAT_F16>(p);
}

QCUDA_KERNEL(product_f32, qcuda_product_args, 256, 2)
{
    rows_block<QMI_FORMAT_F32>(p);
}

QCUDA_KERNEL(product_q2, qcuda_product_args, 256, 2)
{
    rows_block<QMI_FORMAT_Q2>(p);
}
