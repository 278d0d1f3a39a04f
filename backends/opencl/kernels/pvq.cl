/* SPDX-License-Identifier: Apache-2.0
 * The formats pvq (N 16) and pvq8 (N 8), tiled as core/pvq.h says.  A work-item
 * holds ROWS rows in the lanes of a vector and one token, or one row and the
 * tokens in the lanes.  SPLIT work-items share the columns of a row. */
#if N == 16
#define GROUP_BYTES 128
#define POSITION_BITS 4
#define BLOCK_BITS 8
#else
#define GROUP_BYTES 96
#define POSITION_BITS 3
#define BLOCK_BITS 6
#endif
#define CHUNK_BYTES (8 * GROUP_BYTES + 128)
#define MASK (N - 1)

#if ROWS == 1
typedef uint words;
typedef tokens values;
#define LOAD_WORDS(p) (*(__global const uint *)(p))
#define LOAD_BYTES(p) ((uint) * (p))
#define PICK(x, i) LOAD_TOKENS(x, i)
#if TT == 1
#define FLIP(v, s) as_float(as_uint(v) ^ (s))
#else
#define FLIP(v, s)                                                             \
    CAT(as_float, TT)(CAT(as_uint, TT)(v) ^ (CAT(uint, TT))(s))
#endif
#define SIGN_IF(condition) ((uint)(condition) << 31)
#else /* 16 rows, one token */
typedef uint16 words;
typedef float16 values;
#define LOAD_WORDS(p) vload16(0, (__global const uint *)(p))
#define LOAD_BYTES(p) convert_uint16(vload16(0, p))
#define PICK(x, i)                                                             \
    (float16)((x)[(i).s0], (x)[(i).s1], (x)[(i).s2], (x)[(i).s3],              \
        (x)[(i).s4], (x)[(i).s5], (x)[(i).s6], (x)[(i).s7], (x)[(i).s8],       \
        (x)[(i).s9], (x)[(i).sa], (x)[(i).sb], (x)[(i).sc], (x)[(i).sd],       \
        (x)[(i).se], (x)[(i).sf])
#define FLIP(v, s) as_float16(as_uint16(v) ^ (s))
#define SIGN_IF(condition) (as_uint16(condition) & 0x80000000u)
#endif

/* Position bits of the four blocks of a group, for the lanes from `codes`. */
words load_group(__global const uchar *codes, int lane)
{
#if N == 16
    return LOAD_WORDS(codes + 4 * lane);
#else
    return LOAD_BYTES(codes + lane) | LOAD_BYTES(codes + lane + 32) << 8 |
           LOAD_BYTES(codes + lane + 64) << 16;
#endif
}

/* Group `g` of the blocks at `codes`, of which the last may hold fewer. */
words load_tail_group(__global const uchar *codes, int lane, int g, int n)
{
#if N == 16
    if (4 * g + 4 > n) {
        words w = (words)0;
        for (int i = 4 * g; i < n; i++)
            w |= LOAD_BYTES(codes + i * 32 + lane) << (uint)(8 * (i & 3));
        return w;
    }
#endif
    return load_group(codes + g * GROUP_BYTES, lane);
}

/* The sum of n <= 4 blocks against x; bit i of signs is that of block i. */
values sum_group(words codes, words signs, __global const float *x, int n)
{
    values sum = (values)0.0f;
    for (int i = 0; i < n; i++) {
        const words a = codes & MASK;
        const words b = codes >> POSITION_BITS & MASK;
        const values first = PICK(x + i * N * TT, a);
        const values second =
            FLIP(PICK(x + i * N * TT, b), SIGN_IF(a > b));
        sum += FLIP(first + second, signs << 31);
        codes >>= BLOCK_BITS;
        signs >>= 1;
    }
    return sum;
}

values row_sum(__global const uchar *codes, int lane, int n_blocks,
    __global const float *x, int split)
{
    const int n_chunks = n_blocks / 32, tail = n_blocks % 32;
    values sum = (values)0.0f;
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        const words signs = LOAD_WORDS(codes + 8 * GROUP_BYTES + 4 * lane);
        for (int g = split; g < 8; g += SPLIT)
            sum += sum_group(load_group(codes + g * GROUP_BYTES, lane),
                signs >> (uint)(4 * g), x + g * 4 * N * TT, 4);
        codes += CHUNK_BYTES;
        x += 32 * N * TT;
    }
#if N == 16
    __global const uchar *sign_bytes = codes + tail * 32;
