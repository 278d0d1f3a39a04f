/* SPDX-License-Identifier: Apache-2.0
 * A bit-shift trellis with a table, down the rows of a column: the formats
 * "tlut-0.25" to "tlut-4" (docs/format.md "Formats tlut").  A window of 6 bits
 * slides over a string of bits, k bits per step; a step gives the values of v
 * rows, which the format's table has for the window.  A weight is
 *     scale of its row * scale of its column * value.
 * Rows are cut into tiles of 64 (the last padded), and the string of a column
 * of a tile is a ring: the last windows run on in its first bits.  Every bit
 * pattern is valid.
 *
 * Layout = compute layout of all backends.  Columns are taken in groups of 4
 * (the last padded with columns that meet zero activations).  The string of a
 * column of a tile has n_words words of 16 bits, 16 n_words = 64 k / v.
 *   tile  = group 0, group 1, ...
 *   group = n_words times u64: word i of columns 0, 1, 2, 3, little-endian
 * Bit b of a string is bit b % 16 of its word b / 16; step t, of the rows
 * t v ... t v + v - 1 of the tile, has the window of bits
 *   k t, k t + 1, ... k t + 5, each modulo 16 n_words, the first one lowest. */
#ifndef QMI_TLUT_H
#define QMI_TLUT_H

#include "weight.h"

enum {
    QMI_TLUT_TILE = 64,
    QMI_TLUT_GROUP = 4,
    QMI_TLUT_WINDOW_BITS = 6,
    QMI_TLUT_WINDOWS = 1 << QMI_TLUT_WINDOW_BITS,
    QMI_TLUT_MAX_WORDS = 16,
    QMI_TLUT_MAX_VALUE = 63 /* of a table, by magnitude */
};

/* Parts. */
enum {
    QMI_TLUT_CODES,     /* u8 [n_mats, n_tiles, tile_bytes] */
    QMI_TLUT_SCALES,    /* bf16 [n_mats, n_rows] */
    QMI_TLUT_COL_SCALES /* bf16 [n_mats, n_cols], of the columns as stored */
};

/* One rate of k / v bits per weight. */
typedef struct qmi_tlut_rate {
    int k, v;
    /* By which the table's values are multiplied to fit data of unit variance.
     * Quantisers begin with it; what is stored does not depend on it. */
    float unit;
    const int8_t *table; /* [QMI_TLUT_WINDOWS, v] */
} qmi_tlut_rate;

/* X(name, "rate"), in the order of the rates. */
#define QMI_TLUT_MAP(X)                                                        \
    X(025, "0.25")                                                             \
    X(05, "0.5")                                                               \
    X(075, "0.75")                                                             \
    X(1, "1")                                                                  \
    X(15, "1.5")                                                               \
    X(2, "2")                                                                  \
    X(3, "3")                                                                  \
    X(4, "4")

#define X(name, text)                                                          \
    extern const qmi_tlut_rate qmi_tlut_rate_##name;                           \
    extern const qmi_format qmi_format_tlut_##name;
QMI_TLUT_MAP(X)
#undef X

/* NULL for other formats. */
const qmi_tlut_rate *qmi_tlut_rate_of(const qmi_format *format);

static inline int qmi_tlut_words(const qmi_tlut_rate *rate)
{
    return QMI_TLUT_TILE * rate->k / rate->v / 16;
}

/* Steps of the string of a tile. */
static inline int qmi_tlut_steps(const qmi_tlut_rate *rate)
{
    return QMI_TLUT_TILE / rate->v;
}

/* Geometry of a matrix. */
typedef struct qmi_tlut_shape {
    int n_words;
    int64_t n_groups; /* of columns */
    int64_t n_tiles;  /* of rows */
    size_t group_bytes, tile_bytes;
} qmi_tlut_shape;
qmi_tlut_shape qmi_tlut_shape_of(
    const qmi_tlut_rate *rate, int64_t n_rows, int64_t n_cols);

/* Where the string of a column of a tile begins; its words are 8 bytes apart.
 * codes: those of the matrix. */
static inline size_t qmi_tlut_string_at(
    const qmi_tlut_shape *shape, int64_t tile, int64_t col)
{
    return (size_t)tile * shape->tile_bytes +
           (size_t)(col / QMI_TLUT_GROUP) * shape->group_bytes +
           (size_t)(col % QMI_TLUT_GROUP) * 2;
}

/* The window of a step of the string at `string`. */
int qmi_tlut_window(const uint8_t *string, const qmi_tlut_rate *rate, int step);
/* Puts the k bits [k step, k step + k) into a string of zeros. */
void qmi_tlut_set(
    uint8_t *string, const qmi_tlut_rate *rate, int step, unsigned bits);

/* Parts of one matrix of a stack. */
const uint8_t *qmi_tlut_codes(const qmi_weight *w, int64_t mat);
const uint8_t *qmi_tlut_scales(const qmi_weight *w, int64_t mat);
const uint8_t *qmi_tlut_col_scales(const qmi_weight *w, int64_t mat);

#endif
