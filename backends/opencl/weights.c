/* SPDX-License-Identifier: Apache-2.0
 * Uploading of weights.  In: a stack in the file map.  Out: buffers on the
 * device and the place of each chunk, or, for a streamed stack, places that are
 * filled later.  A stack that exceeds the largest buffer of the device is cut
 * into chunks of whole matrices, a dense matrix into rows; kernels run once per
 * chunk.  Every payload is checked before the device sees it.  A failure leaves
 * a weight that qocl_weight_unbind takes. */
#include <inttypes.h>

#include "alloc.h"
#include "formats.h"
#include "stream.h"
#include "ternary_dict.h"

/* On the device: a word per entry. */
static const uint64_t dict_bytes = QMI_DICT_SIZE * sizeof(uint32_t);

static uint64_t dense_row_bytes(const qmi_weight *w)
{
    return (uint64_t)w->n_cols * qmi_dtype_bits(w->format->dtype) / 8;
}

/* Part `part` of matrices [mat, mat + n), with the offsets that say where they
 * are in a part of another. */
static qmi_part part_range(
    const qmi_weight *w, int part, int64_t mat, int64_t n)
{
    const uint8_t *data = w->parts[part].data;
    /* One more than matrices: the end of the last one. */
    if (w->format->variable && part == w->format->offsets_part)
        return (qmi_part){data + 8 * mat, 8 * ((uint64_t)n + 1)};
    return qmi_matrix_range(w, part, mat, n);
}

static uint64_t largest_part(const qmi_weight *w, int64_t mat, int64_t n)
{
    uint64_t largest = 0;
    for (int part = 0; part < w->format->n_parts; part++) {
        const qmi_part r = part_range(w, part, mat, n);
        largest = r.n_bytes > largest ? r.n_bytes : largest;
    }
    return largest;
}

static uint64_t matrix_bytes(const qmi_weight *w, int64_t mat)
{
    uint64_t n_bytes = 0;
    for (int part = 0; part < w->format->n_parts; part++)
        n_bytes += part_range(w, part, mat, 1).n_bytes;
    return n_bytes;
}

uint64_t qocl_matrix_bytes(const qmi_bound_weight *weight, int64_t mat)
{
    return matrix_bytes(weight->host, mat);
}

bool qocl_is_streamed(const qmi_bound_weight *weight)
{
    return ((const qocl_weight *)weight->device)->entries != NULL;
}

bool qocl_has_vector(const qmi_bound_weight *weight)
{
    return weight == NULL ||
           ((const qocl_weight *)weight->device)->vector != NULL;
}

/* ---- the plan ---- */

typedef struct demand {
    /* What stays for good, what may come and go. */
    uint64_t fixed, experts, largest; /* bytes; largest: of one matrix */
} demand;

static demand demand_of(const qmi_device_options *o)
{
    demand d = {0};
    bool has_dict = false;
    for (size_t i = 0; i < o->n_weights; i++) {
        const qmi_weight *w = &o->weights[i];
        const uint64_t n_bytes = qmi_weight_bytes(w);
        if (!qocl_has_format(w->format))
            continue; /* refused when it is bound */
        /* One for all weights that share the generic one, one for each own. */
        if (w->format->needs_dictionary && (w->codebook != NULL || !has_dict)) {
            has_dict = has_dict || w->codebook == NULL;
            d.fixed += dict_bytes;
        }
        if (w->n_mats == 1 && w->n_rows == 1)
            d.fixed += (uint64_t)w->n_cols * sizeof(float);
        if (w->role != QMOE_ROLE_EXPERTS) {
            d.fixed += n_bytes;
            continue;
        }
        d.experts += n_bytes;
        for (int64_t m = 0; m < w->n_mats; m++) {
            const uint64_t one = matrix_bytes(w, m);
            d.largest = one > d.largest ? one : d.largest;
        }
    }
    return d;
}

/* A part of the memory is for activations. */
enum { ACTIVATION_SHARE = 16 };

