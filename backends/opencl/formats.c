/* SPDX-License-Identifier: Apache-2.0
 * The weight formats by id (formats.h).  In: a format's id and a tuning.  Out:
 * which sources and options make its program, and how a launch of it is cut.
 * Sizes here must agree with what the kernels take per work-item, which the
 * options of the same tuning tell them.  The only file of the host side that
 * names formats. */
#include "formats.h"

#include <stdio.h>

#include "pvq.h"
#include "sources.h"
#include "tlut.h"

typedef struct format {
    const char *source;        /* of its kernels */
    const char *dense;         /* of dense ones: the macro that selects it */
    int block;                 /* columns per block of the pvq formats */
    const qmi_tlut_rate *rate; /* of the tlut formats */
    int64_t decode_cols;       /* that a work-item of decode_rows writes */
    bool is_row, is_lanes;     /* a work-item, or `lanes` of them, per row */
} format;

enum { WHOLE_ROW = 0 };

static const format formats[QMI_N_FORMATS] = {
    [QMI_FORMAT_BF16] = {qocl_source_dense, "BF16", .decode_cols = 1},
    [QMI_FORMAT_F16] = {qocl_source_dense, "F16", .decode_cols = 1},
    [QMI_FORMAT_F32] = {qocl_source_dense, "F32", .decode_cols = 1},
    [QMI_FORMAT_TERNARY_DICT] = {qocl_source_ternary_dict,
        .decode_cols = WHOLE_ROW, .is_row = true},
    [QMI_FORMAT_Q2] = {qocl_source_q2, .decode_cols = 1, .is_lanes = true},
    [QMI_FORMAT_PVQ] = {qocl_source_pvq, .block = 16, .decode_cols = 8},
    [QMI_FORMAT_PVQ8] = {qocl_source_pvq, .block = 8, .decode_cols = 8},
#define X(name, text)                                                          \
    [QMI_FORMAT_TLUT_##name] = {                                               \
        qocl_source_tlut, .rate = &qmi_tlut_rate_##name, .decode_cols = 1},
    QMI_TLUT_MAP(X)
#undef X
};

bool qocl_has_format(const qmi_format *f)
{
    return f->id < QMI_N_FORMATS && formats[f->id].source != NULL;
}

/* Kernels whose work-items keep sums of many rows. */
static bool is_tiled(const format *f)
{
    return f->block != 0 || f->rate != NULL;
}

int qocl_many(const qmi_device *device, qmi_format_id id)
{
    return is_tiled(&formats[id]) ? device->tuning.pvq_many
                                  : device->tuning.many;
}

/* How work-items of the tlut kernels share a product. */
typedef struct division {
    int rows;   /* of a work-item */
    int lanes;  /* work-items of a group with rows of their own */
    int shares; /* of the columns */
} division;

static division division_of(const qocl_tuning *t)
{
    enum { LANES = 16 };
    if (t->pvq_rows > 1)
        return (division){t->pvq_rows, 1, 1};
    /* A group of as many as pvq has, and a tile of rows. */
    return (division){QMI_TLUT_TILE / LANES, LANES, 2 * t->pvq_split};
}

/* What the sources of the format want to know; "" when nothing.  Macros, so
 * that the compiler unrolls and folds. */
static void add_options(
    char *text, size_t room, const qocl_tuning *t, const format *f)
{
    const division d = division_of(t);
    if (f->block != 0)
        snprintf(text, room,
            " -D N=%d -D ROWS=%d -D REGISTER_LOOKUP=%d -D SPLIT=%d", f->block,
            t->pvq_rows, t->pvq_lookup - 1, t->pvq_split);
    else if (f->rate != NULL)
        snprintf(text, room,
            " -D K=%d -D V=%d -D WORDS=%d -D ROWS=%d -D LANES=%d -D SHARES=%d",
            f->rate->k, f->rate->v, qmi_tlut_words(f->rate), d.rows, d.lanes,
            d.shares);
    else if (f->is_lanes)
        snprintf(text, room, " -D LANES=%d", t->lanes);
    else if (f->dense != NULL)
        snprintf(text, room,
            " -D FORMAT_%s=1 -D LANES=%d -D ROWS=%d -D WIDTH=%d", f->dense,
            t->lanes, t->dense_rows, t->width);
}

static void print_table(char *text, size_t room, const qmi_tlut_rate *rate)
{
    int n = snprintf(text, room, "__constant float tlut_table[] = {");
    for (int i = 0; i < QMI_TLUT_WINDOWS * rate->v; i++)
        n += snprintf(text + n, room - (size_t)n, "%d,", rate->table[i]);
    snprintf(text + n, room - (size_t)n, "};\n");
}

qocl_recipe qocl_format_recipe(
    const qocl_tuning *t, qmi_format_id id, bool many)
{
    const format *f = &formats[id];
    /* The pvq kernels have two forms: a work-item for 16 rows, or lanes that
     * share rows. */
    const bool is_pvq = f->block != 0, by_rows = is_pvq && t->pvq_rows > 1;
    const int most = is_tiled(f) ? t->pvq_many : t->many;
    qocl_recipe r = {
        .name = qmi_formats[id]->name,
        .sources = {qocl_source_common, qocl_source_pack, f->source},
        .n_sources = 3,
    };
    if (is_pvq)
        /* One form or the other is compiled in, not both. */
        r.sources[r.n_sources++] =
            by_rows ? qocl_source_pvq_rows : qocl_source_pvq_lanes;
    if (f->rate != NULL)
        print_table(r.table, sizeof r.table, f->rate);
    const int n = snprintf(r.options, sizeof r.options,
        "-cl-std=CL1.2 -D TT=%d -D PACK_LANES=%d -D TOKEN_MAJOR=%d",
        many ? most : 1, t->pack_lanes, by_rows);
    add_options(r.options + n, sizeof r.options - (size_t)n, t, f);
    return r;
}

void qocl_product_size(int64_t *x, int64_t *local, const qocl_tuning *t,
    qmi_format_id id, int64_t n_rows)
{
    const format *f = &formats[id];
    /* pvq tiles hold 32 rows, and the last one is padded. */
    const int64_t tile_rows = (n_rows + 31) / 32 * 32;
    *local = t->lanes;
    if (f->rate != NULL) {
        const division d = division_of(t);
        *local = d.lanes * d.shares;
        *x = (n_rows + d.rows - 1) / d.rows * d.shares;
    } else if (f->is_row) {
        *local = t->td_group;
        *x = n_rows;
    } else if (f->block != 0) {
        *local = t->pvq_rows > 1 ? 1 : 32 * t->pvq_split;
        *x = t->pvq_rows > 1 ? (n_rows + 15) / 16 : tile_rows * t->pvq_split;
    } else if (f->is_lanes) {
        *x = n_rows * t->lanes;
    } else {
        *x = (n_rows + t->dense_rows - 1) / t->dense_rows * t->lanes;
    }
}

int64_t qocl_decode_size(qmi_format_id id, int64_t n_cols)
{
    const int64_t each = formats[id].decode_cols;
    return each == WHOLE_ROW ? 1 : (n_cols + each - 1) / each;
}

cl_ulong qocl_tile_bytes(const qmi_weight *host)
{
    const int block = formats[host->format->id].block;
    if (block == 0)
        return 0;
    return qmi_pvq_shape_of(block, host->n_rows, host->n_cols).tile_bytes;
}
