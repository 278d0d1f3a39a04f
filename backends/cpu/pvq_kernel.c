/* SPDX-License-Identifier: Apache-2.0
 * The part of the pvq kernels that does not depend on the instruction set.  In:
 * a tile of a checked matrix, tokens.  Out: y, the kernels' sums times the
 * scales of the rows. */
#include "pvq_kernel.h"

bool qcpu_pvq_takes(const qmi_weight *w)
{
    return qmi_pvq_width(w->format) != 0;
}

static qmi_pvq_shape shape_of(const qmi_weight *w)
{
    return qmi_pvq_shape_of(qmi_pvq_width(w->format), w->n_rows, w->n_cols);
}

/* About a microsecond of work; of matrices with few rows less, so that two
 * threads finish together. */
int64_t qcpu_pvq_tile_rows(const qmi_weight *w)
{
    return w->n_rows > 1024 ? 2 * QMI_PVQ_TILE : QMI_PVQ_TILE;
}

/* Whole groups: kernels have no tail of columns; the padding is zero. */
static int64_t padded_cols(const qmi_pvq_shape *s)
{
    return qcpu_pvq_n_groups(s) * QCPU_PVQ_GROUP * s->n;
}

size_t qcpu_pvq_packed_bytes(const qmi_weight *w, int64_t n_tokens)
{
    qmi_pvq_shape s = shape_of(w);
    return (size_t)(padded_cols(&s) * n_tokens) * sizeof(float);
}

static int64_t panel_tokens(int64_t n_tokens, int64_t first)
{
    int64_t left = n_tokens - first;
    return left < QCPU_PVQ_TOKENS ? left : QCPU_PVQ_TOKENS;
}

void qcpu_pvq_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens)
{
    const qmi_pvq_shape s = shape_of(w);
    const int64_t n_groups = qcpu_pvq_n_groups(&s), n_cols = w->n_cols;
    const int64_t width = QCPU_PVQ_GROUP * s.n;
    float *out = dst;
    (void)mat;
    /* Panel, group, token: a kernel reads the tokens of a group side by side
     * while it holds the group's codes. */
    for (int64_t first = 0; first < n_tokens; first += QCPU_PVQ_TOKENS) {
        const int64_t end = first + panel_tokens(n_tokens, first);
        for (int64_t g = 0; g < n_groups; g++)
            for (int64_t t = first; t < end; t++, out += width) {
                int64_t n = n_cols - g * width;
                n = n < width ? n : width;
                memcpy(
                    out, x + t * n_cols + g * width, (size_t)n * sizeof *out);
                if (n < width)
                    memset(out + n, 0, (size_t)(width - n) * sizeof *out);
            }
    }
}

size_t qcpu_pvq_tile_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)w;
    return (size_t)panel_tokens(n_tokens, 0) * QMI_PVQ_TILE * sizeof(float);
}

static void load_scales(
    float scales[QMI_PVQ_TILE], const uint8_t *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        scales[i] = qmi_bf16_to_f32(qmi_load_u16(src + 2 * i));
}

void qcpu_pvq_run(
    float *y, const qcpu_tile *tile, void *scratch, qcpu_pvq_tile_fn fn)
{
    const qmi_weight *w = tile->w;
    const qmi_pvq_shape s = shape_of(w);
    const uint8_t *codes = qmi_pvq_codes(w, tile->mat) +
                           (size_t)(tile->row / QMI_PVQ_TILE) * s.tile_bytes;
    const uint8_t *scale_bytes = qmi_pvq_scales(w, tile->mat) + 2 * tile->row;
    float *sums = scratch;
    float scales[QMI_PVQ_TILE];
    for (int64_t r = 0; r < tile->n_rows; r += QMI_PVQ_TILE) {
        /* Rows of padding in the last tile have no scale and no place in y. */
        const int64_t left = tile->n_rows - r;
        const int64_t n = left < QMI_PVQ_TILE ? left : QMI_PVQ_TILE;
        load_scales(scales, scale_bytes + 2 * r, n);
        /* The codes of a tile are small: they stay in the cache for all
         * panels. */
        for (int64_t t = 0; t < tile->n_tokens; t += QCPU_PVQ_TOKENS) {
            const int64_t n_tokens = panel_tokens(tile->n_tokens, t);
            fn(sums, codes, &s,
                (const float *)tile->packed + t * padded_cols(&s), n_tokens);
            for (int64_t i = 0; i < n_tokens; i++)
                for (int64_t j = 0; j < n; j++)
                    y[(t + i) * tile->n_rows + r + j] =
                        scales[j] * sums[i * QMI_PVQ_TILE + j];
        }
        codes += s.tile_bytes;
    }
}

