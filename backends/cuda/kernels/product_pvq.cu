/* SPDX-License-Identifier: Apache-2.0
 * Products with pvq and pvq8 for 1 to 4 items.  A lane owns a row: the 32
 * lanes of a warp read the positions of their rows' blocks as 128 contiguous
 * bytes, and what a block selects among its 16 inputs in shared memory is at
 * most 16 words in 16 banks, so no access conflicts.  A block of threads takes
 * `row_tiles` tiles of 32 rows and one split of the columns; its warps share
 * the split's groups of four blocks. */
#include "product.cuh"
#include "pvq.cuh"
#include "stage.cuh"

/* What the four blocks of a group select, without signs. */
struct pvq_places {
    uint32_t first, second; /* a position in each byte */
    uint32_t equal;         /* bit 4 of a byte: signs of the pair are equal */
};

DEVICE pvq_places pvq_find(uint32_t positions)
{
    pvq_places out;
    out.first = positions & 0x0f0f0f0fu;
    out.second = positions >> 4 & 0x0f0f0f0fu;
    out.equal = (out.second | 0x10101010u) - out.first;
    return out;
}

/* Sign bits of block `i`: of the second pulse against the first, of both. */
DEVICE uint32_t pvq_flip(const pvq_places &at, int i)
{
    return ~at.equal << (27 - 8 * i) & 0x80000000u;
}

DEVICE uint32_t pvq_sign(uint32_t signs, int i)
{
    return signs << (31 - i) & 0x80000000u;
}

/* Staged inputs [columns, T], for one item and for several. */
struct pvq_inputs {
    shared_window window;
    const float *x;
};

/* sums[t] += the group's pulses times the T * 4 * N inputs from `at` on. */
template <int N, int T>
DEVICE void pvq_add_group(float sums[T], const pvq_inputs &inputs, int at,
    uint32_t positions, uint32_t signs)
{
    const pvq_places places = pvq_find(positions);
    if constexpr (T == 1) {
        /* Bytes: the place of each block among the group's and in it. */
        const uint32_t blocks = N == 16 ? 0xc0804000u : 0x60402000u;
        const shared_window window = window_at(inputs.window, at);
        uint32_t first = places.first << 2 | blocks;
        uint32_t second = places.second << 2 | blocks;
        if (N == 8) {
            first = window_offsets(window, first);
            second = window_offsets(window, second);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float a = window_pick(window, first, i);
            const float b = window_pick(window, second, i);
            sums[0] += flipped(
                a + flipped(b, pvq_flip(places, i)), pvq_sign(signs, i));
        }
    } else {
        const float *x = inputs.x + at;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t flip = pvq_flip(places, i),
                           sign = pvq_sign(signs, i);
            const float4 a = *reinterpret_cast<const float4 *>(
                x + (i * N + int(places.first >> 8 * i & 15)) * T);
            const float4 b = *reinterpret_cast<const float4 *>(
                x + (i * N + int(places.second >> 8 * i & 15)) * T);
            sums[0] += flipped(a.x + flipped(b.x, flip), sign);
            sums[1 % T] += flipped(a.y + flipped(b.y, flip), sign);
            sums[2 % T] += flipped(a.z + flipped(b.z, flip), sign);
            sums[3 % T] += flipped(a.w + flipped(b.w, flip), sign);
        }
    }
}

/* Up to four groups of one chunk as they lie in memory, on their way while
 * others are added: stored bytes and the signs of the chunk's eight groups. */
template <int N>
struct pvq_batch {
    enum { WORDS = N == 16 ? 1 : 3 }; /* of a group */
    uint32_t stored[4][WORDS], signs;
    uint32_t g, n; /* the first of them among the row's, their number */
};

/* Groups from g on, of which there are `end`, none beyond whole chunks. */
template <int N>
DEVICE void pvq_fetch(pvq_batch<N> &out, const uint8_t *tile, uint32_t g,
    uint32_t end, uint32_t lane)
{
    typedef pvq_layout<N> layout;
    const uint32_t in_chunk = g % 8;
    const uint8_t *chunk = tile + size_t(g / 8) * layout::chunk_bytes;
    const uint8_t *group = chunk + in_chunk * layout::group_bytes;
    out.g = g;
    out.n = g < end ? min(min(end - g, 8 - in_chunk), 4u) : 0;
    out.signs = 0;
    if (out.n != 0)
        out.signs = pvq_load_word(chunk + layout::sign_offset + 4 * lane);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (uint32_t(i) < out.n)
            pvq_load_stored<N>(
                out.stored[i], group + i * layout::group_bytes, int(lane));
}

/* Groups [batch.g, end) of a row; inputs start at group `first`.  `batch` was
 * fetched before. */
