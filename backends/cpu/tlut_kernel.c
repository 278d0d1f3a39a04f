/* SPDX-License-Identifier: Apache-2.0
 * The part of the tlut kernels that does not depend on the instruction set.
 * In: tokens, a tile of a checked matrix.  Out: planes of digits; y, the sums
 * of the planes of a token times their factors and the rows' scales.  Sums are
 * integers, so nothing depends on how a kernel adds them up. */
#include "tlut_kernel.h"

#include "cpu.h"

bool qcpu_tlut_takes(const qmi_weight *w)
{
    return qmi_tlut_rate_of(w->format) != NULL &&
           w->n_cols <= QCPU_TLUT_MAX_COLS;
}

/* Bits of ten weights. */
static int rate_of(const qmi_weight *w)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(w->format);
    return 10 * rate->k / rate->v;
}

bool qcpu_tlut_takes_int8(const qmi_weight *w)
{
    return qcpu_tlut_takes(w) && rate_of(w) < 10;
}

bool qcpu_tlut_takes_int16(const qmi_weight *w)
{
    return qcpu_tlut_takes(w) && rate_of(w) >= 10 && rate_of(w) <= 20;
}

/* About a microsecond of work; of matrices with few rows less, so that two
 * threads finish together. */
int64_t qcpu_tlut_tile_rows(const qmi_weight *w)
{
    return w->n_rows > 1024 ? 2 * QMI_TLUT_TILE : QMI_TLUT_TILE;
}

/* ---- input ---- */

enum { INFINITY_BITS = 0x7f800000 };

static int64_t n_groups_of(const qmi_weight *w)
{
    return (w->n_cols + QMI_TLUT_GROUP - 1) / QMI_TLUT_GROUP;
}

/* Whole vectors of the loops over a row. */
static int64_t row_floats(const qmi_weight *w)
{
    return (w->n_cols + 15) / 16 * 16;
}

static void *take(uint8_t *base, size_t *at, size_t n_bytes)
{
    void *block = base == NULL ? NULL : base + *at;
    *at += qcpu_align(n_bytes);
    return block;
}

/* Of the row that is packed. */
typedef struct row_space {
    float *z;
    int32_t *digits[QCPU_TLUT_DIGITS];
} row_space;

/* base NULL: sizes only. */
static size_t lay_out(qcpu_tlut_input *in, row_space *row, uint8_t *base,
    const qmi_weight *w, int64_t n_tokens)
{
    const int64_t most = n_tokens * QCPU_TLUT_DIGITS;
    const int64_t n_panels = (most + QCPU_TLUT_PANEL - 1) / QCPU_TLUT_PANEL;
    size_t at = 0;
    in->stride = most < QCPU_TLUT_PANEL ? most : QCPU_TLUT_PANEL;
    in->token = take(base, &at, (size_t)most * sizeof *in->token);
    in->factor = take(base, &at, (size_t)most * sizeof *in->factor);
    in->start = take(base, &at, (size_t)most * sizeof *in->start);
    in->digits = take(base, &at,
        (size_t)(n_panels * in->stride * n_groups_of(w)) * sizeof *in->digits);
    row->z = take(base, &at, (size_t)row_floats(w) * sizeof *row->z);
    for (int i = 0; i < QCPU_TLUT_DIGITS; i++)
        row->digits[i] = take(base, &at, (size_t)row_floats(w));
    return at;
}

size_t qcpu_tlut_packed_bytes(const qmi_weight *w, int64_t n_tokens)
{
    qcpu_tlut_input in;
    row_space row;
    return qcpu_align(sizeof in) + lay_out(&in, &row, NULL, w, n_tokens);
}

/* One outlier takes most of the steps of a digit from all others.  squares: of
 * inputs of up to 127. */
static bool has_outliers(float squares, int64_t n)
{
    const float most = 127.0f, ratio = QMI_OUTLIER;
    return most * most * (float)n > ratio * ratio * squares;
}

static int digits_for(qmi_inputs inputs, float squares, int64_t n)
{
    if (inputs == QMI_INPUTS_INT8)
        return has_outliers(squares, n) ? 2 : 1;
    return inputs == QMI_INPUTS_INT16 ? 2 : QCPU_TLUT_DIGITS;
}

