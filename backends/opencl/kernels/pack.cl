/* SPDX-License-Identifier: Apache-2.0
 * Activations of a product: the rows of one tile (up to TT tokens of one
 * matrix) interleaved as [tile][column][TT], zero beyond the last token and
 * column, rotated if the weight is; and what the products have in common. */
#if TT == 1
typedef float tokens;
#define LOAD_TOKENS(p, i) ((p)[i])
#define STORE_TOKENS(v, p, i) ((p)[i] = (v))
#else
typedef CAT(float, TT) tokens;
#define LOAD_TOKENS(p, i) CAT(vload, TT)(i, p)
#define STORE_TOKENS(v, p, i) CAT(vstore, TT)(v, i, p)
#endif

typedef struct tile_info {
    int mat, begin, count;
} tile_info;

/* The part of a weight that one launch sees. */
#define CHUNK_ARGS                                                             \
    int first_mat, int n_mats, int first_row, int n_chunk_rows

#define PRODUCT_ARGS                                                           \
    __global const float *packed, ulong packed_at, __global float *dst,        \
        ulong dst_at, __global const float *residual, ulong residual_at,       \
        __global const int4 *tiles, __global const int *order,                 \
        __global const int *expert, ulong expert_at, int grouping,             \
        int fixed_mat, int n_items, int n_cols, int n_padded, int n_rows,      \
        float alpha, int relu, int has_residual, CHUNK_ARGS

/* grouping: 0 the matrix is fixed_mat; 1 it is the expert of the only item;
 * 2 tiles and order say. */
#define TILE_OF(tile)                                                          \
    tile_of(tile, tiles, expert, expert_at, grouping, fixed_mat, n_items)

tile_info tile_of(int tile, __global const int4 *tiles,
    __global const int *expert, ulong expert_at, int grouping, int fixed_mat,
    int n_items)
{
    tile_info t = {fixed_mat, tile * TT, min(TT, n_items - tile * TT)};
    if (grouping == 1)
        t.mat = expert[expert_at];
    if (grouping == 2) {
        const int4 known = tiles[tile];
        t.mat = known.x;
        t.begin = known.y;
        t.count = known.z;
    }
    return t;
}

/* Nothing of this tile is in the chunk. */
#define OUTSIDE_CHUNK(t)                                                       \
    ((t).count <= 0 || (t).mat < first_mat || (t).mat >= first_mat + n_mats)

/* Results of one row for the tokens of a tile; `row` counts in the matrix. */
#define STORE_ROW(t, row, sum)                                                 \
    store_row(dst + dst_at, residual + residual_at, order, grouping, t, row,   \
        n_rows, sum, alpha, relu, has_residual)

void store_row(__global float *dst, __global const float *residual,
    __global const int *order, int grouping, tile_info t, int row, int n_rows,
    tokens sum, float alpha, int relu, int has_residual)
{
    float values[TT];
    STORE_TOKENS(sum, values, 0);
    for (int i = 0; i < t.count; i++) {
        const int item = grouping == 2 ? order[t.begin + i] : t.begin + i;
        const ulong at = (ulong)item * n_rows + row;
        float y = alpha * values[i];
        if (relu && y < 0.0f)
            y = 0.0f;
        dst[at] = has_residual ? residual[at] + y : y;
    }
}

/* divisor: items per row of src (top_k for the first product of experts). */
__kernel void pack(__global float *packed, __global const float *src,
    ulong src_at, __global const int4 *tiles, __global const int *order,
    int grouping, int n_items, int n_cols, int n_padded, int divisor)
{
    const int c = (int)get_global_id(0), tile = (int)get_global_id(1);
    if (c >= n_padded)
        return;
    const tile_info t = tile_of(tile, tiles, 0, 0, grouping & 2, 0, n_items);
    __global float *out = packed + ((ulong)tile * n_padded + c) * TT;
    for (int i = 0; i < TT; i++) {
        float x = 0.0f;
        if (i < t.count && c < n_cols) {
            const int item =
                grouping == 2 ? order[t.begin + i] : t.begin + i;
            x = src[src_at + (ulong)(item / divisor) * n_cols + c];
        }
        out[i] = x;
    }
}

/* One work-item per block of columns and tile. */
__kernel void rotate_packed(
    __global float *packed, int n_cols, int n_padded, int block, uint seed)
{
    const int begin = (int)get_global_id(0) * block;
    if (begin >= n_cols)
        return;
    __global float *x = packed + get_global_id(1) * (ulong)n_padded * TT;
    const int end = min(begin + block, n_cols);
    for (int i = begin; i < end; i++)
        STORE_TOKENS(LOAD_TOKENS(x, i) * rotation_sign(seed, i), x, i);
    int size = block;
    for (int at = begin; at < end; at += size) {
        while (size > end - at)
            size /= 2;
        for (int step = 1; step < size; step *= 2)
            for (int i = at; i < at + size; i += 2 * step)
                for (int j = i; j < i + step; j++) {
                    const tokens a = LOAD_TOKENS(x, j);
                    const tokens b = LOAD_TOKENS(x, j + step);
                    STORE_TOKENS(a + b, x, j);
                    STORE_TOKENS(a - b, x, j + step);
                }
        const float norm = hadamard_norm(size);
        for (int i = at; i < at + size; i++)
            STORE_TOKENS(LOAD_TOKENS(x, i) * norm, x, i);
    }
}
