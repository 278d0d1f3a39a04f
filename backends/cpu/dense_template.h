/* SPDX-License-Identifier: Apache-2.0
 * Products with bf16, f32 and int8 matrices without widening them in memory, in
 * the compiler's vector types, compiled for each instruction set.  Set by the
 * including file: ISA (target attribute or nothing), NAME(x), LANES (floats in
 * a register), CHAINS and WIDE_CHAINS (of multiply-adds of a row for one token,
 * two registers each, CHAINS <= WIDE_ROWS * WIDE_CHAINS), ROWS (rows at once
 * for several tokens), FMA(a, b, c) = a * b + c, SUM(v) = sum of the lanes,
 * WIDEN(p) = LANES signed bytes at p as floats.  No include guard on purpose.
 *
 * The format of a matrix is told by the size of its elements, `size`, constant
 * after inlining.  Scales of int8 rows are left to the end.
 *
 * bf16: a register of 2 * LANES elements is split by a shift (even columns)
 * and a mask (odd ones); x is packed in that order, even columns first. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES)));
typedef uint32_t NAME(bits) __attribute__((vector_size(4 * LANES)));
typedef NAME(bits) NAME(loose)
    __attribute__((aligned(1), may_alias)); /* at any address */

#define INLINE ISA static inline __attribute__((always_inline))
#define STEP (2 * LANES) /* columns per round */

/* Columns [0, STEP) of a row as two registers in the order of packed x. */
INLINE void NAME(load)(
    NAME(vec) * first, NAME(vec) * second, const uint8_t *row, size_t size)
{
    if (size == sizeof(int8_t)) {
        *first = WIDEN(row);
        *second = WIDEN(row + LANES);
        return;
    }
    if (size == sizeof(uint16_t)) {
        const NAME(bits) both = *(const NAME(loose) *)(const void *)row;
        *first = (NAME(vec))(both << 16);
        *second = (NAME(vec))(both & 0xffff0000u);
        return;
    }
    const NAME(loose) *words = (const void *)row;
    *first = (NAME(vec))words[0];
    *second = (NAME(vec))words[1];
}

/* sums[0] and sums[1] += STEP columns of a row times x. */
INLINE void NAME(step)(
    NAME(vec) * sums, const uint8_t *row, const float *x, size_t size)
{
    const NAME(vec) *at = (const void *)x;
    NAME(vec) first, second;
    NAME(load)(&first, &second, row, size);
    sums[0] = FMA(first, at[0], sums[0]);
    sums[1] = FMA(second, at[1], sums[1]);
}

/* ---- one token ---- */

/* y of n_rows rows that lie row_bytes apart: they share x, and each has
 * n_chains chains of multiply-adds, which keep the adders busy.  Constant
 * n_rows, n_chains and distance (of the prefetch) after inlining. */
INLINE void NAME(dots)(float *y, const uint8_t *row, size_t row_bytes,
    const float *x, int64_t n_cols, int n_rows, int n_chains, size_t distance,
    size_t size)
{
    const size_t bytes = STEP * size;
    const int64_t rest = n_cols % STEP;
    const uint8_t *const end = row + (size_t)(n_cols - rest) * size;
    /* Past the end of these rows come the next ones. */
    const size_t jump = (size_t)(n_rows - 1) * row_bytes;
    NAME(vec) sums[2 * WIDE_ROWS * WIDE_CHAINS] = {{0}}; /* the most */
    while ((size_t)(end - row) >= (size_t)n_chains * bytes) {
        const bool inside = (size_t)(end - row) > distance;
        const size_t ahead = distance + (inside ? 0 : jump);
        QCPU_UNROLL
        for (int i = 0; i < n_chains; i++) {
            QCPU_UNROLL
            for (int r = 0; r < n_rows; r++) {
                const uint8_t *at =
                    row + (size_t)r * row_bytes + (size_t)i * bytes;
                NAME(step)
                (&sums[2 * (r * n_chains + i)], at, x + i * STEP, size);
                if ((size_t)i * bytes % 64 == 0)
                    qcpu_prefetch(at, ahead);
            }
        }
        row += (size_t)n_chains * bytes;
        x += n_chains * STEP;
    }
    for (; row < end; row += bytes, x += STEP) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++)
            NAME(step)
        (&sums[2 * r * n_chains], row + (size_t)r * row_bytes, x, size);
    }
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++) {
        NAME(vec) *of_row = &sums[2 * r * n_chains];
        uint8_t padded[4 * STEP] = {0};
        if (rest != 0) {
            memcpy(padded, row + (size_t)r * row_bytes, (size_t)rest * size);
            NAME(step)(of_row, padded, x, size);
        }
        QCPU_UNROLL
        for (int width = n_chains; width >= 1; width /= 2) {
            QCPU_UNROLL
            for (int i = 0; i < width; i++)
                of_row[i] += of_row[i + width];
        }
        y[r] = SUM(of_row[0]);
    }
}

