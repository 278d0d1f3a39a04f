/* SPDX-License-Identifier: Apache-2.0
 * The row form of the pvq kernels in the compiler's vector types, compiled for
 * each instruction set: ISA is a target attribute (or nothing), NAME(x) adds
 * the suffix, VEC_BYTES is the width of a register.  No include guard on
 * purpose.
 *
 * The index of a pulse is its position with the sign on top, an index into
 * the rows (x, -x) of its block; four blocks' indices are computed at once in
 * the bytes of a 32-bit word. */

typedef struct {
    uint32_t positions[QMI_PVQ_TILE]; /* byte i: a | b << log2(n) of block i */
    uint32_t signs[QMI_PVQ_TILE];     /* bit i: block i of the chunk */
    uint32_t a[QMI_PVQ_TILE], b[QMI_PVQ_TILE];
} NAME(group);

#define INLINE ISA static inline __attribute__((always_inline))

INLINE void NAME(load_words)(uint32_t *dst, const uint8_t *src)
{
    for (int r = 0; r < QMI_PVQ_TILE; r++)
        dst[r] = qmi_load_u32(src + 4 * r); /* little endian: see pvq_run */
}

/* Byte i of word r = byte r of column i. */
INLINE void NAME(load_columns)(uint32_t *dst, const uint8_t *src, int n_columns)
{
    memset(dst, 0, QMI_PVQ_TILE * sizeof *dst);
    for (int i = 0; i < n_columns; i++)
        for (int r = 0; r < QMI_PVQ_TILE; r++)
            dst[r] |= (uint32_t)src[QMI_PVQ_TILE * i + r] << (8 * i);
}

/* Three byte columns hold four times six bits. */
INLINE void NAME(load_six_bits)(uint32_t *dst, const uint8_t *src)
{
    NAME(load_columns)(dst, src, 3);
    for (int r = 0; r < QMI_PVQ_TILE; r++)
        dst[r] = (dst[r] & 0x3f) | (dst[r] << 2 & 0x3f00) |
                 (dst[r] << 4 & 0x3f0000) | (dst[r] << 6 & 0x3f000000);
}

INLINE void NAME(decode)(NAME(group) * group, int g, int n)
{
    const uint32_t each = 0x01010101, low = each * (uint32_t)(n - 1);
    const uint32_t top = each * (uint32_t)n;
    const int shift = n == 16 ? 4 : 3;
    for (int r = 0; r < QMI_PVQ_TILE; r++) {
        const uint32_t p = group->positions[r];
        const uint32_t at_a = p & low, at_b = p >> shift & low;
        /* Bits 0 to 3 to the bytes. */
        const uint32_t bits = (group->signs[r] >> (4 * g) & 15) * 0x00204081;
        const uint32_t sign = (bits & each) << shift;
        /* Top bit of a byte: a <= b.  Nothing borrows across bytes. */
        const uint32_t order = (at_b | top) - at_a;
        group->a[r] = at_a | sign;
        group->b[r] = at_b | ((~order & top) ^ sign);
    }
}

/* One group's pulses in one row of the tile, x [4, 2 n] or of token rows. */
INLINE float NAME(add_one)(
    float sum, uint32_t a, uint32_t b, const float *x, int n)
{
    float first = x[a & 31] + x[b & 31];
    x += 2 * n;
    float second = x[a >> 8 & 31] + x[b >> 8 & 31];
    x += 2 * n;
    first += x[a >> 16 & 31] + x[b >> 16 & 31];
    x += 2 * n;
    second += x[a >> 24] + x[b >> 24];
    return sum + (first + second);
}

typedef float NAME(vec) __attribute__((vector_size(VEC_BYTES)));
enum { NAME(n_vecs) = 4 * QCPU_PVQ_LANES / VEC_BYTES };

INLINE void NAME(add_row)(
    NAME(vec) sums[NAME(n_vecs)], const float *x, uint32_t index)
{
    const NAME(vec) *row = (const void *)(x + index * QCPU_PVQ_LANES);
    QCPU_UNROLL
    for (int i = 0; i < NAME(n_vecs); i++)
        sums[i] += row[i];
}

