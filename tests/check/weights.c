/* SPDX-License-Identifier: Apache-2.0
 * Weights in every format, with values known beforehand (weights.h).  Nothing
 * here uses the library's conversions: they are among what is checked. */
#include "weights.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "hash.h"
#include "ternary_dict.h"

void *check_calloc(size_t n, size_t size)
{
    void *block = calloc(n != 0 ? n : 1, size);
    if (block == NULL) {
        fprintf(stderr, "%s: error: out of memory\n",
            program_invocation_short_name);
        exit(2);
    }
    return block;
}

const char *weight_layout_name(weight_layout layout)
{
    static const char *const names[LAYOUT_COUNT] = {
        "aligned", "odd", "scattered", "shared"};
    return names[layout];
}

void *weight_place(gen_weight *w, const void *bytes, size_t n_bytes, bool odd)
{
    /* Exact sizes, so that an address sanitizer sees reads past the end. */
    uint8_t *block = malloc(n_bytes + 1);
    w->blocks = realloc(w->blocks, (w->n_blocks + 1) * sizeof *w->blocks);
    if (block == NULL || w->blocks == NULL) {
        fprintf(stderr, "%s: error: out of memory\n",
            program_invocation_short_name);
        exit(2);
    }
    if (!odd)
        block = realloc(block, n_bytes != 0 ? n_bytes : 1);
    w->blocks[w->n_blocks++] = block;
    uint8_t *start = odd ? block + 1 : block;
    if (n_bytes != 0)
        memcpy(start, bytes, n_bytes);
    return start;
}

static int64_t matrix_size(const gen_weight *w)
{
    return w->host.n_rows * w->host.n_cols;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- dense ---- */

/* Rows a kernel might get wrong as a whole: zeros, a constant, the last
 * column alone, alternating signs. */
static float pattern_value(int64_t row, int64_t col, int64_t n_cols)
{
    switch (row % 4) {
    case 0:
        return 0;
    case 1:
        return 0.59375f;
    case 2:
        return col == n_cols - 1 ? -1.25f : 0;
    default:
        return col % 2 == 0 ? 0.75f : -0.75f;
    }
}

static void draw_dense(float *dst, const weight_request *q, rng *r, float scale)
{
    int64_t first = rng_below(r, 4), n = q->n_mats * q->n_rows * q->n_cols;
    for (int64_t i = 0; i < n; i++) {
        if (q->values == VALUES_STRUCTURED)
            dst[i] =
                pattern_value(first + i / q->n_cols, i % q->n_cols, q->n_cols);
        else
            dst[i] = draw_value(r, q->values) * scale;
    }
    const int64_t size = q->n_rows * q->n_cols;
    for (int64_t i = size; i < n && q->layout == LAYOUT_SHARED; i++)
        dst[i] = dst[i - size];
}

static void place_dense(gen_weight *w, const weight_request *q,
    const void *bytes, size_t element_bytes)
{
    size_t matrix_bytes = (size_t)matrix_size(w) * element_bytes;
    size_t n_bytes = matrix_bytes * (size_t)q->n_mats;
    w->host.parts[0].n_bytes = n_bytes;
    if (q->layout != LAYOUT_SCATTERED && q->layout != LAYOUT_SHARED) {
        w->host.parts[0].data =
            weight_place(w, bytes, n_bytes, q->layout == LAYOUT_ODD);
        return;
    }
    const void **mats = check_calloc((size_t)q->n_mats, sizeof *mats);
    const uint8_t *from = bytes;
    for (int64_t m = 0; m < q->n_mats; m++)
        mats[m] = m != 0 && q->layout == LAYOUT_SHARED
                      ? mats[0]
                      : weight_place(w, from + (size_t)m * matrix_bytes,
                            matrix_bytes, m % 2 == 0);
    w->host.mats = mats;
}

void store_f32(gen_weight *w, const weight_request *q, rng *r)
{
    draw_dense(w->values, q, r, 1);
    place_dense(w, q, w->values, sizeof *w->values);
}

void store_bf16(gen_weight *w, const weight_request *q, rng *r)
{
    int64_t n = q->n_mats * matrix_size(w);
    uint16_t *bits = check_calloc((size_t)n, sizeof *bits);
    draw_dense(w->values, q, r, 1);
    for (int64_t i = 0; i < n; i++) {
        bits[i] = (uint16_t)(bits_of(w->values[i]) >> 16);
        w->values[i] = from_bits((uint32_t)bits[i] << 16);
    }
    place_dense(w, q, bits, sizeof *bits);
    free(bits);
}

/* Truncates; too large becomes the largest finite number. */
static uint16_t half_bits(float x)
{
    unsigned sign = signbit(x) ? 0x8000u : 0;
    double a = fabs((double)x);
    if (isnan(x))
        return (uint16_t)(sign | 0x7e00u);
    if (isinf(x))
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 65504)
        return (uint16_t)(sign | 0x7bffu);
    if (a < 0x1p-14)
        return (uint16_t)(sign | (unsigned)(a * 0x1p24));
    int e = ilogb(a);
    unsigned fraction = (unsigned)(ldexp(a, 10 - e)) - 1024;
    return (uint16_t)(sign | ((unsigned)(e + 15) << 10) | fraction);
}

