/* SPDX-License-Identifier: Apache-2.0
 * The pvq and pvq8 kernels for AVX-512, compiled twice by pvq_avx512.c: ISA is
 * the target attribute, NAME(x) adds the suffix, HAVE_VBMI says whether byte
 * permutes and multishifts may be used.  No include guard on purpose.
 *
 * 16 rows in the 16 lanes.  A pulse is one table look-up with its sign in the
 * index: the table is (x, -x) of the block, 32 entries for pvq (vpermi2ps),
 * 16 for pvq8 (vpermps); the index is the position with the sign on top.  Both
 * instructions ignore the bits above, so the indices of four blocks live in
 * the four bytes of a lane and are reached by shifts (docs/kernels/cpu.md). */

#define INLINE ISA static inline __attribute__((always_inline))

/* 16 bytes as the low bytes of the lanes. */
INLINE __m512i NAME(bytes)(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}

/* pvq8: a group's three planes of 32 bytes -> lane r, byte i = six bits of
 * block i, two bits of anything above. */
INLINE __m512i NAME(positions_8)(const uint8_t *group, int half)
{
#if HAVE_VBMI
    const __m512i lane =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i lane_bytes =
        _mm512_or_si512(lane, _mm512_or_si512(_mm512_slli_epi32(lane, 8),
                                  _mm512_slli_epi32(lane, 16)));
    const __m512i order = _mm512_add_epi32(
        lane_bytes, _mm512_set1_epi32(0x00002000 + 0x00101010 * half));
    const __m512i high =
        _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(group + 64)));
    __m512i bits = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(group));
    bits = _mm512_mask_permutexvar_epi8(bits, 0x4444444444444444u, order, high);
    return _mm512_multishift_epi64_epi8(
        _mm512_set1_epi64(0x322c2620120c0600), bits);
#else
    const uint8_t *p = group + 16 * half;
    const __m512i mid = _mm512_slli_epi32(NAME(bytes)(p + 32), 8);
    const __m512i high = _mm512_slli_epi32(NAME(bytes)(p + 64), 16);
    const __m512i bits =
        _mm512_or_si512(NAME(bytes)(p), _mm512_or_si512(mid, high));
    const __m512i b0 = _mm512_and_si512(bits, _mm512_set1_epi32(0x3f));
    const __m512i b1 =
        _mm512_and_si512(_mm512_slli_epi32(bits, 2), _mm512_set1_epi32(0x3f00));
    const __m512i b2 = _mm512_and_si512(
        _mm512_slli_epi32(bits, 4), _mm512_set1_epi32(0x3f0000));
    const __m512i b3 = _mm512_slli_epi32(_mm512_srli_epi32(bits, 18), 24);
    return _mm512_or_si512(_mm512_or_si512(b0, b1), _mm512_or_si512(b2, b3));
#endif
}

/* Lane r, byte i: bit log2(n) = bit 4 * g + i of lane r of the signs; other
 * bits anything. */
INLINE __m512i NAME(sign_bits)(__m512i signs, int g, int n)
{
#if HAVE_VBMI
    const int64_t control = n == 16 ? 0x1f1e1d1c3f3e3d3c : 0x201f1e1d003f3e3d;
    const __m512i shifts = _mm512_add_epi8(
        _mm512_set1_epi64(control), _mm512_set1_epi8((char)(4 * g)));
    return _mm512_multishift_epi64_epi8(shifts, signs);
#else
    const __m512i which =
        _mm512_broadcast_i32x4(_mm_add_epi8(_mm_set1_epi8((char)(g / 2)),
            _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)));
    const __m512i bit =
        _mm512_set1_epi32(g % 2 == 0 ? 0x08040201 : (int)0x80402010);
    const __mmask64 set =
        _mm512_test_epi8_mask(_mm512_shuffle_epi8(signs, which), bit);
    return _mm512_maskz_mov_epi8(set, _mm512_set1_epi8((char)n));
#endif
}

/* Indices of the two pulses of 4 blocks of 16 rows. */
INLINE void NAME(decode)(
    __m512i *a, __m512i *b, __m512i positions, __m512i sign, int n)
{
    const __m512i low = _mm512_set1_epi8((char)(n - 1));
    const __m512i top = _mm512_set1_epi8((char)n);
    const __m512i at_a = _mm512_and_si512(positions, low);
    const __m512i at_b =
        _mm512_and_si512(_mm512_srli_epi32(positions, n == 16 ? 4 : 3), low);
    /* Negative, so with the top bit set, exactly when a > b. */
    const __m512i order = _mm512_sub_epi8(at_b, at_a);
    /* (order ^ sign) & top, then the position. */
    const __m512i sign_b = _mm512_ternarylogic_epi32(order, sign, top, 0x28);
    *b = _mm512_or_si512(at_b, sign_b);
    /* low ? positions : sign */
    *a = _mm512_ternarylogic_epi32(positions, sign, low, 0xe4);
}

