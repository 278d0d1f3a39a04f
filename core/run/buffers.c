/* SPDX-License-Identifier: Apache-2.0
 * Comes in: how much room is needed.  Goes out: a buffer of a device with at
 * least that much. n_bytes of a growing buffer is what its buffer holds;
 * buffers never shrink by themselves, so after the longest pass nothing is
 * allocated. */
#include "buffers.h"

#include "alloc.h"

qmoe_status qmi_grow(const qmi_backend *backend, qmi_device *device,
    qmi_growing *g, uint64_t n_bytes, qmi_error *err)
{
    /* A pass of no tokens needs a buffer, too: operands are addresses. */
    if (n_bytes <= g->n_bytes && g->buffer != NULL)
        return QMOE_OK;
    /* First given back, then asked for: both at once might not fit.  What it
     * held is lost. */
    qmi_shrink(backend, device, g);
    QMI_TRY(backend->buffer_alloc(&g->buffer, device, n_bytes, err));
    g->n_bytes = n_bytes;
    return QMOE_OK;
}

qmoe_status qmi_upload(const qmi_backend *backend, qmi_device *device,
    qmi_growing *g, const void *data, uint64_t n_bytes, qmi_error *err)
{
    QMI_TRY(qmi_grow(backend, device, g, n_bytes, err));
    return backend->buffer_write(
        device, (qmi_view){.buffer = g->buffer}, data, n_bytes, err);
}

void qmi_shrink(const qmi_backend *backend, qmi_device *device, qmi_growing *g)
{
    backend->buffer_free(device, g->buffer);
    *g = (qmi_growing){0};
}

/* Floats read back at a time. */
enum { PIECE = 1 << 16 };

/* Piece by piece: a slot of a long batch is larger than what the host should
 * hold twice. */
qmoe_status qmi_buffer_non_finite(const qmi_backend *backend,
    qmi_device *device, int64_t *at, const qmi_growing *g, int64_t n,
    qmi_error *err)
{
    float *piece = qmi_calloc(PIECE, sizeof *piece, "a second look", err);
    if (piece == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    *at = n;
    /* Ends with the first hit: the first is what an error names. */
    for (int64_t i = 0; *at == n && i < n; i += PIECE) {
        const size_t m = (size_t)(n - i < PIECE ? n - i : PIECE);
        const qmi_view view = {
            .buffer = g->buffer, .offset = (uint64_t)i * sizeof *piece};
        status =
            backend->buffer_read(device, piece, view, m * sizeof *piece, err);
        if (status != QMOE_OK)
            break;
        const size_t bad = qmi_first_non_finite(piece, QMI_F32, m);
        if (bad != m)
            *at = i + (int64_t)bad;
    }
    qmi_free(piece);
    return status;
}