qmoe_status qocl_plan(
    qmi_device *device, const qmi_device_options *options, qmi_error *err)
{
    qocl_limits *limits = &device->limits;
    if (options->memory_bytes != 0) {
        limits->has_budget = true;
        if (options->memory_bytes < limits->memory)
            limits->memory = options->memory_bytes;
    }
    device->streams = limits->stream_all;
    /* Where the device works in the host's memory, a copy would only cost: no
     * bound is asked for, so none is counted. */
    device->zero_copy =
        limits->is_unified && !limits->has_budget && !limits->stream_all;
    if (device->zero_copy)
        return QMOE_OK;
    const demand d = demand_of(options);
    /* One matrix works while the next one comes. */
    const uint64_t least = d.fixed + 2 * d.largest;
    const uint64_t room = limits->memory - limits->memory / ACTIVATION_SHARE;
    /* Refused before anything is uploaded. */
    if (least > room)
        return qmi_fail(err, QMOE_E_NOMEM,
            "OpenCL device '%s': needs %" PRIu64 " bytes for what is not an "
            "expert and two experts' matrices, %" PRIu64 " of %" PRIu64
            " are available for weights",
            device->name, least, room, limits->memory);
    /* All experts or none: which of them a run needs is not known. */
    if (d.experts > room - d.fixed)
        device->streams = true;
    return QMOE_OK;
}

/* ---- chunks ---- */

static qocl_chunk *add_chunk(qocl_weight *w, qmi_error *err)
{
    qocl_chunk *grown = qmi_regrow(w->chunks, w->n_chunks, w->n_chunks + 1,
        sizeof *grown, "a weight's chunks", err);
    if (grown == NULL)
        return NULL;
    w->chunks = grown;
    return &grown[w->n_chunks++];
}

/* Weights are used where they lie when the device shares the host's memory and
 * the place suits every vector its kernels load. */
static bool use_in_place(
    cl_mem *mem, qmi_device *device, const qmi_part *r, uint64_t *n_bytes)
{
    /* The widest vector that kernels load. */
    enum { ALIGNMENT = 64 };
    cl_int status;
    if (!device->zero_copy || r->data == NULL || r->n_bytes == 0 ||
        (uintptr_t)r->data % ALIGNMENT != 0)
        return false;
    *mem = qmi_cl.CreateBuffer(device->context,
        CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR, (size_t)r->n_bytes,
        (void *)(uintptr_t)r->data, &status);
    /* A driver that cannot is no reason to fail: the bytes are copied. */
    if (status != CL_SUCCESS)
        *mem = NULL;
    *n_bytes = 0; /* nothing of the device's */
    return status == CL_SUCCESS;
}

static qmoe_status upload_range(qmi_device *device, const qmi_weight *host,
    qocl_chunk *chunk, int part, qmi_part r, cl_event *uploaded, qmi_error *err)
{
    cl_mem *mem = &chunk->parts[part];
    /* Nothing is allocated, so nothing is counted. */
    if (use_in_place(mem, device, &r, &chunk->n_bytes[part]))
        return QMOE_OK;
    QMI_TRY(qocl_alloc(mem, device, r.n_bytes, host->name, err));
    chunk->n_bytes[part] = r.n_bytes;
    /* A streamed matrix: its bytes stay in the map, so nobody waits. */
    if (uploaded != NULL && chunk->n_mats == 1) {
        const void *data =
            r.data != NULL ? r.data : qmi_weight_dense(host, chunk->first_mat);
        return qocl_upload_later(device, *mem, data, r.n_bytes, uploaded, err);
    }
    /* Back to back in the file: one copy. */
    if (r.data != NULL)
        return qocl_upload(device, *mem, 0, r.data, r.n_bytes, err);
    /* Scattered matrices become neighbours on the device. */
    const uint64_t each = r.n_bytes / (uint64_t)chunk->n_mats;
    for (int i = 0; i < chunk->n_mats; i++)
        QMI_TRY(qocl_upload(device, *mem, (uint64_t)i * each,
            qmi_weight_dense(host, chunk->first_mat + i), each, err));
    return QMOE_OK;
}

/* What was made before a failure is the caller's to release. */
qmoe_status qocl_chunk_fill(qocl_chunk *chunk, qmi_device *device,
    const qmi_bound_weight *weight, int64_t mat, int64_t n, cl_event *uploaded,
    qmi_error *err)
{
    const qmi_weight *host = weight->host;
    *chunk = (qocl_chunk){
        .first_mat = (int)mat, .n_mats = (int)n, .n_rows = (int)host->n_rows};
    for (int part = 0; part < host->format->n_parts; part++)
        QMI_TRY(upload_range(device, host, chunk, part,
            part_range(host, part, mat, n), uploaded, err));
    return QMOE_OK;
}

void qocl_chunk_release(qmi_device *device, qocl_chunk *chunk)
{
    for (int part = 0; part < QMI_MAX_PARTS; part++)
        qocl_release(device, chunk->parts[part], chunk->n_bytes[part]);
    *chunk = (qocl_chunk){0};
}