static float half_value(uint16_t bits)
{
    int e = bits >> 10 & 31;
    int fraction = bits & 1023;
    double a = e == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, e - 25);
    if (e == 31)
        a = fraction != 0 ? NAN : INFINITY;
    return (float)(bits & 0x8000u ? -a : a);
}

void store_f16(gen_weight *w, const weight_request *q, rng *r)
{
    int64_t n = q->n_mats * matrix_size(w);
    uint16_t *bits = check_calloc((size_t)n, sizeof *bits);
    /* Bring f32 subnormals into the range of f16's, large values below its
     * largest. */
    float scale = q->values == VALUES_TINY    ? 0x1p112f
                  : q->values == VALUES_LARGE ? 0x1p-34f
                                              : 1;
    draw_dense(w->values, q, r, scale);
    for (int64_t i = 0; i < n; i++) {
        bits[i] = half_bits(w->values[i]);
        w->values[i] = half_value(bits[i]);
    }
    place_dense(w, q, bits, sizeof *bits);
    free(bits);
}

/* ---- ternary-dict ---- */

/* All-zero rows use the longest codewords, rows without zeros the shortest. */
static void draw_codes(uint8_t *dst, int64_t n, int pattern, rng *r)
{
    static const float zero_share[] = {0.885f, 0.5f, 0.99f, 0.0f};
    float zeros = zero_share[rng_below(r, 4)];
    for (int64_t i = 0; i < n; i++) {
        switch (pattern) {
        case 0:
            dst[i] = QMI_CODE_ZERO;
            break;
        case 1:
            dst[i] = QMI_CODE_LOW;
            break;
        case 2:
            dst[i] = QMI_CODE_HIGH;
            break;
        case 3:
            dst[i] = i == n - 1 ? QMI_CODE_HIGH : QMI_CODE_ZERO;
            break;
        case 4:
            dst[i] = i % 2 == 0 ? QMI_CODE_LOW : QMI_CODE_HIGH;
            break;
        default:
            dst[i] = rng_unit(r) < zeros ? QMI_CODE_ZERO
                                         : (uint8_t)(1 + rng_below(r, 2));
        }
    }
}

/* Levels are bf16; usually low <= 0 <= high, but nothing promises that. */
static void draw_levels(uint16_t levels[2], value_kind kind, rng *r)
{
    if (kind == VALUES_SPECIAL || kind == VALUES_STRUCTURED)
        kind = VALUES_RANDOM; /* levels must be finite */
    float low = draw_value(r, kind), high = draw_value(r, kind);
    if (rng_below(r, 8) != 0) {
        low = -fabsf(low);
        high = fabsf(high);
    }
    levels[0] = (uint16_t)(bits_of(low) >> 16);
    levels[1] = (uint16_t)(bits_of(high) >> 16);
}

static void expand_row(
    float *dst, const uint8_t *codes, int64_t n, const uint16_t levels[2])
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        if (codes[i] != QMI_CODE_ZERO)
            bits = (uint32_t)levels[codes[i] - QMI_CODE_LOW] << 16;
        dst[i] = from_bits(bits);
    }
}

