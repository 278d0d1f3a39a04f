/* SPDX-License-Identifier: Apache-2.0
 * Uploading of weights.  In: the stored parts of a stack, in the file map.
 * Out: the same bytes in device memory, each part in one block, and a
 * description for kernels.  The payload of every matrix is checked before it is
 * uploaded, since kernels trust what they read.  A failure frees what was
 * allocated. */
#include "formats.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "ternary_dict.h"

enum { MAX_TABLE = 256 }; /* values of a format's table */

/* ---- parts ---- */

static qmoe_status upload_scattered(qmi_device *device, const qmi_weight *host,
    qmi_buffer *part, qmi_error *err)
{
    const uint64_t each = qmi_dense_bytes(host);
    /* One, when all matrices are the same bytes. */
    const int64_t n = qcuda_distinct_mats(host);
    QMI_TRY(qcuda_alloc(part, device, each * (uint64_t)n, host->name, err));
    for (int64_t mat = 0; mat < n; mat++)
        QMI_TRY(qcuda_upload(device, (char *)part->data + (uint64_t)mat * each,
            qmi_weight_dense(host, mat), each, err));
    return QMOE_OK;
}

/* Kernels read what is stored: nothing is converted. */
static qmoe_status upload_parts(
    qmi_device *device, const qmi_weight *host, qcuda_weight *w, qmi_error *err)
{
    if (host->format->dense && host->mats != NULL)
        return upload_scattered(device, host, &w->parts[0], err);
    for (int i = 0; i < host->format->n_parts; i++) {
        const qmi_part *part = &host->parts[i];
        QMI_TRY(
            qcuda_alloc(&w->parts[i], device, part->n_bytes, host->name, err));
        QMI_TRY(qcuda_upload(
            device, w->parts[i].data, part->data, part->n_bytes, err));
    }
    return QMOE_OK;
}

/* ---- planning ---- */

/* As bind allocates, block by block, rounded as the driver does. */
static uint64_t device_bytes(const qmi_weight *host)
{
    uint64_t n = 0;
    if (host->format->dense && host->mats != NULL)
        n = qcuda_block_bytes(
            (uint64_t)qcuda_distinct_mats(host) * qmi_dense_bytes(host));
    else
        for (int i = 0; i < host->format->n_parts; i++)
            n += qcuda_block_bytes(host->parts[i].n_bytes);
    if (host->n_mats == 1 && host->n_rows == 1)
        n += qcuda_block_bytes((uint64_t)host->n_cols * sizeof(float));
    if (host->codebook != NULL)
        n += qcuda_block_bytes(QMI_DICT_SIZE * sizeof(uint32_t));
    int n_values;
    if (qcuda_format_table(&n_values, host->format) != NULL)
        n += qcuda_block_bytes((uint64_t)n_values * sizeof(uint16_t));
    return n;
}

/* The generic dictionary is counted even if no weight uses it: a small error on
 * the safe side. */
qmoe_status qcuda_weights_plan(qmi_device *device, const qmi_weight *weights,
    size_t n, bool with_experts, qmi_error *err)
{
    uint64_t needed = QMI_DICT_SIZE * sizeof(uint32_t), available = 0;
    for (size_t i = 0; i < n; i++)
        if (with_experts || weights[i].role != QMOE_ROLE_EXPERTS)
            needed += device_bytes(&weights[i]);
    QMI_TRY(qcuda_available(&available, device, err));
    if (needed <= available)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_NOMEM,
        "CUDA device '%s': the weights need %" PRIu64 " bytes, %" PRIu64
        " are free",
        device->info.name, needed, available);
}

/* ---- the dictionary ---- */

/* The non-zero weights of a codeword in 32 bits (args.h), which is half of what
 * the reference's table takes. */
static uint32_t dict_word(const qmi_dict_entry *entry)
{
    uint32_t word = entry->n_weights;
    for (int i = 0; i < entry->n_nonzeros; i++) {
        const uint32_t one = entry->position[i] | (uint32_t)entry->code[i] << 5;
        word |= one << (QCUDA_DICT_COUNT_BITS + i * QCUDA_DICT_ENTRY_BITS);
    }
    return word;
}

static qmoe_status upload_dict(
    qmi_device *device, qmi_buffer *out, const qmi_dict *dict, qmi_error *err)
{
    uint32_t *words =
        qmi_calloc(QMI_DICT_SIZE, sizeof *words, "the dictionary", err);
    if (words == NULL)
        return QMOE_E_NOMEM;
    for (int i = 0; i < QMI_DICT_SIZE; i++)
        words[i] = dict_word(&dict->entries[i]);
    const uint64_t n_bytes = QMI_DICT_SIZE * sizeof *words;
    qmoe_status status =
        qcuda_alloc(out, device, n_bytes, "the dictionary", err);
    if (status == QMOE_OK)
        status = qcuda_upload(device, out->data, words, n_bytes, err);
    qmi_free(words);
    return status;
}

