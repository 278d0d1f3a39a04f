/* SPDX-License-Identifier: Apache-2.0
 * The format "ternary-dict" of docs/format.md: encoder of a row, validation of
 * untrusted stacks, plain decoder.  In: codewords of any length per row, found
 * by two levels of offsets.  Out: f32 rows.  After check_matrix every row
 * spells exactly its weights, so decoders, here and on devices, need no
 * bounds. */
#include "ternary_dict.h"

#include <assert.h>
#include <inttypes.h>

#include "alloc.h"

static const uint32_t no_codeword = UINT32_MAX;

/* Most models use the paper's dictionary, which is built once and owned by
 * nobody. */
static const qmi_dict *dict_of(const qmi_weight *w)
{
    return w->codebook != NULL ? w->codebook : qmi_dict_generic();
}

/* ---- encode ---- */

/* Greedy: a codeword grows while the dictionary has a longer one.  Every prefix
 * of a sequence is in it, too (its order is by probability), so growing pair by
 * pair finds the longest. */
size_t qmi_dict_encode_row(
    const qmi_dict *dict, uint16_t *dst, const uint8_t *codes, int64_t n_cols)
{
    size_t n = 0;
    uint32_t current = no_codeword;
    for (int64_t c = 0; c < n_cols; c += 2) {
        unsigned first = codes[c];
        unsigned second = c + 1 < n_cols ? codes[c + 1] : QMI_CODE_ZERO;
        assert(first <= QMI_CODE_HIGH && second <= QMI_CODE_HIGH);
        unsigned pair = first + 3 * second;
        uint32_t longer = no_codeword;
        if (current != no_codeword) {
            longer = dict->child[current][pair];
            if (longer == no_codeword)
                /* No longer one: the codeword is whole, and this pair begins
                 * the next. */
                dst[n++] = (uint16_t)current;
        }
        current = longer != no_codeword ? longer : dict->root[pair];
    }
    /* The last one ends with the row; rows share no codeword. */
    if (current != no_codeword)
        dst[n++] = (uint16_t)current;
    return n;
}

/* ---- storage ---- */

/* Wraps like the unsigned number it is: open() refuses such counts. */
static int64_t plus_one(int64_t n)
{
    return (int64_t)((uint64_t)n + 1);
}

/* A matrix more: the end of the last one. */
static int shape_expert_offsets(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_rows;
    (void)n_cols;
    shape[0] = plus_one(n_mats);
    return 1;
}

static int shape_row_offsets(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_cols;
    shape[0] = n_mats;
    shape[1] = plus_one(n_rows);
    return 2;
}

/* Low and high; zero needs no level. */
static int shape_levels(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_cols;
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = 2;
    return 3;
}

static int shape_codes(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    (void)n_mats;
    (void)n_rows;
    (void)n_cols;
    /* As many as the rows need: the file's tensor says how many. */
    shape[0] = -1;
    return 1;
}

static uint64_t expert_offset(const qmi_weight *w, int64_t mat)
{
    const uint8_t *offsets = w->parts[QMI_TD_EXPERT_OFFSETS].data;
    return qmi_load_u64(offsets + 8 * mat);
}

/* Offsets of matrices have 64 bits; those of rows begin at the matrix and
 * need 32. */
qmi_td_matrix qmi_td_matrix_of(const qmi_weight *w, int64_t mat)
{
    const uint8_t *codes = w->parts[QMI_TD_CODES].data;
    const uint8_t *row_offsets = w->parts[QMI_TD_ROW_OFFSETS].data;
    const uint8_t *levels = w->parts[QMI_TD_LEVELS].data;
    return (qmi_td_matrix){
        .codes = codes + 2 * expert_offset(w, mat),
        .row_offsets = row_offsets + 4 * mat * (w->n_rows + 1),
        .levels = levels + 4 * mat * w->n_rows,
    };
}

/* ---- parameters ---- */

/* The dictionary for p0: one for all stacks of a model that want it.  Its size
 * and the time to build it bound how many there may be. */
