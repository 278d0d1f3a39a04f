/* SPDX-License-Identifier: Apache-2.0
 * The format ternary-dict: one work-item per row walks its codewords.  A
 * dictionary entry is one word: bits 0..3 half its weights, then three times
 * 7 bits: a position, and 0 for nothing, 1 for the low level, 2 for the high.
 * Nothing is a product with zero: a branch would cost more. */
#define PLACE_OF(entry, k) ((int)((entry) >> (4 + 7 * (k)) & 31))
#define KIND_OF(entry, k) ((entry) >> (9 + 7 * (k)) & 3)
#define LEVEL_OF(entry, k, r)                                                  \
    as_float(((r).low & -(KIND_OF(entry, k) & 1)) |                            \
             ((r).high & -(KIND_OF(entry, k) >> 1)))
#define TD_ARGS                                                                \
    __global const uint *expert_offsets, __global const uint *row_offsets,     \
        __global const ushort *levels, __global const ushort *codes,           \
        __global const uint *dict

typedef struct td_row {
    ulong begin, end;
    uint low, high; /* bits of the levels */
} td_row;

/* expert_offsets: low and high words, of the chunk's matrices, absolute. */
td_row td_row_of(int mat, int row, int n_rows,
    __global const uint *expert_offsets, __global const uint *row_offsets,
    __global const ushort *levels)
{
    const ulong base = (ulong)expert_offsets[2 * mat] |
                       (ulong)expert_offsets[2 * mat + 1] << 32;
    const ulong first =
        (ulong)expert_offsets[0] | (ulong)expert_offsets[1] << 32;
    __global const uint *offsets = row_offsets + (ulong)mat * (n_rows + 1);
    __global const ushort *level = levels + 2 * ((ulong)mat * n_rows + row);
    td_row out;
    out.begin = base - first + offsets[row];
    out.end = base - first + offsets[row + 1];
    out.low = (uint)level[0] << 16;
    out.high = (uint)level[1] << 16;
    return out;
}

__kernel void product(PRODUCT_ARGS, TD_ARGS)
{
    const int row = (int)get_global_id(0), tile = (int)get_global_id(1);
    const tile_info t = TILE_OF(tile);
    if (row >= n_chunk_rows || OUTSIDE_CHUNK(t))
        return;
    __global const float *x = packed + packed_at + (ulong)tile * n_padded * TT;
    const td_row r = td_row_of(
        t.mat - first_mat, row, n_rows, expert_offsets, row_offsets, levels);
    tokens sums[3] = {(tokens)0.0f, (tokens)0.0f, (tokens)0.0f};
    int col = 0;
    for (ulong i = r.begin; i < r.end; i++) {
        const uint entry = dict[codes[i]];
        for (int k = 0; k < 3; k++)
            sums[k] += LEVEL_OF(entry, k, r) *
                       LOAD_TOKENS(x, col + PLACE_OF(entry, k));
        col += 2 * (int)(entry & 15);
    }
    STORE_ROW(t, row, sums[0] + sums[1] + sums[2]);
}

__kernel void decode_rows(__global uint *dst, ulong dst_at,
    __global const int *ids, ulong ids_at, int has_ids, int mat,
    int first_of_rows, int n_cols, int n_rows, CHUNK_ARGS, TD_ARGS)
{
    const int t = (int)get_global_id(1);
    const int row = has_ids ? ids[ids_at + t] : first_of_rows + t;
    if (get_global_id(0) != 0 || mat < first_mat || mat >= first_mat + n_mats)
        return;
    __global uint *out = dst + dst_at + (ulong)t * n_cols;
    const td_row r = td_row_of(
        mat - first_mat, row, n_rows, expert_offsets, row_offsets, levels);
    for (int c = 0; c < n_cols; c++)
        out[c] = 0;
    int col = 0;
    for (ulong i = r.begin; i < r.end; i++) {
        const uint entry = dict[codes[i]];
        for (int k = 0; k < 3; k++)
            if (KIND_OF(entry, k) != 0)
                out[col + PLACE_OF(entry, k)] =
                    KIND_OF(entry, k) == 1 ? r.low : r.high;
        col += 2 * (int)(entry & 15);
    }
}