/* The generic dictionary is one for all weights of a device. */
static qmoe_status bind_dict(
    qmi_device *device, const qmi_weight *host, qcuda_weight *w, qmi_error *err)
{
    const qmi_dict *dict = host->codebook;
    qmi_buffer *place = dict != NULL ? &w->dict : &device->generic_dict;
    if (dict == NULL)
        dict = qmi_dict_generic();
    if (dict == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: the dictionary");
    /* The first weight that uses it pays. */
    if (place->data == NULL)
        QMI_TRY(upload_dict(device, place, dict, err));
    w->stack.dict = place->data;
    return QMOE_OK;
}

/* ---- the table of a format ---- */

/* Integers of 8 bits are exact in bf16. */
static uint16_t table_value(int8_t value)
{
    const float wide = value;
    uint32_t bits;
    memcpy(&bits, &wide, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static qmoe_status bind_table(
    qmi_device *device, const qmi_weight *host, qcuda_weight *w, qmi_error *err)
{
    uint16_t values[MAX_TABLE];
    int n;
    const int8_t *table = qcuda_format_table(&n, host->format);
    if (table == NULL)
        return QMOE_OK;
    assert(n <= MAX_TABLE);
    for (int i = 0; i < n; i++)
        values[i] = table_value(table[i]);
    const uint64_t n_bytes = (uint64_t)n * sizeof *values;
    QMI_TRY(qcuda_alloc(&w->dict, device, n_bytes, "a table", err));
    w->stack.table = w->dict.data;
    return qcuda_upload(device, w->dict.data, values, n_bytes, err);
}

/* ---- binding ---- */

/* Formats fill in the rest: which part lies where. */
static void describe(qcuda_weight *w, const qmi_weight *host)
{
    qcuda_stack *s = &w->stack;
    s->n_mats = (int32_t)host->n_mats;
    s->n_rows = (int32_t)host->n_rows;
    s->n_cols = (int32_t)host->n_cols;
    s->rotation = host->rotation;
    s->rotation_seed = host->rotation_seed;
    qcuda_format_of(s->format)->describe(s, w->parts, host);
}

/* A single row is kept decoded too: what a norm multiplies by. */
static qmoe_status bind_vector(
    qmi_device *device, const qmi_weight *host, qcuda_weight *w, qmi_error *err)
{
    if (host->n_mats != 1 || host->n_rows != 1)
        return QMOE_OK;
    float *row = qmi_calloc((size_t)host->n_cols, sizeof *row, "a row", err);
    if (row == NULL)
        return QMOE_E_NOMEM;
    const uint64_t n_bytes = (uint64_t)host->n_cols * sizeof *row;
    qmi_weight_decode(host, 0, 0, 1, row);
    qmoe_status status =
        qcuda_alloc(&w->vector_buffer, device, n_bytes, host->name, err);
    if (status == QMOE_OK)
        status = qcuda_upload(device, w->vector_buffer.data, row, n_bytes, err);
    w->vector = w->vector_buffer.data;
    qmi_free(row);
    return status;
}

static qmoe_status bind(
    qmi_device *device, const qmi_weight *host, qcuda_weight *w, qmi_error *err)
{
    /* Kernels trust what they read. */
    for (int64_t mat = 0; mat < host->n_mats; mat++)
        QMI_TRY(qmi_weight_check(host, mat, err));
    QMI_TRY(upload_parts(device, host, w, err));
    describe(w, host);
    if (host->format->needs_dictionary)
        QMI_TRY(bind_dict(device, host, w, err));
    QMI_TRY(bind_table(device, host, w, err));
    return bind_vector(device, host, w, err);
}

qmoe_status qcuda_weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err)
{
    *out = (qmi_bound_weight){0};
    /* Kernels count in 32 bits; the margins are those of padded rows and
     * columns. */
    if (qcuda_format_of((int32_t)host->format->id) == NULL ||
        host->n_mats >= INT32_MAX || host->n_rows > INT32_MAX - 64 ||
        host->n_cols > INT32_MAX - 2048)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "backend %s has no kernels for '%s' in format %s, [%" PRId64
            ", %" PRId64 ", %" PRId64 "]",
            qdrv_backend_name, host->name, host->format->name, host->n_mats,
            host->n_rows, host->n_cols);
    qcuda_weight *w = qmi_calloc(1, sizeof *w, "a weight", err);
    if (w == NULL)
        return QMOE_E_NOMEM;
    w->stack.format = (int32_t)host->format->id;
    qmi_bound_weight bound = {.host = host, .device = w};
    qmoe_status status = bind(device, host, w, err);
    /* Unbinding accepts what was bound halfway. */
    if (status != QMOE_OK) {
        qcuda_weight_unbind(device, &bound);
        return status;
    }
    *out = bound;
    return QMOE_OK;
}

void qcuda_weight_unbind(qmi_device *device, qmi_bound_weight *weight)
{
    qcuda_weight *w = weight->device;
    *weight = (qmi_bound_weight){0};
    if (w == NULL)
        return;
    for (int i = 0; i < QMI_MAX_PARTS; i++)
        qcuda_release(device, &w->parts[i]);
    qcuda_release(device, &w->vector_buffer);
    qcuda_release(device, &w->dict);
    qmi_free(w);
}
