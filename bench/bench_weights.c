/* SPDX-License-Identifier: Apache-2.0
 * Stacks for timing (bench_weights.h): one random matrix per stack, repeated at
 * other addresses, because making one is much slower than using it.  In: a
 * format, a shape, a number of matrices or of bytes.  Out: a stack that passes
 * the format's own checks.  The generator has a fixed seed, so every run times
 * the same bytes. */
#include "bench_weights.h"

#include <string.h>

#include "alloc.h"
#include "int8.h"
#include "pvq.h"
#include "q2.h"
#include "tlut.h"
#include "ternary_dict.h"

/* xorshift64 (Marsaglia 2003): fast, and good enough for data nobody looks
 * at. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* 2^-5 <= |value| < 2^-4, a random sign, 7 random bits. */
static uint16_t random_bf16(uint64_t *state)
{
    return (uint16_t)((next_random(state) >> 40 & 0x807f) | 0x3d00);
}

/* n_mats repetitions of a part of `n_bytes`. */
static qmoe_status repeat(qmi_bench_stack *s, int part, const void *data,
    size_t n_bytes, qmi_error *err)
{
    const size_t n_mats = (size_t)s->weight.n_mats;
    if (s->copies == QMI_BENCH_ALIASED) {
        QMI_TRY(qmi_bench_repeat_make(
            &s->repeats[part], data, n_bytes, n_mats, err));
        s->weight.parts[part] =
            (qmi_part){s->repeats[part].data, n_mats * n_bytes};
        return QMOE_OK;
    }
    uint8_t *block = qmi_calloc(n_mats, n_bytes, "matrices to time", err);
    if (block == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n_mats; i++)
        memcpy(block + i * n_bytes, data, n_bytes);
    s->blocks[part] = block;
    s->weight.parts[part] = (qmi_part){block, n_mats * n_bytes};
    return QMOE_OK;
}

static void count_mats(qmi_bench_stack *s, size_t mat_bytes, uint64_t n_bytes)
{
    if (s->weight.n_mats != 0)
        return; /* given */
    s->weight.n_mats = (int64_t)((n_bytes + mat_bytes - 1) / mat_bytes);
    /* Two at least: a cold product takes another matrix than the one before. */
    if (s->weight.n_mats < 2)
        s->weight.n_mats = 2;
}

static qmoe_status make_dense(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    qmi_weight *w = &s->weight;
    const size_t n = (size_t)(w->n_rows * w->n_cols);
    const size_t size = qmi_dtype_bits(w->format->dtype) / 8;
    uint8_t *data = qmi_calloc(n, size, "a matrix to time", err);
    if (data == NULL)
        return QMOE_E_NOMEM;
    /* The high half of an f32 is a bf16; f16 gets other values. */
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = random_bf16(random);
        memcpy(data + i * size + size - 2, &half, sizeof half);
    }
    count_mats(s, n * size, n_bytes);
    qmoe_status status = repeat(s, 0, data, n * size, err);
    qmi_free(data);
    return status;
}

/* Random codes, of which any bytes are some, and random bf16 values. */
static qmoe_status make_coded(qmi_bench_stack *s, int codes_part,
    size_t n_codes, int values_part, size_t n_values, uint64_t n_bytes,
    uint64_t *random, qmi_error *err)
{
    const size_t n_tail = n_values * 2;
    uint8_t *data = qmi_calloc(n_codes + n_tail, 1, "a matrix to time", err);
    if (data == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n_codes; i++)
        data[i] = (uint8_t)(next_random(random) >> 32);
    for (size_t i = 0; i < n_tail; i += 2) {
        const uint16_t value = random_bf16(random);
        memcpy(data + n_codes + i, &value, sizeof value);
    }
    count_mats(s, n_codes + n_tail, n_bytes);
    qmoe_status status = repeat(s, codes_part, data, n_codes, err);
    if (status == QMOE_OK)
        status = repeat(s, values_part, data + n_codes, n_tail, err);
    qmi_free(data);
    return status;
}

static qmoe_status make_pvq(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    const qmi_weight *w = &s->weight;
    const qmi_pvq_shape shape =
        qmi_pvq_shape_of(qmi_pvq_width(w->format), w->n_rows, w->n_cols);
    return make_coded(s, QMI_PVQ_CODES,
        (size_t)shape.n_tiles * shape.tile_bytes, QMI_PVQ_SCALES,
        (size_t)w->n_rows, n_bytes, random, err);
}