/* Sum of the two pulses of a block in 16 rows. */
INLINE __m512 NAME(pulses)(
    __m512 x, __m512 minus_x, __m512i a, __m512i b, int n)
{
    if (n == 16)
        return _mm512_add_ps(_mm512_permutex2var_ps(x, a, minus_x),
            _mm512_permutex2var_ps(x, b, minus_x));
    return _mm512_add_ps(
        _mm512_permutexvar_ps(a, x), _mm512_permutexvar_ps(b, x));
}

/* The table of block i of a group: x and -x, or both in x for pvq8. */
INLINE void NAME(load_x)(
    __m512 *x, __m512 *minus_x, const float *group, int i, int n)
{
    const __m512 minus = _mm512_set1_ps(-0.0f);
    if (n == 16) {
        *x = _mm512_loadu_ps(group + 16 * i);
        *minus_x = _mm512_xor_ps(*x, minus);
        return;
    }
    const __m512 twice = _mm512_broadcast_f32x8(_mm256_loadu_ps(group + 8 * i));
    *x = _mm512_mask_xor_ps(twice, 0xff00, twice, minus);
    *minus_x = *x;
}

/* ---- one token: sums stay in registers ---- */

typedef struct {
    __m512 sums[2]; /* rows 0 .. 15 and 16 .. 31 */
} NAME(rows);

INLINE void NAME(add_group)(NAME(rows) * rows, const __m512i positions[2],
    const __m512i signs[2], const float *group, int g, int n)
{
    __m512 x[4], minus_x[4];
    QCPU_UNROLL
    for (int i = 0; i < 4; i++)
        NAME(load_x)(&x[i], &minus_x[i], group, i, n);
    QCPU_UNROLL
    for (int half = 0; half < 2; half++) {
        __m512i a, b;
        NAME(decode)
        (&a, &b, positions[half], NAME(sign_bits)(signs[half], g, n), n);
        __m512 sum = NAME(pulses)(x[0], minus_x[0], a, b, n);
        sum = _mm512_add_ps(
            sum, NAME(pulses)(x[1], minus_x[1], _mm512_srli_epi32(a, 8),
                     _mm512_srli_epi32(b, 8), n));
        __m512 sum2 = NAME(pulses)(x[2], minus_x[2], _mm512_srli_epi32(a, 16),
            _mm512_srli_epi32(b, 16), n);
        sum2 = _mm512_add_ps(
            sum2, NAME(pulses)(x[3], minus_x[3], _mm512_srli_epi32(a, 24),
                      _mm512_srli_epi32(b, 24), n));
        rows->sums[half] =
            _mm512_add_ps(rows->sums[half], _mm512_add_ps(sum, sum2));
    }
}

/* ---- several tokens: indices decoded once, sums in memory ---- */

INLINE void NAME(add_group_tokens)(float *sums, const __m512i positions[2],
    const __m512i signs[2], const float *group, int64_t n_tokens, int g, int n)
{
    __m512i a[2][4], b[2][4];
    QCPU_UNROLL
    for (int half = 0; half < 2; half++) {
        NAME(decode)
        (&a[half][0], &b[half][0], positions[half],
            NAME(sign_bits)(signs[half], g, n), n);
        QCPU_UNROLL
        for (int i = 1; i < 4; i++) {
            a[half][i] = _mm512_srli_epi32(a[half][0], 8 * (unsigned)i);
            b[half][i] = _mm512_srli_epi32(b[half][0], 8 * (unsigned)i);
        }
    }
    for (int64_t t = 0; t < n_tokens; t++) {
        float *at = sums + t * QMI_PVQ_TILE;
        __m512 x, minus_x, first[2], second[2];
        NAME(load_x)(&x, &minus_x, group, 0, n);
        QCPU_UNROLL
        for (int half = 0; half < 2; half++)
            first[half] = NAME(pulses)(x, minus_x, a[half][0], b[half][0], n);
        NAME(load_x)(&x, &minus_x, group, 1, n);
        QCPU_UNROLL
        for (int half = 0; half < 2; half++)
            first[half] = _mm512_add_ps(first[half],
                NAME(pulses)(x, minus_x, a[half][1], b[half][1], n));
        NAME(load_x)(&x, &minus_x, group, 2, n);
        QCPU_UNROLL
        for (int half = 0; half < 2; half++)
            second[half] = NAME(pulses)(x, minus_x, a[half][2], b[half][2], n);
        NAME(load_x)(&x, &minus_x, group, 3, n);
        QCPU_UNROLL
        for (int half = 0; half < 2; half++) {
            second[half] = _mm512_add_ps(second[half],
                NAME(pulses)(x, minus_x, a[half][3], b[half][3], n));
            const __m512 sum = _mm512_add_ps(first[half], second[half]);
            _mm512_storeu_ps(at + 16 * half,
                _mm512_add_ps(_mm512_loadu_ps(at + 16 * half), sum));
        }
        group += 4 * n;
    }
}

