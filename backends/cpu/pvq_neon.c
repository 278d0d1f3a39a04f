/* SPDX-License-Identifier: Apache-2.0
 * pvq and pvq8 on NEON.  In: codes of a tile of 32 rows, packed tokens.  Out:
 * sums of the rows without their scales.  Few tokens: 4 rows in the 4 lanes;
 * the bytes of x of a block are a table of 64 (32) bytes, a pulse four look-ups
 * in it, with its sign xored in.  Many tokens: the portable row form, which is
 * NEON here. */
#include "pvq_kernel.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

/* How far ahead codes are fetched. */
enum { PREFETCH_BYTES = 2048, N_QUADS = 8 };

/* One group in 4 rows: byte i of a lane for block i. */
typedef struct indices {
    uint8x16_t a, b; /* positions times 4: of the first byte in the table */
    uint32x4_t flip_b, flip; /* bit 8 i + 7: other sign than a; sign of a */
} indices;

/* Positions a | b << log2(n) in bytes (bits above ignored); signs: bits 0..3
 * of a lane. */
INLINE indices decode(uint32x4_t positions, uint32x4_t signs, int n)
{
    const uint8x16_t p = vreinterpretq_u8_u32(positions);
    const uint8x16_t low = vdupq_n_u8((uint8_t)(n - 1));
    const uint8x16_t at_a = vandq_u8(p, low);
    const uint8x16_t at_b =
        vandq_u8(n == 16 ? vshrq_n_u8(p, 4) : vshrq_n_u8(p, 3), low);
    /* Bits 0 to 3 to the top bits of the bytes. */
    const uint32x4_t spread =
        vmulq_n_u32(vandq_u32(signs, vdupq_n_u32(15)), 0x00204081);
    return (indices){
        .a = vshlq_n_u8(at_a, 2),
        .b = vshlq_n_u8(at_b, 2),
        .flip_b = vreinterpretq_u32_u8(vcgtq_u8(at_a, at_b)),
        .flip = vshlq_n_u32(vandq_u32(spread, vdupq_n_u32(0x01010101)), 7),
    };
}

/* x at the positions of block i; `first` holds 4 times them.  The byte of the
 * block is spread over its lane, and 0 to 3 added: the four bytes of a
 * float. */
