/* SPDX-License-Identifier: Apache-2.0
 * Products with pvq and pvq8 for 1 to 4 items.  A lane owns a row: the 32
 * lanes of a warp read the positions of their rows' blocks as 128 contiguous
 * bytes, and what a block selects among its 16 inputs in shared memory is at
 * most 16 words in 16 banks, so no access conflicts.  A block of threads takes
 * `row_tiles` tiles of 32 rows and one split of the columns; its warps share
 * the split's groups of four blocks. */
#include "product.cuh"
#include "pvq.cuh"
#include "rotation.cuh"

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

/* sums[t] += the group's pulses times inputs x [4 * N, T]. */
template <int N, int T>
DEVICE void pvq_add_group(
    float sums[T], const float *x, uint32_t positions, uint32_t signs)
{
    const pvq_places at = pvq_find(positions);
    if (T == 1) {
        /* Bytes: the place of each block among the group's and in it. */
        const uint32_t blocks = N == 16 ? 0xc0804000u : 0x60402000u;
        const shared_window window = window_of(x);
        const uint32_t first = window_offsets(window, at.first << 2 | blocks);
        const uint32_t second = window_offsets(window, at.second << 2 | blocks);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float a = window_pick(window, first, i);
            const float b = window_pick(window, second, i);
            sums[0] +=
                flipped(a + flipped(b, pvq_flip(at, i)), pvq_sign(signs, i));
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t flip = pvq_flip(at, i), sign = pvq_sign(signs, i);
        const float4 a = *reinterpret_cast<const float4 *>(
            x + (i * N + int(at.first >> 8 * i & 15)) * T);
        const float4 b = *reinterpret_cast<const float4 *>(
            x + (i * N + int(at.second >> 8 * i & 15)) * T);
        sums[0] += flipped(a.x + flipped(b.x, flip), sign);
        sums[1 % T] += flipped(a.y + flipped(b.y, flip), sign);
        sums[2 % T] += flipped(a.z + flipped(b.z, flip), sign);
        sums[3 % T] += flipped(a.w + flipped(b.w, flip), sign);
    }
}

/* Groups [g, stop) of one chunk; four position words are on their way at a
 * time, and the signs of all eight groups are one word. */
template <int N, int T>
DEVICE void pvq_add_chunk(float sums[T], const float *x, const uint8_t *chunk,
    int g, int stop, int lane)
{
    typedef pvq_layout<N> layout;
    const uint32_t signs =
        pvq_load_word(chunk + layout::sign_offset + 4 * lane);
    for (; g < stop; g += 4) {
        uint32_t positions[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            positions[i] =
                g + i < stop ? pvq_positions<N>(
                                   chunk + (g + i) * layout::group_bytes, lane)
                             : 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (g + i < stop)
                pvq_add_group<N, T>(sums, x + i * 4 * N * T, positions[i],
                    signs >> 4 * (g + i));
        x += 16 * N * T;
    }
}

/* Groups [begin, end) of a row; x [.., T] starts at group `first`. */
template <int N, int T>
DEVICE void pvq_add_groups(float sums[T], const float *x, const uint8_t *tile,
    int n_blocks, int first, int begin, int end)
{
    const int lane = lane_of_thread();
    const int n_whole = n_blocks / 32 * 8;
    int g = begin;
    while (g < end && g < n_whole) {
        const int chunk = g / 8, stop = min(end, chunk * 8 + 8);
        pvq_add_chunk<N, T>(sums, x + (g - first) * 4 * N * T,
            tile + size_t(chunk) * pvq_layout<N>::chunk_bytes, g % 8,
            stop - chunk * 8, lane);
        g = stop;
    }
    for (; g < end; g++) {
        const pvq_group group = pvq_load_group<N>(tile, n_blocks, g, lane);
        pvq_add_group<N, T>(
            sums, x + (g - first) * 4 * N * T, group.positions, group.signs);
    }
}

/* Inputs [begin, end) of the tile's items into x [padded, T], rotated as the
 * weight is; columns and items that do not exist are zero. */
template <int T>
DEVICE void pvq_stage(float *x, const qcuda_product_args &p,
    const product_tile &t, int begin, int end, int padded)
{
    const uint32_t seed = rotation_mixed_seed(p.w.rotation_seed);
    const bool rotated = p.w.rotation != 0;
    for (int i = 0; i < T; i++) {
        const float *src =
            i < t.count ? product_source(p, t, i) + begin : nullptr;
        for (int c = int(threadIdx.x); c < padded; c += int(blockDim.x)) {
            float v = src != nullptr && c < end - begin ? src[c] : 0.0f;
            if (rotated)
                v = flipped(v, rotation_flip(seed, begin + c));
            x[c * T + i] = v;
        }
    }
    __syncthreads();
    if (!rotated)
        return;
    for (int i = 0; i < T && i < t.count; i++)
        rotation_transform(x + i, T, begin, end, p.w.n_cols, p.w.rotation);
    for (int c = int(threadIdx.x); c < end - begin; c += int(blockDim.x)) {
        const float norm =
            rotation_norm(rotation_part(begin + c, p.w.n_cols, p.w.rotation));
        for (int i = 0; i < T; i++)
            x[c * T + i] *= norm;
    }
    __syncthreads();
}

template <int N, int T>
DEVICE void product_pvq_items(
    const qcuda_product_args &p, const product_tile &t, float *x)
{
    enum { N_WARPS = 8, GROUP_COLS = 4 * N };
    const int begin = int(blockIdx.z) * p.split_cols;
    const int end = min(begin + p.split_cols, p.w.n_cols);
    const int n_blocks = (p.w.n_cols + N - 1) / N;
    const int first_group = begin / GROUP_COLS;
    const int n_groups = (end - begin + GROUP_COLS - 1) / GROUP_COLS;
    pvq_stage<T>(x, p, t, begin, end, n_groups * GROUP_COLS);
    const int slices = N_WARPS / p.row_tiles;
    const int slice = warp_of_thread() % slices;
    const int in_block = warp_of_thread() / slices;
    const int row_tile = int(blockIdx.x) * p.row_tiles + in_block;
    float sums[T];
#pragma unroll
    for (int i = 0; i < T; i++)
        sums[i] = 0.0f;
    if (row_tile * 32 < p.w.n_rows)
        pvq_add_groups<N, T>(sums, x, pvq_tile(&p.w, t.mat, row_tile), n_blocks,
            first_group, first_group + n_groups * slice / slices,
            first_group + n_groups * (slice + 1) / slices);
    /* Over the slices, in order; the inputs are no longer needed. */
    __syncthreads();
    float *const of_warp = x; /* [N_WARPS, T, 32] */
#pragma unroll
    for (int i = 0; i < T; i++)
        of_warp[(warp_of_thread() * T + i) * WARP + lane_of_thread()] = sums[i];
    __syncthreads();
    const int first_row = int(blockIdx.x) * p.row_tiles * 32;
    const int n_rows = min(p.row_tiles * 32, p.w.n_rows - first_row);
    for (int k = int(threadIdx.x); k < n_rows * t.count; k += int(blockDim.x)) {
        const int row = k % n_rows, i = k / n_rows;
        float sum = 0.0f;
        for (int s = 0; s < slices; s++)
            sum += of_warp[((row / 32 * slices + s) * T + i) * WARP + row % 32];
        product_store(p, product_item(p, t, i), first_row + row,
            sum * pvq_scale(&p.w, t.mat, first_row + row));
    }
    product_merge(p, t, first_row, n_rows,
        reinterpret_cast<uint32_t *>(x + N_WARPS * T * WARP));
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
