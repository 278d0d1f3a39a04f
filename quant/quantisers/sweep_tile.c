/* SPDX-License-Identifier: Apache-2.0
 * In: rows of a matrix as they lie.  Out: tiles [column][row] and back, and the
 * update of columns by the errors of earlier ones.  Every variant adds in the
 * same order, column by column, so the bits do not depend on the processor or on
 * QMOE_CPU. */
#include "sweep_tile.h"

#include <string.h>

#include "cpu_features.h"

enum { ROWS = QMI_SWEEP_ROWS, BLOCK = QMI_SWEEP_BLOCK, STEP = QMI_SWEEP_STEP };

/* ---- transposition ----
 * Interleaving the first half of n vectors of n elements with the second half,
 * log2(n) times over, transposes the n x n square. */

typedef float floats4 __attribute__((vector_size(16)));
typedef int32_t index4 __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));

static inline floats4 load_floats(const float *p)
{
    floats4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store_floats(float *p, floats4 v)
{
    memcpy(p, &v, sizeof v);
}

#if defined(__clang__)
#define FIRST_HALVES(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define SECOND_HALVES(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
#define FIRST_HALVES(a, b) __builtin_shuffle(a, b, (index4){0, 4, 1, 5})
#define SECOND_HALVES(a, b) __builtin_shuffle(a, b, (index4){2, 6, 3, 7})
#endif

/* dst[c * to + r] = src[r * from + c] for r, c < 4. */
static inline void transpose4(
    float *dst, int64_t to, const float *src, int64_t from)
{
    const floats4 a = load_floats(src), b = load_floats(src + from);
    const floats4 c = load_floats(src + 2 * from);
    const floats4 d = load_floats(src + 3 * from);
    const floats4 ac0 = FIRST_HALVES(a, c), ac1 = SECOND_HALVES(a, c);
    const floats4 bd0 = FIRST_HALVES(b, d), bd1 = SECOND_HALVES(b, d);
    store_floats(dst, FIRST_HALVES(ac0, bd0));
    store_floats(dst + to, SECOND_HALVES(ac0, bd0));
    store_floats(dst + 2 * to, FIRST_HALVES(ac1, bd1));
    store_floats(dst + 3 * to, SECOND_HALVES(ac1, bd1));
}

/* dst[c * to + r] = src[r * from + c] for r < n_rows, c < n_cols. */
static void transpose(float *dst, int64_t to, const float *src, int64_t from,
    int n_rows, int n_cols)
{
    /* Squares of four, then what is left at the right and the lower edge. */
    const int rows = n_rows / 4 * 4, cols = n_cols / 4 * 4;
    for (int r = 0; r < rows; r += 4)
        for (int c = 0; c < cols; c += 4)
            transpose4(dst + c * to + r, to, src + r * from + c, from);
    for (int r = 0; r < n_rows; r++)
        for (int c = r < rows ? cols : 0; c < n_cols; c++)
            dst[c * to + r] = src[r * from + c];
}

void qmi_tile_load(
    qmi_tile dst, const float *src, int64_t stride, int n_rows, int n_cols)
{
    transpose(dst[0], ROWS, src, stride, n_rows, n_cols);
    /* The choice reads all rows of a tile. */
    for (int c = 0; n_rows < ROWS && c < n_cols; c++)
        memset(&dst[c][n_rows], 0, (size_t)(ROWS - n_rows) * sizeof dst[c][0]);
}

void qmi_tile_store(
    float *dst, int64_t stride, const qmi_tile src, int n_rows, int n_cols)
{
    transpose(dst, stride, src[0], ROWS, n_cols, n_rows);
}

#if defined(__clang__)
#define FIRST_BYTES(a, b)                                                      \
    __builtin_shufflevector(                                                   \
        a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define SECOND_BYTES(a, b)                                                     \
    __builtin_shufflevector(                                                   \
        a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define FIRST_BYTES(a, b)                                                      \
    __builtin_shuffle(a, b,                                                    \
        (bytes16){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23})
#define SECOND_BYTES(a, b)                                                     \
    __builtin_shuffle(a, b,                                                    \
        (bytes16){                                                             \
            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31})
#endif

/* dst[r * stride + c] = src[c][r] for r, c < 16. */
static void transpose16(
    uint8_t *dst, int64_t stride, const uint8_t (*src)[ROWS])
{
    bytes16 a[16], b[16];
    for (int c = 0; c < 16; c++)
        memcpy(&a[c], src[c], sizeof a[c]);
    /* Four rounds: log2(16). */
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 8; i++) {
            b[2 * i] = FIRST_BYTES(a[i], a[i + 8]);
            b[2 * i + 1] = SECOND_BYTES(a[i], a[i + 8]);
        }
        memcpy(a, b, sizeof a);
    }
    for (int r = 0; r < 16; r++)
        memcpy(dst + r * stride, &a[r], sizeof a[r]);
}

void qmi_tile_store_codes(uint8_t *dst, int64_t stride, const qmi_code_tile src,
    int n_rows, int n_cols)
{
    const int rows = n_rows / 16 * 16, cols = n_cols / 16 * 16;
    for (int r = 0; r < rows; r += 16)
        for (int c = 0; c < cols; c += 16)
            transpose16(dst + r * stride + c, stride,
                (const uint8_t(*)[ROWS]) & src[c][r]);
    /* The edges, element by element. */
    for (int r = 0; r < n_rows; r++)
        for (int c = r < rows ? cols : 0; c < n_cols; c++)
            dst[r * stride + c] = src[c][r];
}

/* ---- feedback inside a block ---- */

/* Half a tile's rows: with STEP sums of them and one operand this fills the
 * registers of AVX2 and hides the latency of an addition in AVX-512. */
enum { LANES = 16 };
typedef float lanes
    __attribute__((vector_size(LANES * sizeof(float)), may_alias));

static inline __attribute__((always_inline)) void update_body(
    float (*c)[ROWS], const float (*d)[ROWS], const float *f, int n)
{
    for (int half = 0; half < ROWS; half += LANES) {
        lanes sum[STEP];
        for (int i = 0; i < STEP; i++)
            /* STEP columns are updated together: each error is loaded once for
             * all of them. */
            sum[i] = *(const lanes *)&c[i][half];
        for (int j = 0; j < n; j++) {
            const lanes error = *(const lanes *)&d[j][half];
            /* Multiply and add stay apart (contraction is off), with AVX-512 as
             * without. */
            for (int i = 0; i < STEP; i++)
                sum[i] += error * f[j * BLOCK + i];
        }
        for (int i = 0; i < STEP; i++)
            *(lanes *)&c[i][half] = sum[i];
    }
}

static void update_plain(
    float (*c)[ROWS], const float (*d)[ROWS], const float *f, int n)
{
    update_body(c, d, f, n);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void update_avx2(
    float (*c)[ROWS], const float (*d)[ROWS], const float *f, int n)
{
    update_body(c, d, f, n);
}

__attribute__((target("avx512f"))) static void update_avx512(
    float (*c)[ROWS], const float (*d)[ROWS], const float *f, int n)
{
    update_body(c, d, f, n);
}
#endif

/* Asked once per sweep, not per tile. */
qmi_tile_update_fn qmi_tile_update(void)
{
#if defined(__x86_64__)
    if ((qmi_cpu_features() & QMI_CPU_AVX512) != 0)
        return update_avx512;
    if ((qmi_cpu_features() & QMI_CPU_AVX2) != 0)
        return update_avx2;
#endif
    return update_plain;
}