/* The planes of one token. */
static void add_planes(qcpu_tlut_input *in, const row_space *row, int n_digits,
    int64_t n_groups, const qcpu_tlut_digits *digits)
{
    const int64_t first = in->n_planes;
    in->n_planes += n_digits;
    if (in->stride == n_digits) {
        digits->interleave(in->digits, (const int32_t *const *)row->digits,
            n_digits, n_groups);
        return;
    }
    for (int d = 0; d < n_digits; d++) {
        const int64_t p = first + d;
        int32_t *out = in->digits + p / QCPU_TLUT_PANEL * in->stride * n_groups;
        for (int64_t g = 0; g < n_groups; g++)
            out[g * in->stride + p % QCPU_TLUT_PANEL] = row->digits[d][g];
    }
}

/* Digits of row->z, the bits of whose largest magnitude are `bits`. */
static void pack_row(qcpu_tlut_input *in, const row_space *row,
    const qmi_weight *w, int64_t token, bool alone, uint32_t bits,
    const qcpu_tlut_digits *digits, qmi_inputs inputs)
{
    const int64_t n = row_floats(w);
    float most = NAN;
    if (bits < INFINITY_BITS)
        memcpy(&most, &bits, sizeof most);
    /* Of so small numbers the reciprocal would overflow. */
    const float lift = most < 0x1p-64f ? 0x1p64f : 1.0f;
    const float factor = most > 0 ? 127.0f / (most * lift) : 0;
    const float squares = digits->fit(row->z, n, lift, factor);
    const int n_digits = digits_for(inputs, squares, w->n_cols);
    float step = most / 127.0f;
    if (alone)
        in->stride = n_digits;
    for (int d = 0; d < n_digits; d++, step /= 254.0f) {
        const int64_t p = in->n_planes + d;
        const int32_t sum = digits->next((int8_t *)row->digits[d], row->z, n);
        in->token[p] = token;
        in->factor[p] = step;
        in->start[p] = -QCPU_TLUT_OFFSET * sum;
    }
    add_planes(in, row, n_digits, n_groups_of(w), digits);
}

void qcpu_tlut_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens, const qcpu_tlut_digits *digits, qmi_inputs inputs)
{
    qcpu_tlut_input *in = dst;
    row_space row;
    *in = (qcpu_tlut_input){0};
    lay_out(in, &row, (uint8_t *)dst + qcpu_align(sizeof *in), w, n_tokens);
    const uint8_t *col_scales = qmi_tlut_col_scales(w, mat);
    for (int64_t t = 0; t < n_tokens; t++) {
        const uint32_t bits =
            digits->scale(row.z, x + t * w->n_cols, col_scales, w->n_cols);
        /* Of what is not finite, y is NaN by the factor alone. */
        const int64_t kept = bits < INFINITY_BITS ? w->n_cols : 0;
        memset(row.z + kept, 0, (size_t)(row_floats(w) - kept) * sizeof *row.z);
        pack_row(in, &row, w, t, n_tokens == 1, bits, digits, inputs);
    }
}

/* ---- blocks ---- */

static void put_in_order(int32_t *sums, int v)
{
    int32_t by_place[QMI_TLUT_TILE];
    memcpy(by_place, sums, sizeof by_place);
    for (int r = 0; r < QMI_TLUT_TILE; r++)
        sums[r] = by_place[qcpu_tlut_place(r / v, r % v, v)];
}

void qcpu_tlut_blocks(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded, qcpu_tlut_decode_fn decode,
    qcpu_tlut_multiply_fn multiply)
{
    const size_t group_bytes = (size_t)qmi_tlut_words(rate) * 8;
    for (int i = 0; i < planes->n * QMI_TLUT_TILE; i++)
        sums[i] = planes->start[i / QMI_TLUT_TILE];
    for (int64_t g = 0; g < n_groups; g += QCPU_TLUT_BLOCK) {
        const int64_t left = n_groups - g;
        const int64_t n = left < QCPU_TLUT_BLOCK ? left : QCPU_TLUT_BLOCK;
        decode(decoded, rate, codes + (size_t)g * group_bytes, n);
        for (int p = 0; p < planes->n; p++)
            multiply(sums + p * QMI_TLUT_TILE, decoded, n,
                planes->digits + g * planes->stride + p, planes->stride);
    }
    for (int p = 0; p < planes->n; p++)
        put_in_order(sums + p * QMI_TLUT_TILE, rate->v);
}

