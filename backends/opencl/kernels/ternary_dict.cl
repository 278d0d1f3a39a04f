/* SPDX-License-Identifier: Apache-2.0
 * The format ternary-dict: one work-item per row walks its codewords.  A
 * dictionary entry is one word: bits 0..3 half its weights, 4..5 its non-zero
 * weights, then 6 bits each: position, and 1 for the high level. */
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
    tokens low = (tokens)0.0f, high = (tokens)0.0f;
    int col = 0;
    for (ulong i = r.begin; i < r.end; i++) {
        const uint entry = dict[codes[i]];
        const int n = (int)(entry >> 4 & 3);
        uint rest = entry >> 6;
        for (int k = 0; k < n; k++, rest >>= 6) {
            const tokens v = LOAD_TOKENS(x, col + (int)(rest & 31));
            if (rest & 32)
                high += v;
            else
                low += v;
        }
        col += 2 * (int)(entry & 15);
    }
    STORE_ROW(t, row, as_float(r.low) * low + as_float(r.high) * high);
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
        uint rest = entry >> 6;
        for (int k = 0; k < (int)(entry >> 4 & 3); k++, rest >>= 6)
            out[col + (int)(rest & 31)] = rest & 32 ? r.high : r.low;
        col += 2 * (int)(entry & 15);
    }
}
