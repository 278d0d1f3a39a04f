/* SPDX-License-Identifier: Apache-2.0
 * Products with bf16 and f32 matrices without widening them in memory, in the
 * compiler's vector types, compiled for each instruction set.  Set by the
 * including file: ISA (target attribute or nothing), NAME(x), LANES (floats in
 * a register), ROWS (rows at once for several tokens), FMA(a, b, c) = a * b +
 * c, SUM(v) = sum of the lanes.  No include guard on purpose.
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
    NAME(vec) * first, NAME(vec) * second, const uint8_t *row, bool is_bf16)
{
    if (is_bf16) {
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
    NAME(vec) * sums, const uint8_t *row, const float *x, bool is_bf16)
{
    const NAME(vec) *at = (const void *)x;
    NAME(vec) first, second;
    NAME(load)(&first, &second, row, is_bf16);
    sums[0] = FMA(first, at[0], sums[0]);
    sums[1] = FMA(second, at[1], sums[1]);
}

/* ---- one token ---- */

/* Rows come one after another, as memory likes them best; the chains keep the
 * adders busy. */
INLINE float NAME(dot)(
    const uint8_t *row, const float *x, int64_t n_cols, bool is_bf16)
{
    const size_t size = is_bf16 ? 2 : 4, bytes = STEP * size;
    const int64_t rest = n_cols % STEP;
    int64_t n = n_cols / STEP;
    NAME(vec) sums[2 * CHAINS] = {{0}};
    uint8_t padded[4 * STEP] = {0};
    for (; n >= CHAINS; n -= CHAINS) {
        QCPU_UNROLL
        for (int i = 0; i < CHAINS; i++) {
            NAME(step)
            (&sums[2 * i], row + (size_t)i * bytes, x + i * STEP, is_bf16);
            if ((size_t)i * bytes % 64 == 0)
                qcpu_prefetch(row + (size_t)i * bytes, PREFETCH_BYTES);
        }
        row += CHAINS * bytes;
        x += CHAINS * STEP;
    }
    for (; n > 0; n--, row += bytes, x += STEP)
        NAME(step)(sums, row, x, is_bf16);
    if (rest != 0) {
        memcpy(padded, row, (size_t)rest * size);
        NAME(step)(sums, padded, x, is_bf16);
    }
    QCPU_UNROLL
    for (int width = CHAINS; width >= 1; width /= 2) {
        QCPU_UNROLL
        for (int i = 0; i < width; i++)
            sums[i] += sums[i + width];
    }
    return SUM(sums[0]);
}

/* ---- several tokens ---- */

/* sums[row][token] += rows times tokens over n_steps * STEP columns; x rows
 * are x_stride floats apart.  Constant n_rows and n_tokens after inlining. */
INLINE void NAME(accumulate)(NAME(vec) sums[ROWS][TOKENS],
    const uint8_t *const rows[ROWS], const float *x, int64_t x_stride,
    int64_t n_steps, int n_rows, int n_tokens, bool is_bf16)
{
    const size_t bytes = is_bf16 ? 2 * STEP : 4 * STEP;
    for (int64_t i = 0; i < n_steps; i++) {
        NAME(vec) first[ROWS], second[ROWS];
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *p = rows[r] + (size_t)i * bytes;
            NAME(load)(&first[r], &second[r], p, is_bf16);
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
    bool add, int n_rows, int n_tokens, bool is_bf16)
{
    const size_t size = is_bf16 ? 2 : 4;
    const int64_t n_steps = n_cols / STEP, rest = n_cols % STEP;
    uint8_t padded[ROWS][4 * STEP];
    const uint8_t *rows[ROWS];
    NAME(vec) sums[ROWS][TOKENS] = {{{0}}};
    QCPU_UNROLL
    for (int r = 0; r < n_rows; r++)
        rows[r] = matrix + (size_t)r * row_bytes;
    NAME(accumulate)
    (sums, rows, x, x_stride, n_steps, n_rows, n_tokens, is_bf16);
    if (rest != 0) {
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            memset(padded[r], 0, sizeof padded[r]);
            memcpy(padded[r], rows[r] + (size_t)(n_steps * STEP) * size,
                (size_t)rest * size);
            rows[r] = padded[r];
        }
        NAME(accumulate)
        (sums, rows, x + n_steps * STEP, x_stride, 1, n_rows, n_tokens,
            is_bf16);
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
    bool add, int n_tokens, bool is_bf16)
{
    int64_t r = 0;
    for (; r + ROWS <= tile->n_rows; r += ROWS)
        NAME(block)
    (y + r, tile->n_rows, matrix + (size_t)r * row_bytes, row_bytes, x,
        x_stride, n_cols, add, ROWS, n_tokens, is_bf16);
    for (; r < tile->n_rows; r++)
        NAME(block)
    (y + r, tile->n_rows, matrix + (size_t)r * row_bytes, row_bytes, x,
        x_stride, n_cols, add, 1, n_tokens, is_bf16);
}

INLINE void NAME(tokens)(
    float *y, const qcpu_tile *tile, const uint8_t *matrix, bool is_bf16)
{
    const qmi_weight *w = tile->w;
    const size_t size = is_bf16 ? 2 : 4;
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
            (to, tile, from, row_bytes, x, x_stride, n, c != 0, TOKENS,
                is_bf16);
            to += TOKENS * tile->n_rows;
            x += TOKENS * x_stride;
        }
        if (t == 3)
            NAME(strip)
        (to, tile, from, row_bytes, x, x_stride, n, c != 0, 3, is_bf16);
        else if (t == 2) NAME(strip)(
            to, tile, from, row_bytes, x, x_stride, n, c != 0, 2, is_bf16);
        else if (t == 1) NAME(strip)(
            to, tile, from, row_bytes, x, x_stride, n, c != 0, 1, is_bf16);
    }
}

INLINE void NAME(tile)(float *y, const qcpu_tile *tile, bool is_bf16)
{
    const int64_t n_cols = tile->w->n_cols;
    const size_t row_bytes = (size_t)n_cols * (is_bf16 ? 2 : 4);
    const uint8_t *matrix = qmi_weight_dense(tile->w, tile->mat);
    matrix += (size_t)tile->row * row_bytes;
    if (tile->n_tokens != 1) {
        NAME(tokens)(y, tile, matrix, is_bf16);
        return;
    }
    for (int64_t r = 0; r < tile->n_rows; r++)
        y[r] = NAME(dot)(
            matrix + (size_t)r * row_bytes, tile->packed, n_cols, is_bf16);
}

ISA static void NAME(run)(float *y, const qcpu_tile *tile, void *scratch)
{
    (void)scratch;
    if (tile->w->format->dtype == QMI_BF16)
        NAME(tile)(y, tile, true);
    else
        NAME(tile)(y, tile, false);
}

static size_t NAME(packed_bytes)(const qmi_weight *w, int64_t n_tokens)
{
    return (size_t)(dense_stride(w, STEP) * n_tokens) * sizeof(float);
}

static void NAME(pack)(
    void *dst, const qmi_weight *w, const float *x, int64_t n_tokens)
{
    dense_pack(dst, w, x, n_tokens, STEP);
}

#undef INLINE
#undef STEP
