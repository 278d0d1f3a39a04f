/* SPDX-License-Identifier: Apache-2.0
 * Products with pvq and pvq8 for devices whose work-items run in lockstep: a
 * work-item holds one row and the tokens of the tile, neighbours hold
 * neighbouring rows, and SPLIT work-items share the columns of a row. */
#if TT == 1
#define FLIP(v, s) as_float(as_uint(v) ^ (s))
#else
#define FLIP(v, s)                                                             \
    CAT(as_float, TT)(CAT(as_uint, TT)(v) ^ (CAT(uint, TT))(s))
#endif

/* The sum of n <= 4 blocks against x; bit i of signs is that of block i. */
tokens sum_group(uint codes, uint signs, __global const float *x, int n)
{
    tokens sum = (tokens)0.0f;
    for (int i = 0; i < n; i++) {
        const uint a = codes & MASK;
        const uint b = codes >> POSITION_BITS & MASK;
        const tokens first = LOAD_TOKENS(x + i * N * TT, a);
        const tokens second = FLIP(
            LOAD_TOKENS(x + i * N * TT, b), (uint)(a > b) << 31);
        sum += FLIP(first + second, signs << 31);
        codes >>= BLOCK_BITS;
        signs >>= 1;
    }
    return sum;
}

tokens row_sum(__global const uchar *codes, int lane, int n_blocks,
    __global const float *x, int split)
{
    const int n_chunks = n_blocks / 32, tail = n_blocks % 32;
    tokens sum = (tokens)0.0f;
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        const uint signs = LOAD_WORDS(codes + 8 * GROUP_BYTES + 4 * lane);
        for (int g = split; g < 8; g += SPLIT)
            sum += sum_group(load_group(codes + g * GROUP_BYTES, lane),
                signs >> (uint)(4 * g), x + g * 4 * N * TT, 4);
        codes += CHUNK_BYTES;
        x += 32 * N * TT;
    }
    for (int g = split; 4 * g < tail; g += SPLIT)
        sum += sum_group(load_tail_group(codes, lane, g, tail),
            load_tail_signs(codes, lane, g, tail), x + g * 4 * N * TT,
            min(4, tail - 4 * g));
    return sum;
}

/* Work-group: 32 * SPLIT items. */
__kernel __attribute__((reqd_work_group_size(32 * SPLIT, 1, 1))) void product(
    PRODUCT_ARGS, PVQ_ARGS)
{
    const int tile = (int)get_global_id(1), local_id = (int)get_local_id(0);
    const int split = local_id / 32;
    const int row = (int)get_group_id(0) * 32 + local_id % 32;
    const tile_info t = TILE_OF(tile);
    const int active = !OUTSIDE_CHUNK(t) && row < n_rows;
    const ulong mat = active ? (ulong)(t.mat - first_mat) : 0;
    __global const float *x = packed + packed_at + (ulong)tile * n_padded * TT;
    tokens sum = (tokens)0.0f;
    if (active)
        sum = row_sum(
            codes + (mat * ((n_rows + 31) / 32) + row / 32) * tile_bytes,
            row % 32, (n_cols + N - 1) / N, x, split);
#if SPLIT > 1
    __local tokens sums[32 * SPLIT];
    sums[local_id] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 1; split == 0 && i < SPLIT; i++)
        sum += sums[local_id + 32 * i];
#endif
    if (split == 0 && active)
        STORE_ROW(t, row, BF16(scales[mat * n_rows + row]) * sum);
}
