/* SPDX-License-Identifier: Apache-2.0
 * Products with pvq and pvq8 for processors: a work-item holds 16 rows of a
 * tile in the lanes of vectors, and looks the pulses of a block up in the
 * block's activations, which are one vector.  The signs of the second pulses
 * come from one addition for four blocks: a + (2^k - 1 - b) has bit k set if
 * a > b.  Activations are packed by token (TOKEN_MAJOR). */
#if N == 16
#define FIELDS 0x0f0f0f0fu
#define LOAD_TABLE(x) vload16(0, x)
#else
#define FIELDS 0x1c71c7u
#define LOAD_TABLE(x) (float16)(vload8(0, x), vload8(0, x))
#endif
#define TOP 0x80000000u

/* Elements of a vector at places known at run time.  OpenCL C has shuffle(),
 * which PoCL turns into loads; the subscripts of clang become one instruction
 * where the processor has it. */
#if REGISTER_LOOKUP && defined(__clang__)
#define ELEMENT(table, x, i) (table)[i]
#else
#define ELEMENT(table, x, i) (x)[i]
#endif
#define LOOK_UP(table, x, i)                                                   \
    (float16)(ELEMENT(table, x, (i).s0), ELEMENT(table, x, (i).s1),            \
        ELEMENT(table, x, (i).s2), ELEMENT(table, x, (i).s3),                  \
        ELEMENT(table, x, (i).s4), ELEMENT(table, x, (i).s5),                  \
        ELEMENT(table, x, (i).s6), ELEMENT(table, x, (i).s7),                  \
        ELEMENT(table, x, (i).s8), ELEMENT(table, x, (i).s9),                  \
        ELEMENT(table, x, (i).sa), ELEMENT(table, x, (i).sb),                  \
        ELEMENT(table, x, (i).sc), ELEMENT(table, x, (i).sd),                  \
        ELEMENT(table, x, (i).se), ELEMENT(table, x, (i).sf))

/* A look-up is one instruction only where its indices are made in the same
 * piece of straight code. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

/* Adds block `i` of a group; x [TT] rows of `stride`, at the group. */
#define ADD_BLOCK(i)                                                           \
    {                                                                          \
        const uint16 a = codes >> BLOCK_BITS * (i)&MASK;                       \
        const uint16 b = seconds >> BLOCK_BITS * (i)&MASK;                     \
        const uint16 flip =                                                    \
            flips << (31 - POSITION_BITS - BLOCK_BITS * (i)) & TOP;            \
        const uint16 sign = signs << (31 - (i)) & TOP;                         \
        UNROLL for (int t = 0; t < TT; t++)                                    \
        {                                                                      \
            __global const float *at = x + (ulong)t * stride + (i)*N;          \
            const float16 table = LOAD_TABLE(at);                              \
            const float16 first = LOOK_UP(table, at, a);                       \
            const float16 second = LOOK_UP(table, at, b);                      \
            const float16 pair =                                               \
                first + as_float16(as_uint16(second) ^ flip);                  \
            sum[t] += as_float16(as_uint16(pair) ^ sign);                      \
        }                                                                      \
    }

/* Adds n <= 4 blocks to sum [TT]; bit i of signs is that of block i. */
void add_group(float16 *sum, uint16 codes, uint16 signs,
    __global const float *x, int stride, int n)
{
    const uint16 seconds = codes >> POSITION_BITS;
    const uint16 flips = (codes & FIELDS) + (~seconds & FIELDS);
    if (n == 4) {
        ADD_BLOCK(0)
        ADD_BLOCK(1)
        ADD_BLOCK(2)
        ADD_BLOCK(3)
        return;
    }
    ADD_BLOCK(0)
    if (n > 1)
        ADD_BLOCK(1)
    if (n > 2)
        ADD_BLOCK(2)
}

void add_rows(float16 *sum, __global const uchar *codes, int lane,
    int n_blocks, __global const float *x, int stride)
{
    const int n_chunks = n_blocks / 32, tail = n_blocks % 32;
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        uint16 signs = LOAD_WORDS(codes + 8 * GROUP_BYTES + 4 * lane);
        for (int g = 0; g < 8; g++) {
            add_group(sum, load_group(codes + g * GROUP_BYTES, lane), signs,
                x + g * 4 * N, stride, 4);
            signs >>= 4;
        }
        codes += CHUNK_BYTES;
        x += 32 * N;
    }
    for (int g = 0; 4 * g < tail; g++)
        add_group(sum, load_tail_group(codes, lane, g, tail),
            load_tail_signs(codes, lane, g, tail), x + g * 4 * N, stride,
            min(4, tail - 4 * g));
}

/* 16 values, or the first n of them and zeros. */
float16 load_some(__global const float *x, int n)
{
    float values[16];
    if (n >= 16)
        return vload16(0, x);
    for (int i = 0; i < 16; i++)
        values[i] = i < n ? x[i] : 0.0f;
    return vload16(0, values);
}

void store_some(float16 y, __global float *x, int n)
{
    float values[16];
    if (n >= 16) {
        vstore16(y, 0, x);
        return;
    }
    vstore16(y, 0, values);
    for (int i = 0; i < n; i++)
        x[i] = values[i];
}

DEFINE_ACTIVATE(activate_rows, float16)

/* Results of n <= 16 rows for one token. */
void store_rows(__global float *dst, __global const float *residual, int n,
    float16 y, int act, int join)
{
    y = activate_rows(y, act);
    if (join == JOIN_ADD)
        y += load_some(residual, n);
    if (join == JOIN_MULTIPLY)
        y *= load_some(residual, n);
    store_some(y, dst, n);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void product(
    PRODUCT_ARGS, PVQ_ARGS)
{
    const int row = (int)get_global_id(0) * 16, tile = (int)get_global_id(1);
    const tile_info t = TILE_OF(tile);
    if (OUTSIDE_CHUNK(t) || row >= n_rows)
        return;
    const ulong mat = (ulong)(t.mat - first_mat);
    float16 sum[TT];
    for (int i = 0; i < TT; i++)
        sum[i] = (float16)0.0f;
    add_rows(sum, codes + (mat * ((n_rows + 31) / 32) + row / 32) * tile_bytes,
        row % 32, (n_cols + N - 1) / N,
        packed + packed_at + (ulong)tile * n_padded * TT, n_padded);
    float scale[16];
    for (int i = 0; i < 16; i++)
        scale[i] = row + i < n_rows
                       ? alpha * BF16(scales[mat * n_rows + row + i])
                       : 0.0f;
    const int n = min(16, n_rows - row);
    const float16 added =
        has_bias ? load_some(bias + row, n) : (float16)0.0f;
    for (int i = 0; i < t.count; i++) {
        const int item = grouping == 2 ? order[t.begin + i] : t.begin + i;
        const ulong at = (ulong)item * n_rows + row;
        store_rows(dst + dst_at + at, residual + residual_at + at, n,
            vload16(0, scale) * sum[i] + added, act, join);
    }
}
