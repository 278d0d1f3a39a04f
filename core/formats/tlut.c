/* SPDX-License-Identifier: Apache-2.0
 * The formats "tlut-*" of docs/format.md: geometry of the tiled layout
 * (tlut.h), access to strings, validation, plain decoding.  In: codes and
 * scales of a stack from an untrusted file.  Out: f32 rows.  A string is always
 * valid, so sizes and scales are all that can be wrong; offsets are computed
 * only for sizes that open_stack has accepted. */
#include "tlut.h"

#include <assert.h>
#include <inttypes.h>

#include "alloc.h"
#include "rotation.h"
#include "rotation_parameters.h"

/* By id: a backend module gets formats of the program's table, not its own. */
const qmi_tlut_rate *qmi_tlut_rate_of(const qmi_format *format)
{
#define X(name, text)                                                          \
    if (format->id == QMI_FORMAT_TLUT_##name)                                  \
        return &qmi_tlut_rate_##name;
    QMI_TLUT_MAP(X)
#undef X
    return NULL;
}

/* ---- geometry ---- */

/* Unsigned: wraps for absurd sizes, which open_stack refuses. */
qmi_tlut_shape qmi_tlut_shape_of(
    const qmi_tlut_rate *rate, int64_t n_rows, int64_t n_cols)
{
    qmi_tlut_shape s = {.n_words = qmi_tlut_words(rate)};
    s.n_groups = n_cols / QMI_TLUT_GROUP + (n_cols % QMI_TLUT_GROUP != 0);
    s.n_tiles = n_rows / QMI_TLUT_TILE + (n_rows % QMI_TLUT_TILE != 0);
    s.group_bytes = (size_t)s.n_words * 8;
    s.tile_bytes = (size_t)s.n_groups * s.group_bytes;
    return s;
}

/* ---- strings ---- */

int qmi_tlut_window(const uint8_t *string, const qmi_tlut_rate *rate, int step)
{
    const int n_words = qmi_tlut_words(rate), bit = rate->k * step;
    const int word = bit / 16, next = word + 1 == n_words ? 0 : word + 1;
    assert(step >= 0 && step < qmi_tlut_steps(rate));
    const uint32_t pair = qmi_load_u16(string + 8 * word) |
                          (uint32_t)qmi_load_u16(string + 8 * next) << 16;
    return (int)(pair >> bit % 16 & (QMI_TLUT_WINDOWS - 1));
}

void qmi_tlut_set(
    uint8_t *string, const qmi_tlut_rate *rate, int step, unsigned bits)
{
    assert(step >= 0 && step < qmi_tlut_steps(rate));
    /* Three bits may lie on both sides of a word's end. */
    for (int i = 0; i < rate->k; i++) {
        const int bit = rate->k * step + i;
        string[8 * (bit / 16) + bit % 16 / 8] |=
            (uint8_t)((bits >> i & 1) << bit % 8);
    }
}

/* ---- stacks ---- */

const uint8_t *qmi_tlut_codes(const qmi_weight *w, int64_t mat)
{
    /* Offsets of matrices fit size_t: open_stack has compared the product with
     * the bytes that are there. */
    const qmi_tlut_shape s =
        qmi_tlut_shape_of(qmi_tlut_rate_of(w->format), w->n_rows, w->n_cols);
    const uint8_t *codes = w->parts[QMI_TLUT_CODES].data;
    return codes + (size_t)mat * (size_t)s.n_tiles * s.tile_bytes;
}

const uint8_t *qmi_tlut_scales(const qmi_weight *w, int64_t mat)
{
    const uint8_t *scales = w->parts[QMI_TLUT_SCALES].data;
    return scales + 2 * mat * w->n_rows;
}

const uint8_t *qmi_tlut_col_scales(const qmi_weight *w, int64_t mat)
{
    const uint8_t *scales = w->parts[QMI_TLUT_COL_SCALES].data;
    return scales + 2 * mat * w->n_cols;
}

static int shape_codes(int64_t shape[3], const qmi_tlut_rate *rate,
    int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    const qmi_tlut_shape s = qmi_tlut_shape_of(rate, n_rows, n_cols);
    shape[0] = n_mats;
    shape[1] = s.n_tiles;
    shape[2] = (int64_t)s.tile_bytes;
    return 3;
}

static int shape_scales(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_cols;
    shape[0] = n_mats;
    shape[1] = n_rows;
    return 2;
}

static int shape_col_scales(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_rows;
    shape[0] = n_mats;
    shape[1] = n_cols;
    return 2;
}

static bool scale_bytes(uint64_t *n, uint64_t n_mats, int64_t each)
{
    *n = 2;
    return qmi_mul_u64(n_mats, *n, n) && qmi_mul_u64(*n, (uint64_t)each, n);
}

/* The last place where sizes are doubted: everything behind it computes without
 * checks. */
static qmoe_status open_stack(const qmi_weight *w, qmi_error *err)
{
    /* Keeps the sizes of one tile far from overflow. */
    static const int64_t max_cols = INT64_C(1) << 32;
    if (w->n_mats < 1 || w->n_rows < 1 || w->n_cols < 1 || w->n_cols > max_cols)
        return qmi_fail(err, QMOE_E_FORMAT,
            "'%s': no stack can have the shape [%" PRId64 ", %" PRId64
            ", %" PRId64 "]",
            w->name, w->n_mats, w->n_rows, w->n_cols);
    QMI_TRY(qmi_rotation_check(w, err));
    const qmi_tlut_shape s =
        qmi_tlut_shape_of(qmi_tlut_rate_of(w->format), w->n_rows, w->n_cols);
    const uint64_t n_mats = (uint64_t)w->n_mats;
    uint64_t n = 0;
    bool fits = qmi_mul_u64(n_mats, (uint64_t)s.n_tiles, &n) &&
                qmi_mul_u64(n, s.tile_bytes, &n);
    QMI_TRY(qmi_weight_check_size(w, QMI_TLUT_CODES, fits, n, err));
    fits = scale_bytes(&n, n_mats, w->n_rows);
    QMI_TRY(qmi_weight_check_size(w, QMI_TLUT_SCALES, fits, n, err));
    fits = scale_bytes(&n, n_mats, w->n_cols);
    return qmi_weight_check_size(w, QMI_TLUT_COL_SCALES, fits, n, err);
}

/* Where weights must be finite, as in files of today, both scales are bounded
 * so that no product overflows: 2^60 * 2^60 * 63. */
static qmoe_status check_bounded(const uint8_t *scales, int64_t n,
    const char *part, const char *kind, qmi_error *err)
{
    enum { MOST = 127 + 60 };
    for (int64_t i = 0; i < n; i++) {
        const uint16_t scale = qmi_load_u16(scales + 2 * i);
        if ((scale >> 7 & 0xff) > MOST)
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: %s %" PRId64 ": 0x%04x is 2^61 or more, or not finite",
                part, kind, i, scale);
    }
    return QMOE_OK;
}