INLINE void NAME(add_lanes)(
    float *sums, uint32_t a, uint32_t b, const float *x, int n)
{
    NAME(vec) *out = (void *)sums;
    NAME(vec) local[NAME(n_vecs)];
    QCPU_UNROLL
    for (int i = 0; i < NAME(n_vecs); i++)
        local[i] = out[i];
    QCPU_UNROLL
    for (int i = 0; i < QCPU_PVQ_GROUP; i++) {
        NAME(add_row)(local, x, a >> (8 * i) & 31);
        NAME(add_row)(local, x, b >> (8 * i) & 31);
        x += 2 * n * QCPU_PVQ_LANES;
    }
    QCPU_UNROLL
    for (int i = 0; i < NAME(n_vecs); i++)
        out[i] = local[i];
}

INLINE void NAME(add_group)(
    float *sums, NAME(group) * group, const float *x, int g, int n, int lanes)
{
    NAME(decode)(group, g, n);
    for (int r = 0; r < QMI_PVQ_TILE; r++)
        if (lanes == 1)
            sums[r] = NAME(add_one)(sums[r], group->a[r], group->b[r], x, n);
        else
            NAME(add_lanes)
    (sums + r * lanes, group->a[r], group->b[r], x, n);
}

INLINE void NAME(tail)(float *sums, NAME(group) * group, const uint8_t *codes,
    int n_blocks, const float *x, int n, int lanes)
{
    const int n_groups = (n_blocks + 3) / 4;
    const int n_whole = n == 16 ? n_blocks / 4 : n_groups;
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    const uint8_t *rest = codes + (size_t)n_whole * group_bytes;
    const int n_rest = n == 16 ? n_blocks % 4 : 0;
    NAME(load_columns)
    (group->signs, rest + QMI_PVQ_TILE * n_rest, (n_blocks + 7) / 8);
    for (int g = 0; g < n_groups; g++) {
        if (n == 8)
            NAME(load_six_bits)(group->positions, codes);
        else if (g < n_whole)
            NAME(load_words)(group->positions, codes);
        else
            NAME(load_columns)(group->positions, rest, n_rest);
        NAME(add_group)(sums, group, x, g, n, lanes);
        codes += group_bytes;
        x += 4 * 2 * n * lanes;
    }
}

INLINE void NAME(rows_of)(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *x, int n, int lanes)
{
    NAME(group) group;
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    memset(sums, 0, (size_t)(QMI_PVQ_TILE * lanes) * sizeof *sums);
    for (int64_t c = 0; c < s->n_chunks; c++) {
        NAME(load_words)
        (group.signs, codes + QCPU_PVQ_GROUPS_PER_CHUNK * group_bytes);
        for (int g = 0; g < QCPU_PVQ_GROUPS_PER_CHUNK; g++) {
            if (n == 8)
                NAME(load_six_bits)(group.positions, codes);
            else
                NAME(load_words)(group.positions, codes);
            NAME(add_group)(sums, &group, x, g, n, lanes);
            codes += group_bytes;
            x += 4 * 2 * n * lanes;
        }
        codes += QMI_PVQ_TILE * sizeof(uint32_t);
    }
    if (s->tail != 0)
        NAME(tail)(sums, &group, codes, s->tail, x, n, lanes);
}

ISA static void NAME(rows_tile)(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int lanes)
{
    if (s->n == 16 && lanes == 1)
        NAME(rows_of)(sums, codes, s, panel, 16, 1);
    else if (s->n == 16)
        NAME(rows_of)(sums, codes, s, panel, 16, QCPU_PVQ_LANES);
    else if (lanes == 1)
        NAME(rows_of)(sums, codes, s, panel, 8, 1);
    else
        NAME(rows_of)(sums, codes, s, panel, 8, QCPU_PVQ_LANES);
}

#undef INLINE
