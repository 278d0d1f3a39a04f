/* SPDX-License-Identifier: Apache-2.0
 * What the kernels of the formats pvq (N 16) and pvq8 (N 8) share: reading the
 * tiles of core/formats/pvq.h, and the plain decoder. */
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

#define PVQ_ARGS                                                               \
    __global const uchar *codes, __global const ushort *scales, ulong tile_bytes

/* `words` holds one word per row of a work-item. */
#if ROWS == 1
typedef uint words;
#define LOAD_WORDS(p) (*(__global const uint *)(p))
#define LOAD_BYTES(p) ((uint) * (p))
#else
typedef uint16 words;
#define LOAD_WORDS(p) vload16(0, (__global const uint *)(p))
#define LOAD_BYTES(p) convert_uint16(vload16(0, p))
#endif

/* Position bits of the four blocks of a group, for the rows from `lane`. */
words load_group(__global const uchar *codes, int lane)
{
#if N == 16
    return LOAD_WORDS(codes + 4 * lane);
#else
    return LOAD_BYTES(codes + lane) | LOAD_BYTES(codes + lane + 32) << 8 |
           LOAD_BYTES(codes + lane + 64) << 16;
#endif
}

/* Group `g` of the `n` blocks at `codes`, of which the last may be shorter. */
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

/* Signs of the blocks of tail group `g` from bit 0 on. */
words load_tail_signs(__global const uchar *codes, int lane, int g, int n)
{
#if N == 16
    codes += n * 32;
#else
    codes += (n + 3) / 4 * GROUP_BYTES;
#endif
    return LOAD_BYTES(codes + g / 2 * 32 + lane) >> (uint)(4 * (g & 1));
}

/* One work-item per block; columns beyond the last are dropped. */
__kernel void decode_rows(__global float *dst, ulong dst_at,
    __global const int *ids, ulong ids_at, int has_ids, int mat,
    int first_of_rows, int n_cols, int n_rows, CHUNK_ARGS, PVQ_ARGS)
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