#else
    __global const uchar *sign_bytes = codes + (tail + 3) / 4 * GROUP_BYTES;
#endif
    for (int g = split; 4 * g < tail; g += SPLIT) {
        const words signs = LOAD_BYTES(sign_bytes + g / 2 * 32 + lane) >>
                            (uint)(4 * (g & 1));
        sum += sum_group(load_tail_group(codes, lane, g, tail), signs,
            x + g * 4 * N * TT, min(4, tail - 4 * g));
    }
    return sum;
}

/* Work-group: 32 / ROWS * SPLIT items, or one of a processor. */
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void product(
    PRODUCT_ARGS, __global const uchar *codes, __global const ushort *scales,
    ulong tile_bytes)
{
    const int tile = (int)get_global_id(1);
    const int unit = (int)get_global_id(0);
#if SPLIT > 1
    const int split = (int)get_local_id(0) / 32;
    const int row = (int)get_group_id(0) * 32 + (int)get_local_id(0) % 32;
#else
    const int split = 0;
    const int row = unit * ROWS;
#endif
    const tile_info t = TILE_OF(tile);
    const int active = !OUTSIDE_CHUNK(t) && row < n_rows;
    const int n_row_tiles = (n_rows + 31) / 32;
    __global const float *x = packed + packed_at + (ulong)tile * n_padded * TT;
    const ulong mat = active ? (ulong)(t.mat - first_mat) : 0;
    values sum = (values)0.0f;
    if (active)
        sum = row_sum(codes + (mat * n_row_tiles + row / 32) * tile_bytes,
            row % 32, (n_cols + N - 1) / N, x, split);
#if SPLIT > 1
    __local values sums[GROUP];
    sums[get_local_id(0)] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (split == 0 && active) {
        for (int i = 1; i < SPLIT; i++)
            sum += sums[get_local_id(0) + 32 * i];
        STORE_ROW(t, row, BF16(scales[mat * n_rows + row]) * sum);
    }
#elif ROWS == 1
    if (active)
        STORE_ROW(t, row, BF16(scales[mat * n_rows + row]) * sum);
#else
    float lanes[ROWS];
    vstore16(sum, 0, lanes);
    for (int i = 0; active && i < ROWS && row + i < n_rows; i++)
        STORE_ROW(t, row + i, BF16(scales[mat * n_rows + row + i]) * lanes[i]);
#endif
}

/* One work-item per block; columns beyond the last are dropped. */
__kernel void decode_rows(__global float *dst, ulong dst_at,
    __global const int *ids, ulong ids_at, int has_ids, int mat,
    int first_of_rows, int n_cols, int n_rows, CHUNK_ARGS,
    __global const uchar *codes, __global const ushort *scales,
    ulong tile_bytes)
{
    const int block = (int)get_global_id(0), t = (int)get_global_id(1);
    const int n_blocks = (n_cols + N - 1) / N;
    const int row = has_ids ? ids[ids_at + t] : first_of_rows + t;
    if (block >= n_blocks || mat < first_mat || mat >= first_mat + n_mats)
        return;
    const ulong m = (ulong)(mat - first_mat);
    const int lane = row % 32, k = block % 32, g = k / 4;
    const int n = block / 32 < n_blocks / 32 ? 32 : n_blocks % 32;
    codes += (m * ((n_rows + 31) / 32) + row / 32) * tile_bytes +
             (ulong)(block / 32) * CHUNK_BYTES;
#if N == 16
    const int byte = 4 * g + 4 > n ? k * 32 + lane
                                   : (g * 32 + lane) * 4 + (k & 3);
    const int bits = codes[byte];
    const int signs = n * 32;
#else
    const int at = g * GROUP_BYTES + lane;
    const int bits = (codes[at] | codes[at + 32] << 8 | codes[at + 64] << 16) >>
                     6 * (k & 3);
    const int signs = (n + 3) / 4 * GROUP_BYTES;
#endif
    const int place = n == 32 ? lane * 4 + k / 8 : k / 8 * 32 + lane;
    const int first = codes[signs + place] >> (k & 7) & 1 ? -1 : 1;
    const int a = bits & MASK, b = bits >> POSITION_BITS & MASK;
    const int second = a <= b ? first : -first;
    const float scale = BF16(scales[m * n_rows + row]);
    for (int i = 0; i < N && block * N + i < n_cols; i++) {
        const int q = (i == a ? first : 0) + (i == b ? second : 0);
        dst[dst_at + (ulong)t * n_cols + block * N + i] = scale * (float)q;
    }
}
