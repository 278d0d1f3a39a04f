/* SPDX-License-Identifier: Apache-2.0
 * Dense matrices: FORMAT_BF16, FORMAT_F16 or FORMAT_F32.  A work-group of LANES
 * takes ROWS rows.  One token: lanes share the columns in vectors of WIDTH;
 * more: a vector holds the tokens and lanes share the columns one by one. */
#if FORMAT_BF16
typedef ushort element;
#define WIDEN(p, i) BF16((p)[i])
#define BITS(p, i) ((uint)(p)[i] << 16)
#define WIDEN_VECTOR(p, i)                                                     \
    CAT(as_float, WIDTH)(                                                      \
        CAT(convert_uint, WIDTH)(CAT(vload, WIDTH)(0, (p) + (i))) << 16)
#elif FORMAT_F16
typedef half element;
#define WIDEN(p, i) vload_half(i, p)
#define BITS(p, i) as_uint(vload_half(i, p))
#define WIDEN_VECTOR(p, i) CAT(vload_half, WIDTH)(0, (p) + (i))
#else
typedef float element;
#define WIDEN(p, i) ((p)[i])
#define BITS(p, i) (((__global const uint *)(p))[i])
#define WIDEN_VECTOR(p, i) CAT(vload, WIDTH)(0, (p) + (i))
#endif

typedef CAT(float, WIDTH) columns;

float sum_columns(columns v)
{
    float parts[WIDTH];
    CAT(vstore, WIDTH)(v, 0, parts);
    for (int step = WIDTH / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            parts[i] += parts[i + step];
    return parts[0];
}

__kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void product(
    PRODUCT_ARGS, __global const element *weights)
{
    const int lane = (int)get_local_id(0), tile = (int)get_global_id(1);
    const int row = (int)get_group_id(0) * ROWS;
    const tile_info t = TILE_OF(tile);
    const int active = !OUTSIDE_CHUNK(t);
#if LANES == 1
    if (!active)
        return;
#endif
    /* No return before a barrier, not even of a whole group: compilers have
     * been seen to get it wrong. */
    const int end = active ? n_cols : 0;
    const ulong mat = active ? (ulong)(t.mat - first_mat) : 0;
    __global const float *x = packed + packed_at + (ulong)tile * n_padded * TT;
    __global const element *w[ROWS];
    tokens sum[ROWS];
    for (int r = 0; r < ROWS; r++) {
        /* Rows beyond the last repeat it and are not stored. */
        const ulong known = min(row + r, n_chunk_rows - 1);
        w[r] = weights +
               (mat * n_chunk_rows + known) * n_cols;
        sum[r] = (tokens)0.0f;
    }
#if TT == 1
    columns part[ROWS];
    for (int r = 0; r < ROWS; r++)
        part[r] = (columns)0.0f;
    for (int c = lane * WIDTH; c + WIDTH <= end; c += LANES * WIDTH) {
        const columns v = CAT(vload, WIDTH)(0, x + c);
        for (int r = 0; r < ROWS; r++)
            part[r] += WIDEN_VECTOR(w[r], c) * v;
    }
    for (int r = 0; r < ROWS; r++)
        sum[r] = sum_columns(part[r]);
    for (int c = end / WIDTH * WIDTH + lane; c < end; c += LANES)
        for (int r = 0; r < ROWS; r++)
            sum[r] += WIDEN(w[r], c) * x[c];
#else
    for (int c = lane; c < end; c += LANES) {
        const tokens v = LOAD_TOKENS(x, c);
        for (int r = 0; r < ROWS; r++)
            sum[r] += WIDEN(w[r], c) * v;
    }
#endif
#if LANES > 1
    __local tokens sums[ROWS][LANES];
    for (int r = 0; r < ROWS; r++)
        sums[r][lane] = sum[r];
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < step)
            for (int r = 0; r < ROWS; r++)
                sums[r][lane] += sums[r][lane + step];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = 0; r < ROWS; r++)
        sum[r] = sums[r][0];
#endif
    for (int r = 0; r < ROWS; r++)
        if (active && lane == 0 && row + r < n_chunk_rows)
            STORE_ROW(t, first_row + row + r, sum[r]);
}

/* Rows `first_of_rows`... of a matrix, or those named by ids. */
__kernel void decode_rows(__global uint *dst, ulong dst_at,
    __global const int *ids, ulong ids_at, int has_ids, int mat,
    int first_of_rows, int n_cols, int n_rows, CHUNK_ARGS,
    __global const element *weights)
{
    const int c = (int)get_global_id(0), t = (int)get_global_id(1);
    const int row = (has_ids ? ids[ids_at + t] : first_of_rows + t) - first_row;
    if (c >= n_cols || row < 0 || row >= n_chunk_rows || mat < first_mat ||
        mat >= first_mat + n_mats)
        return;
    __global const element *w =
        weights + ((ulong)(mat - first_mat) * n_chunk_rows + row) * n_cols;
    dst[dst_at + (ulong)t * n_cols + c] = BITS(w, c);
}
