/* SPDX-License-Identifier: Apache-2.0
 * Products with bf16 and f32 matrices without widening them in memory, in the
 * compiler's vector types, compiled for each instruction set.  Set by the
 * including file: ISA (target attribute or nothing), NAME(x), LANES (floats in
 * a register), ROWS (rows at once for several tokens), FMA(a, b, c) = a * b +
 * c, SUM(v) = sum of the lanes.  No include guard on
 * purpose.
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
    NAME(vec) *first, NAME(vec) *second, const uint8_t *row, bool is_bf16)
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

/* sums[row][token] += rows times tokens over n_steps * STEP columns; x rows
 * are x_stride floats apart.  Constant n_rows and n_tokens after inlining. */
INLINE void NAME(accumulate)(NAME(vec) sums[ROWS_MOST][TOKENS_MOST],
    const uint8_t *const rows[ROWS_MOST], const float *x, int64_t x_stride,
    int64_t n_steps, int n_rows, int n_tokens, bool is_bf16)
{
    const size_t bytes = is_bf16 ? 2 * STEP : 4 * STEP;
    for (int64_t i = 0; i < n_steps; i++) {
        NAME(vec) first[ROWS_MOST], second[ROWS_MOST];
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *p = rows[r] + (size_t)i * bytes;
            NAME(load)(&first[r], &second[r], p, is_bf16);
            if (n_tokens == 1)
                qcpu_prefetch(p, PREFETCH_BYTES);
        }
        QCPU_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const NAME(vec) *at =
                (const void *)(x + t * x_stride + i * STEP);
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
    uint8_t padded[ROWS_MOST][4 * STEP];
    const uint8_t *rows[ROWS_MOST];
    NAME(vec) sums[ROWS_MOST][TOKENS_MOST] = {{{0}}};
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
    for (int t = 0; t < n_tokens; t++)
        QCPU_UNROLL
        for (int r = 0; r < n_rows; r++) {
            float *out = y + t * y_stride + r;
            const float sum = SUM(sums[r][t]);
            *out = add ? *out + sum : sum;
        }
}

/* A strip of columns of a tile, for `n_tokens` tokens. */
INLINE void NAME(strip)(float *y, const qcpu_tile *tile, const uint8_t *matrix,
    size_t row_bytes, const float *x, int64_t x_stride, int64_t n_cols,
    bool add, int n_tokens, bool is_bf16)
{
    const int n_at_once = n_tokens == 1 ? ROWS_MOST : ROWS;
    int64_t r = 0;
    for (; r + n_at_once <= tile->n_rows; r += n_at_once)
        NAME(block)
        (y + r, tile->n_rows, matrix + (size_t)r * row_bytes, row_bytes, x,
            x_stride, n_cols, add, n_at_once, n_tokens, is_bf16);
    for (; r < tile->n_rows; r++)
        NAME(block)
        (y + r, tile->n_rows, matrix + (size_t)r * row_bytes, row_bytes, x,
            x_stride, n_cols, add, 1, n_tokens, is_bf16);
}

INLINE void NAME(tile)(float *y, const qcpu_tile *tile, bool is_bf16)
{
    const qmi_weight *w = tile->w;
    const size_t size = is_bf16 ? 2 : 4;
    const size_t row_bytes = (size_t)w->n_cols * size;
    const uint8_t *matrix =
        (const uint8_t *)qmi_weight_dense(w, tile->mat) +
        (size_t)tile->row * row_bytes;
    const int64_t x_stride = dense_stride(w, STEP);
    const int64_t width = tile->n_tokens == 1 ? w->n_cols : STRIP_COLS;
    for (int64_t c = 0; c < w->n_cols; c += width) {
        const int64_t left = w->n_cols - c;
        const int64_t n = left < width ? left : width;
        const uint8_t *from = matrix + (size_t)c * size;
        int64_t t = 0;
        for (; t + TOKENS_MOST <= tile->n_tokens; t += TOKENS_MOST)
            NAME(strip)
            (y + t * tile->n_rows, tile, from, row_bytes,
                (const float *)tile->packed + t * x_stride + c, x_stride, n,
                c != 0, TOKENS_MOST, is_bf16);
        for (; t < tile->n_tokens; t++)
            NAME(strip)
            (y + t * tile->n_rows, tile, from, row_bytes,
                (const float *)tile->packed + t * x_stride + c, x_stride, n,
                c != 0, 1, is_bf16);
    }
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