static qmoe_status check(const qmi_weight *w, int64_t mat, qmi_error *err)
{
    QMI_TRY(check_bounded(
        qmi_tlut_scales(w, mat), w->n_rows, "scales", "row", err));
    return check_bounded(
        qmi_tlut_col_scales(w, mat), w->n_cols, "col_scales", "column", err);
}

/* ---- decode ---- */

static void decode_row(const qmi_weight *w, const qmi_tlut_rate *rate,
    int64_t mat, int64_t row, float *dst)
{
    const qmi_tlut_shape s = qmi_tlut_shape_of(rate, w->n_rows, w->n_cols);
    const uint8_t *codes = qmi_tlut_codes(w, mat);
    const uint8_t *cols = qmi_tlut_col_scales(w, mat);
    const int in_tile = (int)(row % QMI_TLUT_TILE);
    const int step = in_tile / rate->v, of_step = in_tile % rate->v;
    const float scale =
        qmi_bf16_to_f32(qmi_load_u16(qmi_tlut_scales(w, mat) + 2 * row));
    for (int64_t c = 0; c < w->n_cols; c++) {
        const uint8_t *string =
            codes + qmi_tlut_string_at(&s, row / QMI_TLUT_TILE, c);
        const int window = qmi_tlut_window(string, rate, step);
        dst[c] = scale * qmi_bf16_to_f32(qmi_load_u16(cols + 2 * c)) *
                 (float)rate->table[window * rate->v + of_step];
    }
}

static void decode_rows(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(w->format);
    /* Rows are stored rotated; the plain decoder gives those of the model. */
    for (int64_t r = row; r < row + n; r++, dst += w->n_cols) {
        decode_row(w, rate, mat, r, dst);
        if (w->rotation != 0)
            qmi_unrotate(dst, w->n_cols, w->rotation, w->rotation_seed);
    }
}

/* Formats that differ in rate and table only. */
#define FORMAT(rate, text)                                                     \
    static int shape_codes_##rate(                                             \
        int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)      \
    {                                                                          \
        return shape_codes(                                                    \
            shape, &qmi_tlut_rate_##rate, n_mats, n_rows, n_cols);             \
    }                                                                          \
    const qmi_format qmi_format_tlut_##rate = {                                \
        .id = QMI_FORMAT_TLUT_##rate,                                          \
        .name = "tlut-" text,                                                  \
        .summary = text " bits, a scale per row and column",                   \
        .rotates = true,                                                       \
        .n_parts = 3,                                                          \
        .parts =                                                               \
            {                                                                  \
                [QMI_TLUT_CODES] = {"codes", QMI_U8, shape_codes_##rate},      \
                [QMI_TLUT_SCALES] = {"scales", QMI_BF16, shape_scales},        \
                [QMI_TLUT_COL_SCALES] = {"col_scales", QMI_BF16,               \
                    shape_col_scales},                                         \
            },                                                                 \
        .configure = qmi_rotation_configure,                                   \
        .record = qmi_rotation_record,                                         \
        .open = open_stack,                                                    \
        .check = check,                                                        \
        .decode = decode_rows,                                                 \
    };
QMI_TLUT_MAP(FORMAT)
