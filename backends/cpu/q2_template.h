/* SPDX-License-Identifier: Apache-2.0
 * Products with "q2" matrices without widening them in memory, in the
 * compiler's vector types, compiled for each instruction set.  Set by the
 * including file: ISA (target attribute or nothing), NAME(x), LANES (floats in
 * a register), TOKENS (at once), FMA(a, b, c) = a * b + c, SUM(v) = sum of the
 * lanes, PER_INDEX (codes that one index of a look-up holds: 1 or 2), and the
 * look-up itself: NAME(table), NAME(tables_of), NAME(look_up).  No include
 * guard on purpose.
 *
 * A register of codes holds 16 columns in each 32-bit lane.  Shifted by 2 k,
 * the low bits of the lanes are column k of each, and x is packed in that
 * order.  Columns beyond whole registers are taken LANES at a time. */

typedef NAME(bits) NAME(loose)
    __attribute__((aligned(1), may_alias)); /* at any address */

#define INLINE ISA static inline __attribute__((always_inline))
enum { NAME(step) = 16 * LANES }; /* columns of a register */

/* sums[row][token or chain] += codes times x; x rows are x_stride apart.
 * Constant n_rows, n_tokens and n_chains after inlining. */
INLINE void NAME(accumulate)(NAME(vec) sums[ROWS][MAX_SUMS],
    const NAME(table) tables[ROWS], const NAME(bits) codes[ROWS],
    const float *x, int64_t x_stride, int n_rows, int n_tokens, int n_chains)
{
    QCPU_UNROLL
    for (int k = 0; k < 16; k++) {
        NAME(vec) values[ROWS];
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++)
            values[r] = NAME(look_up)(
                &tables[r], codes[r] >> 2 * (k - k % PER_INDEX), k % PER_INDEX);
        QCPU_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const NAME(vec) at = *(
                const NAME(vec) *)(const void *)(x + t * x_stride + k * LANES);
            QCPU_UNROLL
            for (int r = 0; r < n_rows; r++) {
                NAME(vec) *sum = &sums[r][t + k % n_chains];
                *sum = FMA(values[r], at, *sum);
            }
        }
    }
}

/* The last columns, fewer than a register of codes: LANES of them lie in
 * LANES / 4 bytes, of which the row may have fewer. */
INLINE void NAME(accumulate_rest)(NAME(vec) sums[ROWS][MAX_SUMS],
    const NAME(table) tables[ROWS], const uint8_t *const rows[ROWS],
    const float *x, int64_t x_stride, int64_t n_cols, int n_rows, int n_tokens)
{
    for (int64_t c = 0; c < n_cols; c += LANES) {
        const int64_t left = (n_cols - c + 3) / 4;
        const size_t n_bytes = left < LANES / 4 ? (size_t)left : LANES / 4;
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            uint8_t bytes[4] = {0};
            memcpy(bytes, rows[r] + c / 4, n_bytes);
            const NAME(bits) codes = qmi_load_u32(bytes) >> NAME(lane_shifts);
            const NAME(vec) values = NAME(look_up)(&tables[r], codes, 0);
            QCPU_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                const NAME(vec) *at = (const void *)(x + t * x_stride + c);
                sums[r][t] = FMA(values, *at, sums[r][t]);
            }
        }
    }
}

/* y[token][row] of a block of rows and tokens over columns [0, n_cols), which
 * begin at a whole register of codes. */