static qmoe_status make_q2(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    const qmi_weight *w = &s->weight;
    return make_coded(s, QMI_Q2_CODES,
        (size_t)(w->n_rows * qmi_q2_row_bytes(w->n_cols)), QMI_Q2_LEVELS,
        (size_t)w->n_rows * QMI_Q2_VALUES, n_bytes, random, err);
}

static qmoe_status make_int8(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    const qmi_weight *w = &s->weight;
    return make_coded(s, QMI_INT8_CODES, (size_t)(w->n_rows * w->n_cols),
        QMI_INT8_SCALES, (size_t)w->n_rows, n_bytes, random, err);
}

static qmoe_status make_tlut(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    const qmi_weight *w = &s->weight;
    const qmi_tlut_shape shape =
        qmi_tlut_shape_of(qmi_tlut_rate_of(w->format), w->n_rows, w->n_cols);
    const size_t n_cols = (size_t)w->n_cols;
    QMI_TRY(
        make_coded(s, QMI_TLUT_CODES, (size_t)shape.n_tiles * shape.tile_bytes,
            QMI_TLUT_SCALES, (size_t)w->n_rows, n_bytes, random, err));
    uint16_t *cols = qmi_calloc(n_cols, sizeof *cols, "column scales", err);
    if (cols == NULL)
        return QMOE_E_NOMEM;
    for (size_t c = 0; c < n_cols; c++)
        cols[c] = random_bf16(random);
    const qmoe_status status = repeat(
        s, QMI_TLUT_COL_SCALES, (uint8_t *)cols, n_cols * sizeof *cols, err);
    qmi_free(cols);
    return status;
}

/* Rows of one matrix: codewords, row offsets, levels. */
static size_t encode_rows(const qmi_weight *w, uint64_t *random,
    uint16_t *words, uint32_t *offsets, uint16_t *levels, uint8_t *codes)
{
    size_t n = 0;
    for (int64_t r = 0; r < w->n_rows; r++) {
        offsets[r] = (uint32_t)n;
        /* The zero rate of the paper's models. */
        for (int64_t c = 0; c < w->n_cols; c++) {
            const uint64_t draw = next_random(random) >> 32;
            /* The two non-zero levels are equally likely. */
            codes[c] = draw % 1000 < 885 ? 0 : (uint8_t)(1 + (draw >> 30 & 1));
        }
        n += qmi_dict_encode_row(
            qmi_dict_generic(), words + n, codes, w->n_cols);
        /* One level below and one above zero, as real rows have them. */
        levels[2 * r] = random_bf16(random) | 0x8000;
        levels[2 * r + 1] = random_bf16(random) & 0x7fff;
    }
    offsets[w->n_rows] = (uint32_t)n;
    return n;
}