/* One row after another, as memory likes them best; but rows for which x would
 * not stay in the L1 cache share it, and as many streams are read at once. */
INLINE void NAME(one_token)(float *y, const qcpu_tile *tile,
    const uint8_t *matrix, size_t row_bytes, size_t size)
{
    const int64_t n_cols = tile->w->n_cols;
    const float *x = tile->packed;
    int64_t r = 0;
    if (n_cols > WIDE_COLS)
        for (; r + WIDE_ROWS <= tile->n_rows; r += WIDE_ROWS)
            NAME(dots)
    (y + r, matrix + (size_t)r * row_bytes, row_bytes, x, n_cols, WIDE_ROWS,
        WIDE_CHAINS, WIDE_PREFETCH, size);
    for (; r < tile->n_rows; r++)
        NAME(dots)
    (y + r, matrix + (size_t)r * row_bytes, row_bytes, x, n_cols, 1, CHAINS,
        PREFETCH_BYTES, size);
}

/* ---- several tokens ---- */

/* sums[row][token] += rows times tokens over n_steps * STEP columns; x rows
 * are x_stride floats apart.  Constant n_rows and n_tokens after inlining. */
INLINE void NAME(accumulate)(NAME(vec) sums[ROWS][TOKENS],
    const uint8_t *const rows[ROWS], const float *x, int64_t x_stride,
    int64_t n_steps, int n_rows, int n_tokens, size_t size)
{
    const size_t bytes = STEP * size;
    for (int64_t i = 0; i < n_steps; i++) {
        NAME(vec) first[ROWS], second[ROWS];
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *p = rows[r] + (size_t)i * bytes;
            NAME(load)(&first[r], &second[r], p, size);
        }
        QCPU_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const NAME(vec) *at = (const void *)(x + t * x_stride + i * STEP);
            QCPU_UNROLL
            for (int r = 0; r < n_rows; r++) {
                sums[r][t] = FMA(first[r], at[0], sums[r][t]);
                sums[r][t] = FMA(second[r], at[1], sums[r][t]);
            }
        }
    }
}

/* y[token][row] of a block of rows and tokens over columns [0, n_cols). */
INLINE void NAME(block)(float *y, int64_t y_stride, const uint8_t *matrix,
    size_t row_bytes, const float *x, int64_t x_stride, int64_t n_cols,
    bool add, int n_rows, int n_tokens, size_t size)
{
    const int64_t n_steps = n_cols / STEP, rest = n_cols % STEP;
    uint8_t padded[ROWS][4 * STEP];
    const uint8_t *rows[ROWS];
    NAME(vec) sums[ROWS][TOKENS] = {{{0}}};
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++)
        rows[r] = matrix + (size_t)r * row_bytes;
    NAME(accumulate)
    (sums, rows, x, x_stride, n_steps, n_rows, n_tokens, size);
    if (rest != 0) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            memset(padded[r], 0, sizeof padded[r]);
            memcpy(padded[r], rows[r] + (size_t)(n_steps * STEP) * size,
                (size_t)rest * size);
            rows[r] = padded[r];
        }
        NAME(accumulate)
        (sums, rows, x + n_steps * STEP, x_stride, 1, n_rows, n_tokens, size);
    }
    QCPU_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            float *out = y + t * y_stride + r;
            const float sum = SUM(sums[r][t]);
            *out = add ? *out + sum : sum;
        }
    }
}