/* Rows of one dense matrix that is larger than a buffer. */
static qmoe_status upload_rows(qmi_device *device, const qmi_weight *host,
    qocl_weight *w, int64_t mat, qmi_error *err)
{
    const uint64_t row_bytes = dense_row_bytes(host);
    const int64_t most = (int64_t)(device->limits.max_chunk / row_bytes);
    if (most < 1)
        return qmi_fail(err, QMOE_E_DEVICE,
            "OpenCL device '%s': a row of '%s' needs %" PRIu64
            " bytes, a buffer holds %" PRIu64,
            device->name, host->name, row_bytes, device->limits.max_chunk);
    const uint8_t *data = qmi_weight_dense(host, mat);
    /* Chunks of the same matrix: kernels write the rows that each has. */
    for (int64_t row = 0; row < host->n_rows; row += most) {
        const int64_t n = host->n_rows - row < most ? host->n_rows - row : most;
        qocl_chunk *chunk = add_chunk(w, err);
        if (chunk == NULL)
            return QMOE_E_NOMEM;
        chunk->first_mat = (int)mat;
        chunk->n_mats = 1;
        chunk->first_row = (int)row;
        chunk->n_rows = (int)n;
        const qmi_part r = {
            data + (uint64_t)row * row_bytes, (uint64_t)n * row_bytes};
        QMI_TRY(upload_range(device, host, chunk, 0, r, NULL, err));
    }
    return QMOE_OK;
}

static qmoe_status upload_chunks(
    qmi_device *device, const qmi_bound_weight *weight, qmi_error *err)
{
    const qmi_weight *host = weight->host;
    qocl_weight *w = weight->device;
    const uint64_t limit = device->limits.max_chunk;
    int64_t n = 1;
    /* As many matrices as fit a buffer, at least one. */
    for (int64_t m = 0; m < host->n_mats; m += n) {
        n = 1;
        const uint64_t one = largest_part(host, m, 1);
        if (one > limit && host->format->dense) {
            QMI_TRY(upload_rows(device, host, w, m, err));
            continue;
        }
        if (one > limit)
            return qmi_fail(err, QMOE_E_DEVICE,
                "OpenCL device '%s': matrix %" PRId64 " of '%s' needs %" PRIu64
                " bytes, a buffer holds %" PRIu64,
                device->name, m, host->name, one, limit);
        /* The size of a range is not linear in formats of variable size, so it
         * is asked for anew. */
        while (m + n < host->n_mats && largest_part(host, m, n + 1) <= limit)
            n++;
        qocl_chunk *chunk = add_chunk(w, err);
        if (chunk == NULL)
            return QMOE_E_NOMEM;
        QMI_TRY(qocl_chunk_fill(chunk, device, weight, m, n, NULL, err));
    }
    return QMOE_OK;
}

/* ---- the dictionary ---- */

/* The word of the kernels (ternary_dict.cl): pairs in 4 bits, then three times
 * position and code. */
static uint32_t pack_entry(const qmi_dict_entry *e)
{
    uint32_t word = e->n_weights / 2u;
    for (unsigned k = 0; k < QMI_DICT_MAX_NONZEROS; k++)
        word |= (e->position[k] | (uint32_t)e->code[k] << 5) << (4 + 7 * k);
    return word;
}