static qmoe_status make_ternary_dict(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    qmi_weight *w = &s->weight;
    const size_t n_rows = (size_t)w->n_rows, n_cols = (size_t)w->n_cols;
    uint16_t *words =
        qmi_calloc(n_rows * ((n_cols + 1) / 2), 2, "codewords", err);
    uint32_t *offsets = qmi_calloc(n_rows + 1, 4, "row offsets", err);
    uint16_t *levels = qmi_calloc(n_rows, 4, "levels", err);
    uint8_t *codes = qmi_calloc(n_cols, 1, "a row", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (words == NULL || offsets == NULL || levels == NULL || codes == NULL)
        goto cleanup;
    const size_t n = encode_rows(w, random, words, offsets, levels, codes);
    /* The codewords decide the size, so matrices are counted after the
     * encoding. */
    count_mats(s, 2 * n + 4 * (n_rows + 1) + 4 * n_rows, n_bytes);
    uint64_t *experts =
        qmi_calloc((size_t)w->n_mats + 1, sizeof *experts, "offsets", err);
    if (experts == NULL)
        goto cleanup;
    /* All matrices have as many codewords: they are the same. */
    for (int64_t i = 0; i <= w->n_mats; i++)
        experts[i] = (uint64_t)i * n;
    /* Owned by the stack from here on; the rest is copied. */
    s->blocks[QMI_TD_EXPERT_OFFSETS] = experts;
    w->parts[QMI_TD_EXPERT_OFFSETS] =
        (qmi_part){experts, ((size_t)w->n_mats + 1) * sizeof *experts};
    status = repeat(s, QMI_TD_CODES, words, 2 * n, err);
    if (status == QMOE_OK)
        status = repeat(s, QMI_TD_ROW_OFFSETS, offsets, 4 * (n_rows + 1), err);
    if (status == QMOE_OK)
        status = repeat(s, QMI_TD_LEVELS, levels, 4 * n_rows, err);
cleanup:
    qmi_free(codes);
    qmi_free(levels);
    qmi_free(offsets);
    qmi_free(words);
    return status;
}

/* By format id: how random codes of a format are made. */
typedef qmoe_status make_fn(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err);
static make_fn *const makers[QMI_N_FORMATS] = {
    [QMI_FORMAT_PVQ] = make_pvq,
    [QMI_FORMAT_PVQ8] = make_pvq,
    [QMI_FORMAT_TERNARY_DICT] = make_ternary_dict,
    [QMI_FORMAT_Q2] = make_q2,
#define X(name, text) [QMI_FORMAT_TLUT_##name] = make_tlut,
    QMI_TLUT_MAP(X)
#undef X
        [QMI_FORMAT_INT8] = make_int8,
    [QMI_FORMAT_BF16] = make_dense,
    [QMI_FORMAT_F16] = make_dense,
    [QMI_FORMAT_F32] = make_dense,
};

static qmoe_status make(
    qmi_bench_stack *s, uint64_t n_bytes, uint64_t *random, qmi_error *err)
{
    const qmi_format *format = s->weight.format;
    if (format->id < QMI_N_FORMATS && makers[format->id] != NULL)
        return makers[format->id](s, n_bytes, random, err);
    return qmi_fail(err, QMOE_E_UNSUPPORTED, "no matrices to time in format %s",
        format->name);
}

static qmoe_status make_stack(qmi_bench_stack *out, const qmi_weight *shape,
    uint64_t n_bytes, qmi_bench_copies copies, qmi_error *err)
{
    /* The golden ratio's bits: any number but 0 would do. */
    uint64_t random = 0x9e3779b97f4a7c15;
    const qmi_format *format = shape->format;
    *out = (qmi_bench_stack){.weight = *shape, .copies = copies};
    qmoe_status status = make(out, n_bytes, &random, err);
    if (status == QMOE_OK && format->check != NULL) {
        out->weight.checked =
            qmi_calloc((size_t)out->weight.n_mats, 1, "check marks", err);
        status = out->weight.checked == NULL
                     ? QMOE_E_NOMEM
                     : qmi_weight_check(&out->weight, 0, err);
    }
    /* The others are copies; validating them must not be part of a timing. */
    if (status == QMOE_OK && format->check != NULL)
        for (int64_t i = 1; i < out->weight.n_mats; i++)
            atomic_store(&out->weight.checked[i], 1);
    if (status != QMOE_OK)
        qmi_bench_stack_free(out);
    return status;
}

qmoe_status qmi_bench_stack_make(qmi_bench_stack *out, const qmi_format *format,
    int64_t n_rows, int64_t n_cols, uint64_t n_bytes, qmi_bench_copies copies,
    qmi_error *err)
{
    const qmi_weight shape = {
        .format = format, .name = "timed", .n_rows = n_rows, .n_cols = n_cols};
    return make_stack(out, &shape, n_bytes, copies, err);
}

qmoe_status qmi_bench_stack_make_count(qmi_bench_stack *out,
    const qmi_format *format, int64_t n_rows, int64_t n_cols, int64_t n_mats,
    qmi_bench_copies copies, qmi_error *err)
{
    const qmi_weight shape = {.format = format,
        .name = "timed",
        .n_mats = n_mats,
        .n_rows = n_rows,
        .n_cols = n_cols};
    return make_stack(out, &shape, 0, copies, err);
}

void qmi_bench_stack_free(qmi_bench_stack *stack)
{
    for (int i = 0; i < QMI_MAX_PARTS; i++) {
        qmi_free(stack->blocks[i]);
        qmi_bench_repeat_free(&stack->repeats[i]);
    }
    qmi_free((void *)stack->weight.checked);
    *stack = (qmi_bench_stack){0};
}