/* A strip of columns of a tile, for `n_tokens` tokens. */
INLINE void NAME(strip)(float *y, const qcpu_tile *tile, const uint8_t *matrix,
    size_t row_bytes, const float *x, int64_t x_stride, int64_t n_cols,
    bool add, int n_tokens, size_t size)
{
    int64_t r = 0;
    for (; r + ROWS <= tile->n_rows; r += ROWS)
        NAME(block)
    (y + r, tile->n_rows, matrix + (size_t)r * row_bytes, row_bytes, x,
        x_stride, n_cols, add, ROWS, n_tokens, size);
    for (; r < tile->n_rows; r++)
        NAME(block)
    (y + r, tile->n_rows, matrix + (size_t)r * row_bytes, row_bytes, x,
        x_stride, n_cols, add, 1, n_tokens, size);
}

INLINE void NAME(tokens)(
    float *y, const qcpu_tile *tile, const uint8_t *matrix, size_t size)
{
    const qmi_weight *w = tile->w;
    const size_t row_bytes = (size_t)w->n_cols * size;
    const int64_t x_stride = dense_stride(w, STEP);
    for (int64_t c = 0; c < w->n_cols; c += STRIP_COLS) {
        const int64_t left = w->n_cols - c;
        const int64_t n = left < STRIP_COLS ? left : STRIP_COLS;
        const uint8_t *from = matrix + (size_t)c * size;
        const float *x = (const float *)tile->packed + c;
        float *to = y;
        int64_t t = tile->n_tokens;
        for (; t >= TOKENS; t -= TOKENS) {
            NAME(strip)
            (to, tile, from, row_bytes, x, x_stride, n, c != 0, TOKENS, size);
            to += TOKENS * tile->n_rows;
            x += TOKENS * x_stride;
        }
        if (t == 3)
            NAME(strip)
        (to, tile, from, row_bytes, x, x_stride, n, c != 0, 3, size);
        else if (t == 2) NAME(strip)(
            to, tile, from, row_bytes, x, x_stride, n, c != 0, 2, size);
        else if (t == 1) NAME(strip)(
            to, tile, from, row_bytes, x, x_stride, n, c != 0, 1, size);
    }
}

INLINE void NAME(tile)(float *y, const qcpu_tile *tile, size_t size)
{
    const int64_t n_cols = tile->w->n_cols;
    const size_t row_bytes = (size_t)n_cols * size;
    const uint8_t *matrix = elements(tile->w, tile->mat);
    matrix += (size_t)tile->row * row_bytes;
    if (tile->n_tokens != 1)
        NAME(tokens)(y, tile, matrix, size);
    else
        NAME(one_token)(y, tile, matrix, row_bytes, size);
}

ISA static void NAME(run)(float *y, const qcpu_tile *tile, void *scratch)
{
    (void)scratch;
    switch (element_bytes(tile->w)) {
    case sizeof(int8_t):
        NAME(tile)(y, tile, sizeof(int8_t));
        scale_rows(y, tile);
        break;
    case sizeof(uint16_t):
        NAME(tile)(y, tile, sizeof(uint16_t));
        break;
    default:
        NAME(tile)(y, tile, sizeof(float));
    }
}

static size_t NAME(packed_bytes)(const qmi_weight *w, int64_t n_tokens)
{
    return (size_t)(dense_stride(w, STEP) * n_tokens) * sizeof(float);
}

static void NAME(pack)(void *dst, const qmi_weight *w, int64_t mat,
    const float *x, int64_t n_tokens)
{
    (void)mat;
    dense_pack(dst, w, x, n_tokens, STEP);
}

#undef INLINE
#undef STEP