/* ---- row form ---- */

/* Every column twice: as it is and negated, so that a sign is an address. */
static int64_t panel_floats(const qmi_pvq_shape *s, int lanes)
{
    return 2 * padded_cols(s) * lanes;
}

size_t qcpu_pvq_rows_bytes(const qmi_weight *w, int64_t n_tokens, int lanes)
{
    const qmi_pvq_shape s = shape_of(w);
    const int64_t n_panels = (n_tokens + lanes - 1) / lanes;
    return (size_t)(n_panels * panel_floats(&s, lanes)) * sizeof(float);
}

/* Column c of one panel into its row and its negated row. */
static void pack_column(float *panel, int64_t c, int n, const float *x,
    int64_t stride, int n_tokens, int lanes)
{
    float *plus = panel + (c / n * 2 * n + c % n) * lanes;
    float *minus = plus + n * lanes;
    for (int i = 0; i < lanes; i++) {
        const float value = i < n_tokens ? x[i * stride] : 0;
        plus[i] = value;
        minus[i] = -value;
    }
}

void qcpu_pvq_rows_pack(float *dst, const qmi_weight *w, const float *x,
    int64_t n_tokens, int lanes)
{
    const qmi_pvq_shape s = shape_of(w);
    for (int64_t t = 0; t < n_tokens; t += lanes) {
        const int n = n_tokens - t < lanes ? (int)(n_tokens - t) : lanes;
        const float *from = x + t * w->n_cols;
        /* Columns of padding are zeros for every token. */
        for (int64_t c = 0; c < padded_cols(&s); c++)
            pack_column(
                dst, c, s.n, from + c, w->n_cols, c < w->n_cols ? n : 0, lanes);
        dst += panel_floats(&s, lanes);
    }
}

/* y of the tokens of a panel for up to 32 rows of a tile. */
static void scatter_rows(float *y, int64_t stride, const float *sums,
    const float *scales, int64_t n_rows, int64_t n_tokens, int lanes)
{
    for (int64_t i = 0; i < n_tokens; i++)
        for (int64_t r = 0; r < n_rows; r++)
            y[i * stride + r] = scales[r] * sums[r * lanes + i];
}

void qcpu_pvq_rows_run(float *y, const qcpu_tile *tile, void *scratch,
    qcpu_pvq_rows_fn fn, int lanes)
{
    const qmi_weight *w = tile->w;
    const qmi_pvq_shape s = shape_of(w);
    const uint8_t *codes = qmi_pvq_codes(w, tile->mat) +
                           (size_t)(tile->row / QMI_PVQ_TILE) * s.tile_bytes;
    const uint8_t *scale_bytes = qmi_pvq_scales(w, tile->mat) + 2 * tile->row;
    float *sums = scratch;
    float scales[QMI_PVQ_TILE];
    for (int64_t r = 0; r < tile->n_rows; r += QMI_PVQ_TILE) {
        const int64_t left = tile->n_rows - r;
        const int64_t n = left < QMI_PVQ_TILE ? left : QMI_PVQ_TILE;
        const float *panel = tile->packed;
        load_scales(scales, scale_bytes + 2 * r, n);
        for (int64_t t = 0; t < tile->n_tokens; t += lanes) {
            int64_t n_tokens = tile->n_tokens - t;
            n_tokens = n_tokens < lanes ? n_tokens : lanes;
            fn(sums, codes, &s, panel, lanes);
            scatter_rows(y + t * tile->n_rows + r, tile->n_rows, sums, scales,
                n, n_tokens, lanes);
            panel += panel_floats(&s, lanes);
        }
        codes += s.tile_bytes;
    }
}