void qcpu_tlut_units_make(qcpu_tlut_units *out, const qmi_tlut_rate *rate)
{
    const int k = rate->k, v = rate->v;
    *out = (qcpu_tlut_units){.n_units = qmi_tlut_steps(rate) / 4};
    for (int i = 0; i < QMI_TLUT_WINDOWS * v; i++)
        out->values[i % v][i / v] =
            (uint8_t)(rate->table[i] + QCPU_TLUT_OFFSET);
    for (int u = 0; u < out->n_units; u++) {
        out->word[u] = 4 * u * k / 16;
        for (int lane = 0; lane < 8; lane++) {
            const int bit = 4 * u * k % 16 + lane / 4 * 2 * k;
            out->bit[u][lane] = (int16_t)(bit % 8);
            for (int i = 0; i < 2; i++) {
                const int byte = bit / 8 + i;
                out->pairs[u][2 * lane + i] =
                    (uint8_t)(8 * (byte / 2) + 2 * (lane % 4) + byte % 2);
            }
        }
    }
}

/* ---- tiles ---- */

/* The decoded weights, and the sums of a panel. */
size_t qcpu_tlut_tile_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)w;
    (void)n_tokens;
    return QCPU_TLUT_DECODED +
           QCPU_TLUT_PANEL * QMI_TLUT_TILE * sizeof(int32_t);
}

static void load_scales(
    float scales[QMI_TLUT_TILE], const uint8_t *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        scales[i] = qmi_bf16_to_f32(qmi_load_u16(src + 2 * i));
}

/* y of n rows of a token, from one plane; the first one begins it. */
static void combine(float *restrict y, const int32_t *restrict sums,
    const float *restrict scales, float factor, int64_t n, bool first)
{
    if (first)
        for (int64_t r = 0; r < n; r++)
            y[r] = scales[r] * (factor * (float)sums[r]);
    else
        for (int64_t r = 0; r < n; r++)
            y[r] += scales[r] * (factor * (float)sums[r]);
}

/* All planes with one tile of codes: n rows of y, rows y_stride apart. */
static void run_codes(float *y, int64_t y_stride, int64_t n,
    const uint8_t *codes, const float *scales, const qcpu_tile *tile,
    uint8_t *scratch, qcpu_tlut_tile_fn fn)
{
    const qcpu_tlut_input *in = tile->packed;
    const int64_t n_groups = n_groups_of(tile->w);
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(tile->w->format);
    int32_t *sums = (int32_t *)(void *)(scratch + QCPU_TLUT_DECODED);
    for (int64_t p = 0; p < in->n_planes; p += QCPU_TLUT_PANEL) {
        const int64_t left = in->n_planes - p;
        const qcpu_tlut_planes planes = {
            .digits = in->digits + p * n_groups,
            .start = in->start + p,
            .stride = in->stride,
            .n = left < QCPU_TLUT_PANEL ? (int)left : QCPU_TLUT_PANEL,
        };
        fn(sums, rate, codes, n_groups, &planes, scratch);
        for (int64_t i = p; i < p + planes.n; i++) {
            const int64_t t = in->token[i];
            const bool first = i == 0 || in->token[i - 1] != t;
            combine(y + t * y_stride, sums + (i - p) * QMI_TLUT_TILE, scales,
                in->factor[i], n, first);
        }
    }
}

void qcpu_tlut_run(
    float *y, const qcpu_tile *tile, void *scratch, qcpu_tlut_tile_fn fn)
{
    const qmi_weight *w = tile->w;
    const qmi_tlut_shape s =
        qmi_tlut_shape_of(qmi_tlut_rate_of(w->format), w->n_rows, w->n_cols);
    const uint8_t *codes = qmi_tlut_codes(w, tile->mat) +
                           (size_t)(tile->row / QMI_TLUT_TILE) * s.tile_bytes;
    const uint8_t *scale_bytes = qmi_tlut_scales(w, tile->mat) + 2 * tile->row;
    float scales[QMI_TLUT_TILE];
    for (int64_t r = 0; r < tile->n_rows; r += QMI_TLUT_TILE) {
        /* Rows of padding in the last tile have no scale and no place in y. */
        const int64_t left = tile->n_rows - r;
        const int64_t n = left < QMI_TLUT_TILE ? left : QMI_TLUT_TILE;
        load_scales(scales, scale_bytes + 2 * r, n);
        run_codes(y + r, tile->n_rows, n, codes, scales, tile, scratch, fn);
        codes += s.tile_bytes;
    }
}