INLINE uint32x4_t look_up(const float *x, uint8x16_t first, int i, int n)
{
    static const uint8_t lanes[16] = {
        0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
    static const uint8_t offsets[16] = {
        0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    const uint8x16_t which = vaddq_u8(vld1q_u8(lanes), vdupq_n_u8((uint8_t)i));
    const uint8x16_t index =
        vaddq_u8(vqtbl1q_u8(first, which), vld1q_u8(offsets));
    const uint8_t *bytes = (const uint8_t *)x;
    if (n == 16)
        return vreinterpretq_u32_u8(vqtbl4q_u8(vld1q_u8_x4(bytes), index));
    return vreinterpretq_u32_u8(vqtbl2q_u8(vld1q_u8_x2(bytes), index));
}

INLINE float32x4_t block_sum(const float *x, indices at, int i, int n)
{
    const uint32x4_t top = vdupq_n_u32(0x80000000);
    const int32x4_t up = vdupq_n_s32(24 - 8 * i);
    const uint32x4_t flip = vandq_u32(vshlq_u32(at.flip, up), top);
    const uint32x4_t flip_b = vandq_u32(vshlq_u32(at.flip_b, up), top);
    const uint32x4_t a = veorq_u32(look_up(x, at.a, i, n), flip);
    const uint32x4_t b =
        veorq_u32(look_up(x, at.b, i, n), veorq_u32(flip, flip_b));
    return vaddq_f32(vreinterpretq_f32_u32(a), vreinterpretq_f32_u32(b));
}

INLINE float32x4_t group_sum(
    const float *x, uint32x4_t positions, uint32x4_t signs, int n)
{
    const indices at = decode(positions, signs, n);
    float32x4_t blocks[4];
    QCPU_UNROLL
    for (int i = 0; i < 4; i++)
        blocks[i] = block_sum(x + i * n, at, i, n);
    return vaddq_f32(
        vaddq_f32(blocks[0], blocks[1]), vaddq_f32(blocks[2], blocks[3]));
}

/* Byte i of lane r = byte r of column i. */
INLINE uint32x4_t columns_of(const uint8_t *p, int n_columns)
{
    uint32x4_t word = vdupq_n_u32(0);
    for (int i = 0; i < n_columns; i++) {
        const uint32x4_t bytes = {p[QMI_PVQ_TILE * i], p[QMI_PVQ_TILE * i + 1],
            p[QMI_PVQ_TILE * i + 2], p[QMI_PVQ_TILE * i + 3]};
        word = vorrq_u32(word, vshlq_u32(bytes, vdupq_n_s32(8 * i)));
    }
    return word;
}

INLINE uint32x4_t load_positions(const uint8_t *group, int quad, int n)
{
    if (n == 16)
        return vreinterpretq_u32_u8(vld1q_u8(group + 16 * quad));
    /* Four times six bits in three bytes: to bytes. */
    const uint32x4_t bits = columns_of(group + 4 * quad, 3);
    const uint32x4_t six = vdupq_n_u32(0x3f);
    uint32x4_t out = vandq_u32(bits, six);
    out = vsliq_n_u32(out, vandq_u32(vshrq_n_u32(bits, 6), six), 8);
    out = vsliq_n_u32(out, vandq_u32(vshrq_n_u32(bits, 12), six), 16);
    return vsliq_n_u32(out, vshrq_n_u32(bits, 18), 24);
}

/* As add_tile for the blocks behind the last chunk: signs are bytes, and pvq's
 * last blocks have columns of their own (pvq.h). */
INLINE void add_tail(float32x4_t sums[N_QUADS], const uint8_t *codes,
    int n_blocks, const float *x, int64_t stride, int n)
{
    const int n_groups = (n_blocks + 3) / 4;
    const int n_whole = n == 16 ? n_blocks / 4 : n_groups;
    const int n_rest = n == 16 ? n_blocks % 4 : 0;
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    const uint8_t *rest = codes + (size_t)n_whole * group_bytes;
    const uint8_t *sign_columns = rest + QMI_PVQ_TILE * n_rest;
    for (int q = 0; q < N_QUADS; q++) {
        uint32x4_t signs = columns_of(sign_columns + 4 * q, (n_blocks + 7) / 8);
        for (int g = 0; g < n_groups; g++) {
            const uint32x4_t positions =
                g < n_whole
                    ? load_positions(codes + (size_t)g * group_bytes, q, n)
                    : columns_of(rest + 4 * q, n_rest);
            sums[q] = vaddq_f32(
                sums[q], group_sum(x + g * stride, positions, signs, n));
            signs = vshrq_n_u32(signs, 4);
        }
    }
}

/* x of group g: x + g * stride. */
INLINE void add_tile(float *out, const uint8_t *codes, const qmi_pvq_shape *s,
    const float *x, int64_t stride, int n)
{
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    float32x4_t sums[N_QUADS];
    for (int q = 0; q < N_QUADS; q++)
        sums[q] = vdupq_n_f32(0);
    for (int64_t c = 0; c < s->n_chunks; c++) {
        const uint8_t *sign_words =
            codes + QCPU_PVQ_GROUPS_PER_CHUNK * group_bytes;
        for (int g = 0; g < QCPU_PVQ_GROUPS_PER_CHUNK; g++) {
            qcpu_prefetch(codes, PREFETCH_BYTES);
            qcpu_prefetch(codes, PREFETCH_BYTES + 64);
            QCPU_UNROLL
            for (int q = 0; q < N_QUADS; q++) {
                const uint32x4_t signs = vshlq_u32(
                    vreinterpretq_u32_u8(vld1q_u8(sign_words + 16 * q)),
                    vdupq_n_s32(-4 * g));
                sums[q] = vaddq_f32(sums[q],
                    group_sum(x, load_positions(codes, q, n), signs, n));
            }
            codes += group_bytes;
            x += stride;
        }
        codes += QMI_PVQ_TILE * sizeof(uint32_t);
    }
    if (s->tail != 0)
        add_tail(sums, codes, s->tail, x, stride, n);
    for (int q = 0; q < N_QUADS; q++)
        vst1q_f32(out + 4 * q, sums[q]);
}

static void few_tokens(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int64_t n_tokens)
{
    const int64_t width = QCPU_PVQ_GROUP * s->n;
    for (int64_t t = 0; t < n_tokens; t++) {
        float *out = sums + t * QMI_PVQ_TILE;
        const float *x = panel + t * width;
        /* n as a constant in both calls, so that each is compiled for its
         * width. */
        if (s->n == 16)
            add_tile(out, codes, s, x, width * n_tokens, 16);
        else
            add_tile(out, codes, s, x, width * n_tokens, 8);
    }
}

QCPU_PVQ_FEW_OR_ROWS(neon, few_tokens, qcpu_pvq_rows_tile)

const qcpu_matmul qcpu_matmul_pvq_neon = {
    .needs = QMI_CPU_NEON,
    .takes = qcpu_pvq_takes,
    .max_tokens = QCPU_ANY_TOKENS,
    .speed = 30,
    .tile_rows = qcpu_pvq_tile_rows,
    .packed_bytes = packed_bytes_neon,
    .pack = pack_neon,
    .tile_scratch = tile_scratch_neon,
    .run = run_neon,
};

#else
typedef int qcpu_no_neon; /* a file must not be empty */
#endif