void store_ternary_dict(gen_weight *w, const weight_request *q, rng *r)
{
    const qmi_dict *dict = qmi_dict_generic();
    size_t n_rows = (size_t)(q->n_mats * q->n_rows);
    size_t row_codes = (size_t)(q->n_cols + 1) / 2;
    uint64_t *experts = check_calloc((size_t)q->n_mats + 1, sizeof *experts);
    uint32_t *rows = check_calloc(n_rows + (size_t)q->n_mats, sizeof *rows);
    uint16_t *levels = check_calloc(n_rows, 2 * sizeof *levels);
    uint16_t *words = check_calloc(n_rows * row_codes, sizeof *words);
    uint8_t *codes = check_calloc((size_t)q->n_cols, 1);
    int first = (int)rng_below(r, 8);
    uint32_t *row_end = rows;
    uint64_t n_words = 0;
    for (size_t row = 0; row < n_rows; row++) {
        if (row % (size_t)q->n_rows == 0) {
            experts[row / (size_t)q->n_rows] = n_words;
            *row_end++ = 0;
        }
        int pattern = (first + (int)row) % (int)6;
        if (q->values != VALUES_STRUCTURED && row % 4 != 0)
            pattern = -1;
        draw_codes(codes, q->n_cols, pattern, r);
        draw_levels(levels + 2 * row, q->values, r);
        expand_row(w->values + (int64_t)row * q->n_cols, codes, q->n_cols,
            levels + 2 * row);
        n_words += qmi_dict_encode_row(dict, words + n_words, codes, q->n_cols);
        *row_end++ = (uint32_t)(n_words - experts[row / (size_t)q->n_rows]);
    }
    experts[q->n_mats] = n_words;
    const struct {
        const void *bytes;
        size_t n_bytes;
    } parts[] = {
        [QMI_TD_EXPERT_OFFSETS] = {experts,
            ((size_t)q->n_mats + 1) * sizeof *experts},
        [QMI_TD_ROW_OFFSETS] = {rows,
            (n_rows + (size_t)q->n_mats) * sizeof *rows},
        [QMI_TD_LEVELS] = {levels, n_rows * 2 * sizeof *levels},
        [QMI_TD_CODES] = {words, n_words * sizeof *words},
    };
    for (int i = 0; i < w->host.format->n_parts; i++)
        w->host.parts[i] = (qmi_part){
            weight_place(w, parts[i].bytes, parts[i].n_bytes,
                q->layout != LAYOUT_ALIGNED),
            parts[i].n_bytes,
        };
    free(experts);
    free(rows);
    free(levels);
    free(words);
    free(codes);
}

/* Row 0 seems to end far beyond all codewords. */
void corrupt_ternary_dict(gen_weight *w)
{
    const void *offsets = w->host.parts[QMI_TD_ROW_OFFSETS].data;
    uint32_t far = 0x7ffffff0;
    memcpy((uint8_t *)(uintptr_t)offsets + sizeof far, &far, sizeof far);
}

/* ---- all formats ---- */

size_t weight_kind_count(void)
{
    size_t n = 0;
    while (weight_kinds[n].name != NULL)
        n++;
    return n;
}

const weight_kind *weight_kind_at(size_t index)
{
    return index < weight_kind_count() ? &weight_kinds[index] : NULL;
}

bool weight_kind_takes(size_t k, size_t i)
{
    enum { EVERY = 4 };
    return (weight_kinds[k].traits & KIND_FEW) == 0 || (i + k) % EVERY == 0;
}

/* The generated values must come back from the stored bytes: the reference
 * operations rest on this decoder. */
static qmoe_status compare_decoded(const gen_weight *w, qmi_error *err)
{
    const qmi_weight *h = &w->host;
    float *row = check_calloc((size_t)h->n_cols, sizeof *row);
    qmoe_status status = QMOE_OK;
    for (int64_t i = 0; i < h->n_mats * h->n_rows && status == QMOE_OK; i++) {
        int64_t mat = i / h->n_rows;
        status = qmi_weight_check(h, mat, err);
        if (status != QMOE_OK)
            break;
        qmi_weight_decode(h, mat, i % h->n_rows, 1, row);
        for (int64_t c = 0; c < h->n_cols; c++) {
            float want = w->values[i * h->n_cols + c];
            if (bits_of(row[c]) == bits_of(want) ||
                (isnan(row[c]) && isnan(want)))
                continue;
            status = qmi_fail(err, QMOE_E_INTERNAL,
                "core decodes %s row %lld column %lld to %a, stored was %a",
                h->format->name, (long long)i, (long long)c, (double)row[c],
                (double)want);
            break;
        }
    }
    free(row);
    return status;
}

