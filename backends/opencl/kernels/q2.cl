/* SPDX-License-Identifier: Apache-2.0
 * The format q2: two bits per weight choose one of four values of the row.  A
 * work-group of LANES takes a row, its lanes share the columns 16 by 16. */
#define STEP 16 /* columns of one word */
#define LEVEL(levels, code) BF16((levels)[(code)&3])

/* The codes of columns [16 * g, + 16); 0 beyond the row. */
uint load_codes(__global const uchar *row, int g, int row_bytes)
{
    uint word = 0;
    for (int i = 0; i < 4; i++)
        if (4 * g + i < row_bytes)
            word |= (uint)row[4 * g + i] << (8 * i);
    return word;
}

/* Sixteen columns for the tokens of a tile. */
#if TT == 1
typedef float16 partial;
partial add_word(partial sum, uint word, const float *level,
    __global const float *x)
{
    const uint16 code =
        (uint16)(word) >> (uint16)(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22,
                              24, 26, 28, 30);
    const int16 odd = (code & 1) != 0, upper = (code & 2) != 0;
    const float16 low = select((float16)level[0], (float16)level[1], odd);
    const float16 high = select((float16)level[2], (float16)level[3], odd);
    return sum + select(low, high, upper) * vload16(0, x);
}

float finish(partial v)
{
    const float8 a = v.lo + v.hi;
    const float4 b = a.lo + a.hi;
    const float2 c = b.lo + b.hi;
    return c.x + c.y;
}
#else
typedef tokens partial;
partial add_word(partial sum, uint word, const float *level,
    __global const float *x)
{
    for (int i = 0; i < STEP; i++)
        sum += level[word >> (2 * i) & 3] * LOAD_TOKENS(x, i);
    return sum;
}
#define finish(sum) (sum)
#endif

__kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void product(
    PRODUCT_ARGS, __global const uchar *codes, __global const ushort *levels)
{
    const int lane = (int)get_local_id(0), tile = (int)get_global_id(1);
    const int row = (int)get_group_id(0);
    const tile_info t = TILE_OF(tile);
    const int active = !OUTSIDE_CHUNK(t);
    const int end = active ? n_cols : 0; /* no return before a barrier */
    const ulong at = (active ? (ulong)(t.mat - first_mat) * n_rows : 0) + row;
    const int row_bytes = (n_cols + 3) / 4;
    __global const float *x = packed + packed_at + (ulong)tile * n_padded * TT;
    float level[4];
    for (int i = 0; i < 4; i++)
        level[i] = LEVEL(levels + 4 * at, i);
    partial part = (partial)0.0f;
    for (int g = lane; g * STEP < end; g += LANES)
        part = add_word(part, load_codes(codes + at * row_bytes, g, row_bytes),
            level, x + (ulong)g * STEP * TT);
    tokens sum = finish(part);
#if LANES > 1
    __local tokens sums[LANES];
    sums[lane] = sum;
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < step)
            sums[lane] += sums[lane + step];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    sum = sums[0];
#endif
    if (active && lane == 0)
        STORE_ROW(t, row, sum);
}

__kernel void decode_rows(__global uint *dst, ulong dst_at,
    __global const int *ids, ulong ids_at, int has_ids, int mat,
    int first_of_rows, int n_cols, int n_rows, CHUNK_ARGS,
    __global const uchar *codes, __global const ushort *levels)
{
    const int c = (int)get_global_id(0), t = (int)get_global_id(1);
    const int row = has_ids ? ids[ids_at + t] : first_of_rows + t;
    if (c >= n_cols || mat < first_mat || mat >= first_mat + n_mats)
        return;
    const ulong at = (ulong)(mat - first_mat) * n_rows + row;
    const uint code =
        codes[at * ((n_cols + 3) / 4) + c / 4] >> (2 * (c % 4)) & 3;
    dst[dst_at + (ulong)t * n_cols + c] = (uint)levels[4 * at + code] << 16;
}