static qmoe_status dictionary_for(
    qmi_weight *w, double p0, const qmi_parameters *from, qmi_error *err)
{
    int n = 0;
    /* Only weights configured before this one are looked at, so dictionaries
     * are numbered in the order of the file. */
    for (size_t i = 0; i < from->n_others; i++) {
        qmi_dict *dict = from->others[i].codebook;
        if (from->others[i].format != w->format || dict == NULL)
            continue;
        if (dict->p0 == p0) {
            dict->n_users++;
            w->codebook = dict;
            return QMOE_OK;
        }
        n = dict->number > n ? dict->number : n;
    }
    if (n == QMI_MAX_DICTIONARIES)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "more than %d different dictionaries in one model",
            QMI_MAX_DICTIONARIES);
    qmi_dict *dict;
    /* Built for this p0: the first stack that wants it pays. */
    QMI_TRY(qmi_dict_build(&dict, p0, err));
    dict->n_users = 1;
    dict->number = n + 1;
    w->codebook = dict;
    return QMOE_OK;
}

static qmoe_status make_codebook(void **out, double p0, qmi_error *err)
{
    qmi_dict *dict;
    qmoe_status status = qmi_dict_build(&dict, p0, err);
    *out = dict;
    return status;
}

static qmoe_status configure(
    qmi_weight *w, const qmi_parameters *from, qmi_error *err)
{
    /* Stays when the file names no p0. */
    double p0 = QMI_DICT_GENERIC_P0;
    QMI_TRY(from->number(from, &p0, "p0", err));
    /* Written so that NaN is refused, too. */
    if (!(p0 > 0.3 && p0 < 1))
        return qmi_fail(err, QMOE_E_FORMAT, "%s: p0 of '%s' is not in (0.3, 1)",
            from->file, w->name);
    return p0 == QMI_DICT_GENERIC_P0 ? QMOE_OK
                                     : dictionary_for(w, p0, from, err);
}

/* Stacks that share a dictionary are released one by one; the last one frees
 * it. */
static void release(qmi_weight *w)
{
    qmi_dict *dict = w->codebook;
    if (dict != NULL && --dict->n_users == 0)
        qmi_free(dict);
    w->codebook = NULL;
}

static bool record(const qmi_weight *w, qmi_put_parameter *put, void *entry)
{
    const qmi_dict *dict = w->codebook;
    return put(entry, "p0", dict != NULL ? dict->p0 : QMI_DICT_GENERIC_P0);
}

/* ---- open ---- */

/* Each product with overflow checks: the dimensions come from the file. */
static qmoe_status check_sizes(const qmi_weight *w, qmi_error *err)
{
    uint64_t n_mats = (uint64_t)w->n_mats, n_rows = (uint64_t)w->n_rows;
    uint64_t n = 0;
    bool fits = qmi_mul_u64(n_mats + 1, 8, &n);
    QMI_TRY(qmi_weight_check_size(w, QMI_TD_EXPERT_OFFSETS, fits, n, err));
    fits = qmi_mul_u64(n_mats, n_rows + 1, &n) && qmi_mul_u64(n, 4, &n);
    QMI_TRY(qmi_weight_check_size(w, QMI_TD_ROW_OFFSETS, fits, n, err));
    fits = qmi_mul_u64(n_mats, n_rows, &n) && qmi_mul_u64(n, 4, &n);
    QMI_TRY(qmi_weight_check_size(w, QMI_TD_LEVELS, fits, n, err));
    if (w->parts[QMI_TD_CODES].n_bytes % 2 != 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "tensor '%s.codes': %" PRIu64 " bytes are not a whole number of "
            "codewords",
            w->name, w->parts[QMI_TD_CODES].n_bytes);
    return QMOE_OK;
}

/* Offsets must rise and end where the codewords end, so that no matrix reaches
 * into another or past the end. */