/* Dense weights count as checked: kernels must also do right by what is not
 * finite, which models are kept from having. */
static void add_check_marks(gen_weight *w)
{
    const qmi_weight *h = &w->host;
    if (h->format->check == NULL)
        return;
    w->host.checked = check_calloc((size_t)h->n_mats, sizeof *h->checked);
    for (int64_t m = 0; h->format->dense && m < h->n_mats; m++)
        atomic_store(&w->host.checked[m], 1);
}

gen_weight *weight_create(const weight_request *request, rng *r, qmi_error *err)
{
    gen_weight *w = check_calloc(1, sizeof *w);
    w->host.format = qmi_format_find(request->kind->format);
    w->host.name = "generated";
    w->host.n_mats = request->n_mats;
    w->host.n_rows = request->n_rows;
    w->host.n_cols = request->n_cols;
    if (w->host.format == NULL) {
        qmi_fail(err, QMOE_E_UNSUPPORTED, "core has no format '%s'",
            request->kind->format);
        weight_destroy(w);
        return NULL;
    }
    if (request->kind->rotation != 0) {
        w->host.rotation = request->kind->rotation;
        w->host.rotation_seed = (uint32_t)rng_next(r);
        w->stored = check_calloc(
            (size_t)(request->n_mats * matrix_size(w)), sizeof *w->stored);
    }
    w->values = check_calloc(
        (size_t)(request->n_mats * matrix_size(w)), sizeof *w->values);
    request->kind->store(w, request, r);
    add_check_marks(w);
    qmoe_status status = QMOE_OK;
    if (w->host.format->open != NULL)
        status = w->host.format->open(&w->host, err);
    if (status == QMOE_OK)
        status = compare_decoded(w, err);
    if (status != QMOE_OK) {
        weight_destroy(w);
        return NULL;
    }
    return w;
}

void weight_destroy(gen_weight *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < w->n_blocks; i++)
        free(w->blocks[i]);
    free(w->blocks);
    free(w->host.mats);
    free((void *)w->host.checked);
    free(w->values);
    free(w->stored);
    free(w->cols);
    free(w);
}

gen_weight *weight_clone(const gen_weight *w)
{
    gen_weight *copy = check_calloc(1, sizeof *copy);
    copy->host = w->host;
    const qmi_weight *h = &w->host;
    if (h->mats != NULL) {
        size_t n_bytes = (size_t)(h->parts[0].n_bytes / (uint64_t)h->n_mats);
        copy->host.mats =
            check_calloc((size_t)h->n_mats, sizeof *copy->host.mats);
        for (int64_t m = 0; m < h->n_mats; m++)
            copy->host.mats[m] = weight_place(copy, h->mats[m], n_bytes, false);
    } else {
        for (int i = 0; i < h->format->n_parts; i++)
            copy->host.parts[i].data = weight_place(
                copy, h->parts[i].data, (size_t)h->parts[i].n_bytes, false);
    }
    copy->host.checked = NULL;
    add_check_marks(copy);
    return copy;
}

uint64_t weight_hash(const gen_weight *w)
{
    const qmi_weight *h = &w->host;
    uint64_t hash = 0;
    if (h->mats != NULL)
        for (int64_t m = 0; m < h->n_mats; m++)
            hash = hash * 31 +
                   qmi_hash64(h->mats[m],
                       (size_t)(h->parts[0].n_bytes / (uint64_t)h->n_mats));
    else
        for (int i = 0; i < h->format->n_parts; i++)
            hash = hash * 31 +
                   qmi_hash64(h->parts[i].data, (size_t)h->parts[i].n_bytes);
    return hash;
}

void weight_forget_checks(gen_weight *w)
{
    if (w->host.checked != NULL && !w->host.format->dense)
        for (int64_t m = 0; m < w->host.n_mats; m++)
            atomic_store(&w->host.checked[m], 0);
}