template <int N, int T>
DEVICE void pvq_add_groups(float sums[T], const pvq_inputs &inputs,
    const uint8_t *tile, uint32_t n_blocks, uint32_t first, uint32_t end,
    pvq_batch<N> &batch)
{
    enum { GROUP = 4 * N * T };
    const uint32_t lane = uint32_t(lane_of_thread());
    const uint32_t whole = min(end, n_blocks / 32 * 8);
    uint32_t g = batch.g;
    while (g < whole) {
        const pvq_batch<N> now = batch;
        pvq_fetch<N>(batch, tile, g + now.n, whole, lane);
        const int at = int(g - first) * GROUP;
        const uint32_t signs = now.signs >> 4 * (g % 8);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (uint32_t(i) < now.n)
                pvq_add_group<N, T>(sums, inputs, at + i * GROUP,
                    pvq_positions_of<N>(now.stored[i]), signs >> 4 * i);
        g += now.n;
    }
    for (; g < end; g++) {
        const pvq_group group =
            pvq_load_group<N>(tile, int(n_blocks), int(g), int(lane));
        pvq_add_group<N, T>(
            sums, inputs, int(g - first) * GROUP, group.positions, group.signs);
    }
}

/* The first weights and the row's scale are asked for before the inputs are
 * staged, so that the way to memory and the rotation take their time together. */
template <int N, int T>
DEVICE void product_pvq_items(
    const qcuda_product_args &p, const product_tile &t, float *x)
{
    enum { N_WARPS = 8, GROUP_COLS = 4 * N };
    const int begin = int(blockIdx.z) * p.split_cols;
    const int end = min(begin + p.split_cols, p.w.n_cols);
    const uint32_t n_blocks = uint32_t(p.w.n_cols + N - 1) / N;
    const uint32_t first_group = uint32_t(begin) / GROUP_COLS;
    const uint32_t n_groups =
        uint32_t(end - begin + GROUP_COLS - 1) / GROUP_COLS;
    const int slices = N_WARPS / p.row_tiles;
    const uint32_t slice = uint32_t(warp_of_thread() % slices);
    const int in_block = warp_of_thread() / slices;
    const int row_tile = int(blockIdx.x) * p.row_tiles + in_block;
    const bool has_rows = row_tile * 32 < p.w.n_rows;
    const uint32_t first = first_group + n_groups * slice / uint32_t(slices);
    const uint32_t last =
        has_rows ? first_group + n_groups * (slice + 1) / uint32_t(slices)
                 : first;
    const uint8_t *tile = kept(pvq_tile(&p.w, t.mat, has_rows ? row_tile : 0));
    const product_share share = product_share_of(p);
    pvq_batch<N> batch;
    pvq_fetch<N>(batch, tile, first, min(last, n_blocks / 32 * 8),
        uint32_t(lane_of_thread()));
    const uint16_t stored_scale =
        share.inside ? pvq_stored_scale(&p.w, t.mat, share.row) : uint16_t(0);
    product_stage<T>(x, p, t, begin, end, int(n_groups * GROUP_COLS));
    const pvq_inputs inputs = {window_of(x), x};
    float sums[T];
#pragma unroll
    for (int i = 0; i < T; i++)
        sums[i] = 0.0f;
    pvq_add_groups<N, T>(
        sums, inputs, tile, n_blocks, first_group, last, batch);
    /* Over the slices, in order; the inputs are no longer needed. */
    __syncthreads();
    float *const of_warp = x; /* [N_WARPS, T, 32] */
#pragma unroll
    for (int i = 0; i < T; i++)
        of_warp[(warp_of_thread() * T + i) * WARP + lane_of_thread()] = sums[i];
    __syncthreads();
    const float scale = bf16_value(arrived_by_now(stored_scale));
    const int row = share.row - int(blockIdx.x) * p.row_tiles * 32;
    for (int i = share.first; share.inside && i < t.count; i += share.step) {
        float sum = 0.0f;
        for (int s = 0; s < slices; s++)
            sum += of_warp[((row / 32 * slices + s) * T + i) * WARP + row % 32];
        product_store(p, product_item(p, t, i), share.row, sum * scale);
    }
    product_merge(
        p, t, share, reinterpret_cast<uint32_t *>(x + N_WARPS * T * WARP));
}

template <int N>
DEVICE void product_pvq_block(const qcuda_product_args &p, float *x)
{
    const product_tile t = product_find_tile(p);
    if (t.count == 0)
        return;
    const int first_row = int(blockIdx.x) * p.row_tiles * 32;
    if (t.mat < 0)
        product_pass_through(
            p, t, first_row, min(p.row_tiles * 32, p.w.n_rows - first_row));
    else if (t.count == 1)
        product_pvq_items<N, 1>(p, t, x);
    else
        product_pvq_items<N, QCUDA_FEW_ITEMS>(p, t, x);
}

QCUDA_KERNEL(product_pvq, qcuda_product_args, 256, 3)
{
    QCUDA_SHARED(float, x);
    product_pvq_block<16>(p, x);
}

QCUDA_KERNEL(product_pvq8, qcuda_product_args, 256, 3)
{
    QCUDA_SHARED(float, x);
    product_pvq_block<8>(p, x);
}
