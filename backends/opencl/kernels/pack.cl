/* SPDX-License-Identifier: Apache-2.0
 * Activations of a product: the rows of one tile (up to TT tokens of one
 * matrix) interleaved as [tile][column][TT], or [tile][TT][column] when
 * TOKEN_MAJOR, zero beyond the last token and column, rotated if the weight is;
 * and what the products have in common. */
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
        float alpha, __global const float *bias, int has_bias, int act,        \
        int join, CHUNK_ARGS

/* join: what the result does with the residual. */
#define JOIN_ADD 1
#define JOIN_MULTIPLY 2

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
        n_rows, sum, alpha, has_bias ? bias[row] : 0.0f, act, join)

void store_row(__global float *dst, __global const float *residual,
    __global const int *order, int grouping, tile_info t, int row, int n_rows,
    tokens sum, float alpha, float bias, int act, int join)
{
    float values[TT];
    STORE_TOKENS(sum, values, 0);
    for (int i = 0; i < t.count; i++) {
        const int item = grouping == 2 ? order[t.begin + i] : t.begin + i;
        const ulong at = (ulong)item * n_rows + row;
        float y = activate(alpha * values[i] + bias, act);
        if (join == JOIN_ADD)
            y += residual[at];
        if (join == JOIN_MULTIPLY)
            y *= residual[at];
        dst[at] = y;
    }
}

/* ---- packing ---- */

/* Column c of token i of a packed tile. */
#if TOKEN_MAJOR
#define PLACE(c, i) ((ulong)(i)*n_padded + (c))
#else
#define PLACE(c, i) ((ulong)(c)*TT + (i))
#endif

/* Row of src that token i of a tile has; divisor: items per row of src (top_k
 * for the first product of experts). */
int source_row(
    tile_info t, int i, __global const int *order, int grouping, int divisor)
{
    return (grouping == 2 ? order[t.begin + i] : t.begin + i) / divisor;
}

__kernel void pack(__global float *packed, __global const float *src,
    ulong src_at, __global const int4 *tiles, __global const int *order,
    int grouping, int n_items, int n_cols, int n_padded, int divisor)
{
    const int c = (int)get_global_id(0), tile = (int)get_global_id(1);
    if (c >= n_padded)
        return;
    const tile_info t = tile_of(tile, tiles, 0, 0, grouping & 2, 0, n_items);
    packed += (ulong)tile * n_padded * TT;
    for (int i = 0; i < TT; i++) {
        float x = 0.0f;
        if (i < t.count && c < n_cols) {
            const int row = source_row(t, i, order, grouping, divisor);
            x = src[src_at + (ulong)row * n_cols + c];
        }
        packed[PLACE(c, i)] = x;
    }
}

/* ---- packing with rotation ---- */

#define MAX_BLOCK 1024 /* QMI_ROTATION_MAX_BLOCK */

#if PACK_LANES == 1
#define BLOCK_MEMORY
/* Steps 1, 2, 4, 8 inside one vector: the sums take the places of the first
 * terms, the differences those of the second. */
void transform_vector(float *x)
{
    const float16 v = vload16(0, x);
    const float16 a = v.s1032547698badcfe +
                      v * (float16)(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1,
                              -1, 1, -1);
    const float16 b = a.s23016745ab89efcd +
                      a * (float16)(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1,
                              1, -1, -1);
    const float16 c = b.s45670123cdef89ab +
                      b * (float16)(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1,
                              -1, -1, -1);
    vstore16((float16)(c.lo + c.hi, c.lo - c.hi), 0, x);
}

/* The transform of x [size], a power of two. */
void transform(float *x, int size, int lane)
{
    int step = 1;
    if (size >= 16)
        for (int i = 0; i < size; i += 16)
            transform_vector(x + i);
    else
        for (; step < size; step *= 2)
            for (int i = 0; i < size; i += 2 * step)
                for (int j = i; j < i + step; j++) {
                    const float a = x[j], b = x[j + step];
                    x[j] = a + b;
                    x[j + step] = a - b;
                }
    for (step = 16; step < size; step *= 2)
        for (int i = 0; i < size; i += 2 * step)
            for (int j = i; j < i + step; j += 16) {
                const float16 a = vload16(0, x + j);
                const float16 b = vload16(0, x + j + step);
                vstore16(a + b, 0, x + j);
                vstore16(a - b, 0, x + j + step);
            }
}
#else
#define BLOCK_MEMORY __local
/* By a whole group. */
void transform(__local float *x, int size, int lane)
{
    for (int step = 1; step < size; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int p = lane; p < size / 2; p += PACK_LANES) {
            const int j = p / step * 2 * step + p % step;
            const float a = x[j], b = x[j + step];
            x[j] = a + b;
            x[j + step] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}
#endif

/* A group takes one block of columns of one token: x block, y tile * TT + i. */
__kernel __attribute__((reqd_work_group_size(PACK_LANES, 1, 1))) void
pack_rotated(__global float *packed, __global const float *src, ulong src_at,
    __global const int4 *tiles, __global const int *order, int grouping,
    int n_items, int n_cols, int n_padded, int divisor, int block, uint seed)
{
    BLOCK_MEMORY float x[MAX_BLOCK];
    const int lane = (int)get_local_id(0);
    const int begin = (int)get_group_id(0) * block;
    const int end = min(begin + block, n_cols);
    const int tile = (int)get_global_id(1) / TT, i = (int)get_global_id(1) % TT;
    const tile_info t = tile_of(tile, tiles, 0, 0, grouping & 2, 0, n_items);
    const int known = i < t.count;
    const int row = known ? source_row(t, i, order, grouping, divisor) : 0;
    packed += (ulong)tile * n_padded * TT;
    src += src_at + (ulong)row * n_cols;
    for (int c = begin + lane; c < end; c += PACK_LANES)
        x[c - begin] = known ? src[c] * rotation_sign(seed, c) : 0.0f;
    int size = block;
    for (int at = begin; at < end; at += size) {
        while (size > end - at)
            size /= 2;
        transform(x + at - begin, size, lane);
        const float norm = hadamard_norm(size);
        for (int c = at + lane; c < at + size; c += PACK_LANES)
            packed[PLACE(c, i)] = x[c - begin] * norm;
    }
    if (end == n_cols)
        for (int c = end + lane; c < n_padded; c += PACK_LANES)
            packed[PLACE(c, i)] = 0.0f;
}
