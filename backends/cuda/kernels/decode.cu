/* SPDX-License-Identifier: Apache-2.0
 * Decoding of rows: operations decode and embed.  A block per row. */
#include "pvq.cuh"
#include "rotation.cuh"
#include "tlut.cuh"

DEVICE void decode_dense(
    const qcuda_stack &w, int64_t mat, int64_t row, float *dst)
{
    const int bytes = w.format == QMI_FORMAT_F32 ? 4 : 2;
    const int64_t first = mat * int64_t(w.mat_bytes / bytes) + row * w.n_cols;
    const uint16_t *halves = reinterpret_cast<const uint16_t *>(w.codes);
    const float *floats = reinterpret_cast<const float *>(w.codes);
    for (int c = int(threadIdx.x); c < w.n_cols; c += int(blockDim.x)) {
        if (w.format == QMI_FORMAT_F32)
            dst[c] = floats[first + c];
        else if (w.format == QMI_FORMAT_F16)
            dst[c] = f16_value(halves[first + c]);
        else
            dst[c] = bf16_value(halves[first + c]);
    }
}

DEVICE void decode_q2(
    const qcuda_stack &w, int64_t mat, int64_t row, float *dst)
{
    const int row_bytes = (w.n_cols + 3) / 4;
    const uint8_t *codes = w.codes + mat * w.mat_bytes + row * row_bytes;
    const uint16_t *levels = w.levels + (mat * w.n_rows + row) * 4;
    for (int c = int(threadIdx.x); c < w.n_cols; c += int(blockDim.x))
        dst[c] = bf16_value(levels[codes[c / 4] >> 2 * (c % 4) & 3]);
}

/* A row's codewords by one warp, 32 at a time: each lane's place follows from
 * how much the lanes below it spell. */
DEVICE void decode_ternary_dict(
    const qcuda_stack &w, int64_t mat, int64_t row, float *dst)
{
    for (int c = int(threadIdx.x); c < w.n_cols; c += int(blockDim.x))
        dst[c] = 0.0f;
    __syncthreads();
    if (warp_of_thread() != 0)
        return;
    const uint32_t *offsets = w.row_offsets + mat * (w.n_rows + 1) + row;
    const uint16_t *codes =
        reinterpret_cast<const uint16_t *>(w.codes) + w.mat_offsets[mat];
    const uint16_t *levels = w.levels + (mat * w.n_rows + row) * 2;
    const float low = bf16_value(levels[0]), high = bf16_value(levels[1]);
    int col = 0;
    for (uint32_t i = offsets[0]; i < offsets[1]; i += WARP) {
        const uint32_t at = i + uint32_t(lane_of_thread());
        const uint32_t word = at < offsets[1] ? w.dict[codes[at]] : 0;
        const int count = int(word & 31);
        const int end = warp_scan(count);
        for (int k = 0; k < 3; k++) {
            const uint32_t one =
                word >> (QCUDA_DICT_COUNT_BITS + QCUDA_DICT_ENTRY_BITS * k);
            const uint32_t code = one >> 5 & 3;
            if (code != 0)
                dst[col + end - count + int(one & 31)] = code == 1 ? low : high;
        }
        col += __shfl_sync(ALL_LANES, end, WARP - 1);
    }
}

/* A row in the basis of the model. */
DEVICE void decode_unrotate(const qcuda_stack &w, float *dst)
{
    __syncthreads();
    if (w.rotation == 0)
        return;
    for (int base = 0; base < w.n_cols; base += int(blockDim.x)) {
        const int c = base + int(threadIdx.x);
        const bool inside = c < w.n_cols;
        const int width = inside ? rotation_part(c, w.n_cols, w.rotation) : 1;
        float y = inside ? dst[c] : 0.0f;
        rotation_in_warp<1, 1>(&y, &width);
        if (inside)
            dst[c] = y;
    }
    rotation_across<1>(dst, 1, 0, 0, w.n_cols, w.n_cols, w.rotation);
    const uint32_t seed = rotation_mixed_seed(w.rotation_seed);
    for (int c = int(threadIdx.x); c < w.n_cols; c += int(blockDim.x))
        dst[c] = flipped(dst[c], rotation_flip(seed, c));
}

template <int N>
DEVICE void decode_pvq(
    const qcuda_stack &w, int64_t mat, int64_t row, float *dst)
{
    const int n_blocks = (w.n_cols + N - 1) / N;
    const uint8_t *tile = pvq_tile(&w, mat, int(row / 32));
    const float scale = pvq_scale(&w, mat, int(row));
    for (int block = int(threadIdx.x); block < n_blocks;
         block += int(blockDim.x)) {
        const pvq_group group =
            pvq_load_group<N>(tile, n_blocks, block / 4, int(row % 32));
        const int i = block % 4;
        const int a = int(group.positions >> 8 * i & 15);
        const int b = int(group.positions >> (8 * i + 4) & 15);
        const int at_a = (group.signs >> i & 1) != 0 ? -1 : 1;
        const int at_b = a > b ? -at_a : at_a;
        for (int k = 0; k < N && block * N + k < w.n_cols; k++)
            dst[block * N + k] =
                scale * float((k == a ? at_a : 0) + (k == b ? at_b : 0));
    }
    decode_unrotate(w, dst);
}

DEVICE void decode_tlut(
    const qcuda_stack &w, int64_t mat, int64_t row, float *dst)
{
    const int in_tile = int(row % TLUT_TILE);
    const tlut_place at = tlut_find(w, in_tile / w.v);
    const uint8_t *tile = tlut_tile(&w, mat, int(row / TLUT_TILE));
    const float scale = bf16_value(w.levels[mat * w.n_rows + row]);
    for (int c = int(threadIdx.x); c < w.n_cols; c += int(blockDim.x)) {
        const uint8_t *group =
            tile + size_t(c / TLUT_GROUP) * tlut_words(w) * 8;
        const uint32_t pair = tlut_pair(tlut_load(group, at.word),
            tlut_load(group, at.next), c % TLUT_GROUP);
        const uint32_t window = tlut_window(pair, at.shift);
        const uint16_t value = w.table[int(window) * w.v + in_tile % w.v];
        dst[c] = scale * column_scale(w, mat, c) * bf16_value(value);
    }
    decode_unrotate(w, dst);
}

QCUDA_KERNEL(decode_rows, qcuda_decode_args, 128, 1)
{
    const int64_t i = blockIdx.x;
    const int64_t row = p.ids != nullptr ? p.ids[i] : p.first_row + i;
    float *dst = p.dst + i * p.w.n_cols;
    switch (p.w.format) {
    case QMI_FORMAT_TERNARY_DICT:
        decode_ternary_dict(p.w, p.mat, row, dst);
        break;
    case QMI_FORMAT_Q2:
        decode_q2(p.w, p.mat, row, dst);
        break;
    case QMI_FORMAT_PVQ:
        decode_pvq<16>(p.w, p.mat, row, dst);
        break;
    case QMI_FORMAT_PVQ8:
        decode_pvq<8>(p.w, p.mat, row, dst);
        break;
    default:
        if (p.w.k != 0)
            decode_tlut(p.w, p.mat, row, dst);
        else
            decode_dense(p.w, p.mat, row, dst);
    }
}