static qmoe_status check_expert_offsets(const qmi_weight *w, qmi_error *err)
{
    uint64_t n_codes = w->parts[QMI_TD_CODES].n_bytes / 2;
    uint64_t begin = expert_offset(w, 0);
    if (begin != 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "tensor '%s.expert_offsets': starts at %" PRIu64 ", not 0", w->name,
            begin);
    for (int64_t mat = 0; mat < w->n_mats; mat++) {
        uint64_t end = expert_offset(w, mat + 1);
        /* A row has at least one codeword. */
        if (end < begin || end - begin < (uint64_t)w->n_rows)
            return qmi_fail(err, QMOE_E_FORMAT,
                "tensor '%s.expert_offsets': matrix %" PRId64 " from %" PRIu64
                " to %" PRIu64 " has no room for %" PRId64 " rows",
                w->name, mat, begin, end, w->n_rows);
        begin = end;
    }
    if (begin != n_codes)
        return qmi_fail(err, QMOE_E_FORMAT,
            "tensor '%s.expert_offsets': ends at %" PRIu64
            ", but there are %" PRIu64 " codewords",
            w->name, begin, n_codes);
    return QMOE_OK;
}

/* What costs O(n_mats) is checked when a model is opened, payloads when they
 * are first used, so that opening reads no weights. */