/* ---- a tile ---- */

/* The last group of a tail may have fewer blocks: byte columns. */
INLINE __m512i NAME(column_bytes)(
    const uint8_t *columns, int n_columns, int half)
{
    __m512i word = _mm512_setzero_si512();
    for (int i = 0; i < n_columns; i++)
        word = _mm512_or_si512(
            word, _mm512_sllv_epi32(NAME(bytes)(columns + 32 * i + 16 * half),
                      _mm512_set1_epi32(8 * i)));
    return word;
}

INLINE void NAME(load_positions)(
    __m512i positions[2], const uint8_t *group, int n)
{
    QCPU_UNROLL
    for (int half = 0; half < 2; half++)
        positions[half] = n == 16 ? _mm512_loadu_si512(group + 64 * half)
                                  : NAME(positions_8)(group, half);
}

INLINE void NAME(step)(NAME(rows) * rows, float *sums,
    const __m512i positions[2], const __m512i signs[2], const float *x,
    int64_t n_tokens, int g, int n, bool one)
{
    if (one)
        NAME(add_group)(rows, positions, signs, x, g, n);
    else
        NAME(add_group_tokens)(sums, positions, signs, x, n_tokens, g, n);
}

INLINE void NAME(tail)(NAME(rows) * rows, float *sums, const uint8_t *codes,
    int n_blocks, const float *x, int64_t n_tokens, int n, bool one)
{
    const int n_whole = n == 16 ? n_blocks / 4 : (n_blocks + 3) / 4;
    const int n_rest = n == 16 ? n_blocks % 4 : 0;
    const int n_groups = (n_blocks + 3) / 4;
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    const uint8_t *rest = codes + (size_t)n_whole * group_bytes;
    const uint8_t *sign_columns = rest + 32 * n_rest;
    __m512i signs[2], positions[2];
    for (int half = 0; half < 2; half++)
        signs[half] =
            NAME(column_bytes)(sign_columns, (n_blocks + 7) / 8, half);
    for (int g = 0; g < n_groups; g++) {
        if (g < n_whole)
            NAME(load_positions)(positions, codes, n);
        else
            for (int half = 0; half < 2; half++)
                positions[half] = NAME(column_bytes)(rest, n_rest, half);
        NAME(step)(rows, sums, positions, signs, x, n_tokens, g, n, one);
        codes += group_bytes;
        x += n_tokens * 4 * n;
    }
}

INLINE void NAME(tile)(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *x, int64_t n_tokens, int n, bool one)
{
    const size_t group_bytes = qcpu_pvq_group_bytes(n);
    NAME(rows) rows = {{_mm512_setzero_ps(), _mm512_setzero_ps()}};
    if (!one)
        memset(sums, 0, (size_t)n_tokens * QMI_PVQ_TILE * sizeof *sums);
    for (int64_t c = 0; c < s->n_chunks; c++) {
        const uint8_t *sign_words =
            codes + QCPU_PVQ_GROUPS_PER_CHUNK * group_bytes;
        const __m512i signs[2] = {_mm512_loadu_si512(sign_words),
            _mm512_loadu_si512(sign_words + 64)};
        for (int g = 0; g < QCPU_PVQ_GROUPS_PER_CHUNK; g++) {
            __m512i positions[2];
            NAME(load_positions)(positions, codes, n);
            /* The hardware's stream ends at every page; this one does not. */
            qcpu_prefetch(codes, PREFETCH_BYTES);
            qcpu_prefetch(codes, PREFETCH_BYTES + 64);
            NAME(step)(&rows, sums, positions, signs, x, n_tokens, g, n, one);
            codes += group_bytes;
            x += n_tokens * 4 * n;
        }
        codes += 128;
    }
    if (s->tail != 0)
        NAME(tail)(&rows, sums, codes, s->tail, x, n_tokens, n, one);
    for (int half = 0; one && half < 2; half++)
        _mm512_storeu_ps(sums + 16 * half, rows.sums[half]);
}

ISA static void NAME(any_tile)(float *sums, const uint8_t *codes,
    const qmi_pvq_shape *s, const float *panel, int64_t n_tokens)
{
    if (s->n == 16 && n_tokens == 1)
        NAME(tile)(sums, codes, s, panel, 1, 16, true);
    else if (s->n == 16)
        NAME(tile)(sums, codes, s, panel, n_tokens, 16, false);
    else if (n_tokens == 1)
        NAME(tile)(sums, codes, s, panel, 1, 8, true);
    else
        NAME(tile)(sums, codes, s, panel, n_tokens, 8, false);
}

static void NAME(run)(float *y, const qcpu_tile *tile, void *scratch)
{
    qcpu_pvq_run(y, tile, scratch, NAME(any_tile));
}

#undef INLINE
