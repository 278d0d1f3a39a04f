/* SPDX-License-Identifier: Apache-2.0
 * The formats tlut: strings of bits down the columns, read by windows of 6 bits
 * (core/formats/tlut.h).  A work-item holds ROWS rows of a tile, whole steps,
 * and the tokens of the tile of activations; LANES neighbours hold neighbouring
 * rows, and SHARES of them share the columns.  K bits per step, V rows per
 * step, WORDS words per string.  The scale of a column multiplies its
 * activation. */
#define TILE 64
#define GROUP 4 /* columns */
#define WINDOWS 64
#define GROUP_WORDS ((ulong)GROUP * WORDS)

/* The table is written before this source: tlut_table [WINDOWS * V].  Work-items
 * in lockstep look up at different places, which constant memory serves one
 * after the other; they copy it. */
#if LANES == 1
#define TABLE_MEMORY __constant
#else
#define TABLE_MEMORY __local
#endif

#define TLUT_ARGS                                                              \
    __global const ushort *codes, __global const ushort *scales,               \
        __global const ushort *col_scales

/* Of a step of a string, whose words lie GROUP apart; strings are rings. */
uint window_of(__global const ushort *string, int step)
{
    const int bit = K * step, word = bit / 16;
    const int next = word + 1 == WORDS ? 0 : word + 1;
    const uint pair =
        string[GROUP * word] | (uint)string[GROUP * next] << 16;
    return pair >> (uint)(bit % 16) & (WINDOWS - 1);
}

/* Adds n columns of a group to sum [ROWS]: the rows from `step` on. */
void add_group(tokens *sum, TABLE_MEMORY const float *table,
    __global const ushort *codes, __global const ushort *col_scales,
    __global const float *x, int step, int n)
{
    for (int j = 0; j < n; j++) {
        const tokens v = BF16(col_scales[j]) * LOAD_TOKENS(x, j);
        for (int s = 0; s < ROWS / V; s++) {
            TABLE_MEMORY const float *values =
                table + V * window_of(codes + j, step + s);
            for (int r = 0; r < V; r++)
                sum[s * V + r] += values[r] * v;
        }
    }
}

__kernel __attribute__((reqd_work_group_size(LANES *SHARES, 1, 1))) void
product(PRODUCT_ARGS, TLUT_ARGS)
{
    const int tile = (int)get_global_id(1), id = (int)get_local_id(0);
    const int share = id / LANES;
    const int row = ((int)get_group_id(0) * LANES + id % LANES) * ROWS;
    const tile_info t = TILE_OF(tile);
    const int active = !OUTSIDE_CHUNK(t) && row < n_rows;
    const ulong mat = active ? (ulong)(t.mat - first_mat) : 0;
    const int n_groups = (n_cols + GROUP - 1) / GROUP;
    const int end = active ? n_groups : 0; /* no return before a barrier */
    const ulong tile_at =
        (mat * ((n_rows + TILE - 1) / TILE) + row / TILE) * n_groups;
    __global const float *x = packed + packed_at + (ulong)tile * n_padded * TT;
    tokens sum[ROWS];
    for (int r = 0; r < ROWS; r++)
        sum[r] = (tokens)0.0f;
#if LANES == 1
    TABLE_MEMORY const float *table = tlut_table;
#else
    TABLE_MEMORY float table[WINDOWS * V];
    for (int i = id; i < WINDOWS * V; i += LANES * SHARES)
        table[i] = tlut_table[i];
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    for (int g = share; g < end; g += SHARES)
        add_group(sum, table, codes + (tile_at + g) * GROUP_WORDS,
            col_scales + mat * n_cols + g * GROUP, x + (ulong)g * GROUP * TT,
            row % TILE / V, min(GROUP, n_cols - g * GROUP));
#if SHARES > 1
    __local tokens sums[LANES * SHARES];
    for (int r = 0; r < ROWS; r++) {
        sums[id] = sum[r];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = 1; share == 0 && i < SHARES; i++)
            sum[r] += sums[id + LANES * i];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
#endif
    for (int r = 0; share == 0 && r < ROWS; r++)
        if (active && row + r < n_rows)
            STORE_ROW(
                t, row + r, BF16(scales[mat * n_rows + row + r]) * sum[r]);
}

/* One work-item per column. */
__kernel void decode_rows(__global float *dst, ulong dst_at,
    __global const int *ids, ulong ids_at, int has_ids, int mat,
    int first_of_rows, int n_cols, int n_rows, CHUNK_ARGS, TLUT_ARGS)
{
    const int c = (int)get_global_id(0), t = (int)get_global_id(1);
    const int row = has_ids ? ids[ids_at + t] : first_of_rows + t;
    const int n_groups = (n_cols + GROUP - 1) / GROUP;
    if (c >= n_cols || mat < first_mat || mat >= first_mat + n_mats)
        return;
    const ulong m = (ulong)(mat - first_mat);
    const ulong tile = m * ((n_rows + TILE - 1) / TILE) + row / TILE;
    codes += (tile * n_groups + c / GROUP) * GROUP_WORDS + c % GROUP;
    const uint window = window_of(codes, row % TILE / V);
    dst[dst_at + (ulong)t * n_cols + c] =
        BF16(scales[m * n_rows + row]) * BF16(col_scales[m * n_cols + c]) *
        tlut_table[window * V + row % V];
}