static qmoe_status open_stack(const qmi_weight *w, qmi_error *err)
{
    if (w->n_mats < 1 || w->n_rows < 1 || w->n_cols < 1)
        return qmi_fail(err, QMOE_E_FORMAT,
            "'%s': a stack of [%" PRId64 ", %" PRId64 ", %" PRId64 "] is empty",
            w->name, w->n_mats, w->n_rows, w->n_cols);
    QMI_TRY(check_sizes(w, err));
    QMI_TRY(check_expert_offsets(w, err));
    /* Built here, so that later uses cannot fail for lack of memory. */
    if (dict_of(w) == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: the dictionary");
    return QMOE_OK;
}

/* ---- check ---- */

/* The codewords of one row must spell exactly its weights, and a padding
 * weight must be zero, so that no decoder writes past the row. */
static qmoe_status check_codes(const qmi_dict *dict, const uint8_t *codes,
    uint32_t n_codes, int64_t row, int64_t n_cols, qmi_error *err)
{
    uint64_t expected = (uint64_t)n_cols + ((uint64_t)n_cols & 1);
    uint64_t n_weights = 0;
    const qmi_dict_entry *entry = NULL;
    /* Counted in 64 bits: 2^32 codewords of 28 weights fit. */
    for (uint32_t i = 0; i < n_codes; i++) {
        entry = &dict->entries[qmi_load_u16(codes + 2 * (size_t)i)];
        n_weights += entry->n_weights;
    }
    if (n_weights != expected)
        return qmi_fail(err, QMOE_E_FORMAT,
            "codes: row %" PRId64 " holds %" PRIu64
            " weights, expected %" PRIu64,
            row, n_weights, expected);
    /* Only the last weight of the row can be padding, and the last non-zero of
     * an entry is its last. */
    if (n_cols % 2 != 0 && entry->n_nonzeros != 0 &&
        entry->position[entry->n_nonzeros - 1] == entry->n_weights - 1)
        return qmi_fail(err, QMOE_E_FORMAT,
            "codes: row %" PRId64 " has a padding weight that is not zero",
            row);
    return QMOE_OK;
}

static qmoe_status check_levels(
    const qmi_td_matrix *m, int64_t row, qmi_error *err)
{
    for (int i = 0; i < 2; i++) {
        uint16_t level = qmi_load_u16(m->levels + 4 * row + 2 * i);
        if ((level & 0x7f80) == 0x7f80)
            return qmi_fail(err, QMOE_E_FORMAT,
                "levels: row %" PRId64 ": 0x%04x is not finite", row, level);
    }
    return QMOE_OK;
}

/* Offsets first, then the codewords between them: each check relies on the one
 * before. */
static qmoe_status check_matrix(
    const qmi_weight *w, int64_t mat, qmi_error *err)
{
    const qmi_dict *dict = dict_of(w);
    const qmi_td_matrix m = qmi_td_matrix_of(w, mat);
    uint64_t n_codes = expert_offset(w, mat + 1) - expert_offset(w, mat);
    uint32_t begin = qmi_load_u32(m.row_offsets);
    if (dict == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: the dictionary");
    if (begin != 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "row_offsets: starts at %" PRIu32 ", not 0", begin);
    for (int64_t row = 0; row < w->n_rows; row++) {
        uint32_t end = qmi_load_u32(m.row_offsets + 4 * (row + 1));
        /* A row's end is looked at before its codewords are read. */
        if (end < begin || end > n_codes)
            return qmi_fail(err, QMOE_E_FORMAT,
                "row_offsets: row %" PRId64 " from %" PRIu32 " to %" PRIu32
                " of %" PRIu64 " codewords",
                row, begin, end, n_codes);
        QMI_TRY(check_levels(&m, row, err));
        QMI_TRY(check_codes(dict, m.codes + 2 * (size_t)begin, end - begin, row,
            w->n_cols, err));
        begin = end;
    }
    if (begin != n_codes)
        return qmi_fail(err, QMOE_E_FORMAT,
            "row_offsets: ends at %" PRIu32 ", but there are %" PRIu64
            " codewords",
            begin, n_codes);
    return QMOE_OK;
}

/* ---- decode ---- */

static void decode_row(const qmi_dict *dict, const uint8_t *codes,
    uint32_t n_codes, const float level[3], int64_t n_cols, float *dst)
{
    int64_t col = 0;
    /* Codewords name their non-zero weights only. */
    memset(dst, 0, (size_t)n_cols * sizeof *dst);
    for (uint32_t i = 0; i < n_codes; i++) {
        const qmi_dict_entry *entry =
            &dict->entries[qmi_load_u16(codes + 2 * (size_t)i)];
        /* A padding weight is zero (check_codes), so nothing is written past
         * the row. */
        for (unsigned k = 0; k < entry->n_nonzeros; k++)
            dst[col + entry->position[k]] = level[entry->code[k]];
        col += entry->n_weights;
    }
}

static void decode_rows(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const qmi_dict *dict = dict_of(w);
    const qmi_td_matrix m = qmi_td_matrix_of(w, mat);
    for (int64_t r = row; r < row + n; r++) {
        uint32_t begin = qmi_load_u32(m.row_offsets + 4 * r);
        uint32_t end = qmi_load_u32(m.row_offsets + 4 * (r + 1));
        const float level[3] = {
            [QMI_CODE_LOW] = qmi_bf16_to_f32(qmi_load_u16(m.levels + 4 * r)),
            [QMI_CODE_HIGH] =
                qmi_bf16_to_f32(qmi_load_u16(m.levels + 4 * r + 2)),
        };
        decode_row(dict, m.codes + 2 * (size_t)begin, end - begin, level,
            w->n_cols, dst);
        dst += w->n_cols;
    }
}

const qmi_format qmi_format_ternary_dict = {
    .id = QMI_FORMAT_TERNARY_DICT,
    .name = "ternary-dict",
    .summary = "three values per row, the paper's code",
    .ternary = true,
    .variable = true,
    .offsets_part = QMI_TD_EXPERT_OFFSETS,
    .variable_part = QMI_TD_CODES,
    .needs_dictionary = true,
    .n_parts = 4,
    .parts =
        {
            [QMI_TD_EXPERT_OFFSETS] = {"expert_offsets", QMI_U64,
                shape_expert_offsets},
            [QMI_TD_ROW_OFFSETS] = {"row_offsets", QMI_U32, shape_row_offsets},
            [QMI_TD_LEVELS] = {"levels", QMI_BF16, shape_levels},
            [QMI_TD_CODES] = {"codes", QMI_U16, shape_codes},
        },
    .make_codebook = make_codebook,
    .configure = configure,
    .release = release,
    .record = record,
    .open = open_stack,
    .check = check_matrix,
    .decode = decode_rows,
};
