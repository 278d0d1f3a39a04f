/* SPDX-License-Identifier: Apache-2.0
 * Comes in: how many tokens and sequences a pass has, and who fills its lists.
 * Goes out: views of them on the device.  Offsets of small passes are equal, so
 * that what a device keeps of one (CUDA graphs) fits the next. */
#include "lists.h"

#include <string.h>

#include "alloc.h"

/* Between lists: what every device aligns buffers to. */
enum { ALIGNMENT = 256 };

/* Both sides are made for twice the bytes of a pass that does not fit. */
static qmoe_status reserve(qmi_lists *lists, qmi_error *err)
{
    if (lists->n_bytes <= lists->capacity)
        return QMOE_OK;
    /* The old lists are of the pass before: their contents are not needed. */
    qmi_free(lists->host);
    lists->capacity = 0;
    lists->host =
        qmi_calloc(2, (size_t)lists->n_bytes, "the lists of a pass", err);
    if (lists->host == NULL)
        return QMOE_E_NOMEM;
    lists->capacity = 2 * lists->n_bytes;
    return QMOE_OK;
}

qmoe_status qmi_lists_begin(qmi_lists *lists, int64_t n_tokens, int64_t n_spans,
    int64_t n_turns, qmi_error *err)
{
    const uint64_t tokens = (uint64_t)n_tokens * sizeof(int32_t);
    const uint64_t spans = (uint64_t)n_spans * sizeof(qmi_attention_span);
    const uint64_t n_bytes[QMI_LIST_COUNT] = {
        [QMI_LIST_IDS] = tokens,
        [QMI_LIST_SEQUENCE] = tokens,
        [QMI_LIST_ROWS] = tokens,
        [QMI_LIST_SPANS] = spans,
        [QMI_LIST_CROSS_SPANS] = spans,
        [QMI_LIST_TURNS] = (uint64_t)(n_tokens * n_turns) * sizeof(float),
    };
    lists->n_bytes = 0;
    /* The same order in every pass; each list begins on a multiple of what
     * devices align to. */
    for (int i = 0; i < QMI_LIST_COUNT; i++) {
        lists->offset[i] = lists->n_bytes;
        lists->n_bytes += (n_bytes[i] + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    QMI_TRY(reserve(lists, err));
    /* Zeros behind the entries and between the lists: equal passes have equal
     * bytes. */
    memset(lists->host, 0, (size_t)lists->n_bytes);
    return QMOE_OK;
}

void *qmi_lists_host(const qmi_lists *lists, qmi_list list)
{
    return lists->host + lists->offset[list];
}

qmoe_status qmi_lists_upload(qmi_lists *lists, const qmi_backend *backend,
    qmi_device *device, qmi_error *err)
{
    /* The capacity, not the bytes of this pass: both sides grow together. */
    QMI_TRY(qmi_grow(backend, device, &lists->device, lists->capacity, err));
    /* One write for all lists: a pass costs one transfer. */
    return backend->buffer_write(device,
        (qmi_view){.buffer = lists->device.buffer}, lists->host, lists->n_bytes,
        err);
}

qmi_view qmi_lists_view(const qmi_lists *lists, qmi_list list)
{
    return (qmi_view){
        .buffer = lists->device.buffer, .offset = lists->offset[list]};
}

void qmi_lists_release(
    qmi_lists *lists, const qmi_backend *backend, qmi_device *device)
{
    qmi_shrink(backend, device, &lists->device);
    qmi_free(lists->host);
    *lists = (qmi_lists){0};
}