static qmoe_status upload_dict(
    cl_mem *out, qmi_device *device, const qmi_dict *dict, qmi_error *err)
{
    const uint64_t n_bytes = dict_bytes;
    if (dict == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: the dictionary");
    uint32_t *words =
        qmi_calloc(QMI_DICT_SIZE, sizeof *words, "the dictionary", err);
    if (words == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < QMI_DICT_SIZE; i++)
        words[i] = pack_entry(&dict->entries[i]);
    qmoe_status status =
        qocl_alloc(out, device, n_bytes, "the dictionary", err);
    if (status == QMOE_OK)
        status = qocl_upload(device, *out, 0, words, n_bytes, err);
    qmi_free(words);
    return status;
}

static qmoe_status set_dict(
    qmi_device *device, const qmi_weight *host, qocl_weight *w, qmi_error *err)
{
    if (host->codebook != NULL) {
        w->own_dict = true;
        return upload_dict(&w->dict, device, host->codebook, err);
    }
    /* The first weight that uses it pays. */
    if (device->generic_dict == NULL)
        QMI_TRY(upload_dict(
            &device->generic_dict, device, qmi_dict_generic(), err));
    w->dict = device->generic_dict;
    return QMOE_OK;
}

/* ---- binding ---- */

/* Norm weights, biases and sinks are read as f32 whatever their format. */
static qmoe_status upload_vector(
    qmi_device *device, const qmi_weight *host, qocl_weight *w, qmi_error *err)
{
    const uint64_t n_bytes = (uint64_t)host->n_cols * sizeof(float);
    float *values =
        qmi_calloc((size_t)host->n_cols, sizeof *values, host->name, err);
    if (values == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(host, 0, 0, 1, values);
    qmoe_status status =
        qocl_alloc(&w->vector, device, n_bytes, host->name, err);
    w->vector_bytes = n_bytes;
    if (status == QMOE_OK)
        status = qocl_upload(device, w->vector, 0, values, n_bytes, err);
    qmi_free(values);
    return status;
}

/* A stack whose matrices come when they are needed. */
static bool is_to_stream(const qmi_device *device, const qmi_weight *host)
{
    return device->streams && host->n_mats > 1 &&
           (host->role == QMOE_ROLE_EXPERTS || device->limits.stream_all);
}

static qmoe_status upload_matrices(
    qmi_device *device, const qmi_bound_weight *weight, qmi_error *err)
{
    const qmi_weight *host = weight->host;
    qocl_weight *w = weight->device;
    if (is_to_stream(device, host)) {
        /* Places only: matrices are checked and uploaded when they are
         * needed. */
        w->entries = qocl_entries_create((size_t)host->n_mats, err);
        return w->entries != NULL ? QMOE_OK : QMOE_E_NOMEM;
    }
    /* The device cannot validate: everything is checked before. */
    for (int64_t m = 0; m < host->n_mats; m++)
        QMI_TRY(qmi_weight_check(host, m, err));
    return upload_chunks(device, weight, err);
}

static qmoe_status upload(
    qmi_device *device, const qmi_bound_weight *weight, qmi_error *err)
{
    const qmi_weight *host = weight->host;
    qocl_weight *w = weight->device;
    QMI_TRY(upload_matrices(device, weight, err));
    if (host->n_mats == 1 && host->n_rows == 1)
        QMI_TRY(upload_vector(device, host, w, err));
    if (host->format->needs_dictionary)
        QMI_TRY(set_dict(device, host, w, err));
    w->tile_bytes = qocl_tile_bytes(host);
    /* Both programs now: a compiler's failure should come when a model is
     * opened. */
    QMI_TRY(qocl_build(device, qocl_format_program(w->format, false), err));
    return qocl_build(device, qocl_format_program(w->format, true), err);
}

qmoe_status qocl_weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err)
{
    const qmi_format_id format = host->format->id;
    *out = (qmi_bound_weight){0};
    if (!qocl_has_format(host->format) || host->n_mats > INT32_MAX ||
        host->n_rows > INT32_MAX - 64 || host->n_cols > INT32_MAX - 64)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "backend opencl has no kernels for '%s' in format %s, [%" PRId64
            ", %" PRId64 ", %" PRId64 "]",
            host->name, host->format->name, host->n_mats, host->n_rows,
            host->n_cols);
    qocl_weight *w = qmi_calloc(1, sizeof *w, "a weight", err);
    if (w == NULL)
        return QMOE_E_NOMEM;
    w->format = format;
    qmi_bound_weight bound = {.host = host, .device = w};
    qmoe_status status = upload(device, &bound, err);
    /* Once per format and device: the programs are the same for every
     * weight. */
    if (status == QMOE_OK && !device->tested[format]) {
        status = qocl_test_weight(device, &bound, err);
        device->tested[format] = status == QMOE_OK;
    }
    if (status != QMOE_OK) {
        qocl_weight_unbind(device, &bound);
        return status;
    }
    *out = bound;
    return QMOE_OK;
}

void qocl_weight_unbind(qmi_device *device, qmi_bound_weight *weight)
{
    qocl_weight *w = weight->device;
    const int64_t n_mats = weight->host != NULL ? weight->host->n_mats : 0;
    *weight = (qmi_bound_weight){0};
    if (w == NULL)
        return;
    /* A stack has chunks or entries, never both. */
    for (size_t i = 0; i < w->n_chunks; i++)
        qocl_chunk_release(device, &w->chunks[i]);
    qocl_entries_destroy(device, w->entries, (size_t)n_mats);
    qocl_release(device, w->vector, w->vector_bytes);
    /* The generic one is the device's. */
    if (w->own_dict)
        qocl_release(device, w->dict, dict_bytes);
    qmi_free(w->chunks);
    qmi_free(w);
}