INLINE void NAME(block)(float *y, int64_t y_stride, const q2_rows *m,
    const float *x, int64_t x_stride, int64_t n_cols, bool add, int n_rows,
    int n_tokens)
{
    const int n_chains = n_tokens == 1 ? MAX_SUMS : 1;
    NAME(vec) sums[ROWS][MAX_SUMS] = {{{0}}};
    NAME(table) tables[ROWS];
    const uint8_t *rows[ROWS];
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++) {
        rows[r] = m->codes + (size_t)r * m->row_bytes;
        tables[r] = NAME(tables_of)(m->levels + 2 * QMI_Q2_VALUES * r);
    }
    for (; n_cols >= NAME(step); n_cols -= NAME(step)) {
        NAME(bits) codes[ROWS];
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            codes[r] = *(const NAME(loose) *)(const void *)rows[r];
            qcpu_prefetch(rows[r], PREFETCH_BYTES);
            rows[r] += 4 * LANES;
        }
        NAME(accumulate)
        (sums, tables, codes, x, x_stride, n_rows, n_tokens, n_chains);
        x += NAME(step);
    }
    NAME(accumulate_rest)
    (sums, tables, rows, x, x_stride, n_cols, n_rows, n_tokens);
    QCPU_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            NAME(vec) all = sums[r][t];
            QCPU_UNROLL
            for (int i = 1; i < n_chains; i++)
                all += sums[r][t + i];
            float *out = y + t * y_stride + r;
            *out = add ? *out + SUM(all) : SUM(all);
        }
    }
}

/* A strip of columns of a tile, for `n_tokens` tokens. */
INLINE void NAME(strip)(float *y, int64_t n, q2_rows m, const float *x,
    int64_t x_stride, int64_t n_cols, bool add, int n_tokens)
{
    int64_t r = 0;
    for (; r + ROWS <= n; r += ROWS) {
        NAME(block)(y + r, n, &m, x, x_stride, n_cols, add, ROWS, n_tokens);
        m.codes += ROWS * m.row_bytes;
        m.levels += ROWS * 2 * QMI_Q2_VALUES;
    }
    for (; r < n; r++) {
        NAME(block)(y + r, n, &m, x, x_stride, n_cols, add, 1, n_tokens);
        m.codes += m.row_bytes;
        m.levels += 2 * QMI_Q2_VALUES;
    }
}

/* A strip for all tokens: as many at once as registers hold, the rest by
 * fours, twos and ones. */
INLINE void NAME(tokens)(float *y, const qcpu_tile *tile, q2_rows m,
    const float *x, int64_t x_stride, int64_t n_cols, bool add)
{
    const int64_t n = tile->n_rows;
    int64_t left = tile->n_tokens;
#define SOME_TOKENS(some)                                                      \
    do {                                                                       \
        NAME(strip)(y, n, m, x, x_stride, n_cols, add, some);                  \
        y += (some)*n;                                                         \
        x += (some)*x_stride;                                                  \
        left -= some;                                                          \
    } while (0)
    while (left >= TOKENS)
        SOME_TOKENS(TOKENS);
    if (left >= 4)
        SOME_TOKENS(4);
    if (left >= 2)
        SOME_TOKENS(2);
    if (left >= 1)
        SOME_TOKENS(1);
#undef SOME_TOKENS
}

ISA static void NAME(run)(float *y, const qcpu_tile *tile, void *scratch)
{
    const int64_t n_cols = tile->w->n_cols;
    const int64_t stride = q2_stride(tile->w, LANES);
    /* One token's x is read once; several tokens' would leave the L1 cache. */
    const int64_t width = tile->n_tokens == 1 ? n_cols : STRIP_COLS;
    q2_rows m = rows_of(tile);
    (void)scratch;
    for (int64_t c = 0; c < n_cols; c += width, m.codes += width / 4) {
        const int64_t left = n_cols - c;
        NAME(tokens)
        (y, tile, m, (const float *)tile->packed + c, stride,
            left < width ? left : width, c != 0);
    }
}

static size_t NAME(packed_bytes)(const qmi_weight *w, int64_t n_tokens)
{
    return (size_t)(q2_stride(w, LANES) * n_tokens) * sizeof(float);
}

static void NAME(pack)(void *dst, const qmi_weight *w, int64_t mat,
    const float *x, int64_t n_tokens)
{
    (void)mat;
    q2_pack(dst, w, x, n_tokens, LANES);
}

#undef INLINE
