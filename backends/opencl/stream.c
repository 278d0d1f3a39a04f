/* SPDX-License-Identifier: Apache-2.0
 * The cache of streamed matrices.  In: the matrices an operation needs, and how
 * to launch each.  Out: launches, each behind the upload of its matrix.  A
 * matrix is here, on its way, or not here; what is pinned is not sent away;
 * memory goes back only after the last kernel that reads it.  Bytes of what is
 * here never exceed the device's limit (qocl_alloc). */
#include "stream.h"

#include "alloc.h"

struct qocl_entry {
    qocl_chunk chunk;
    uint64_t n_bytes;
    bool is_here;      /* uploaded or on its way */
    int n_pins;        /* uses not launched yet */
    cl_event uploaded; /* end of the upload */
    cl_event used;     /* end of the last kernel that reads it, or NULL */
    qocl_entry *newer, *older;
};

qocl_entry *qocl_entries_create(size_t n, qmi_error *err)
{
    return qmi_calloc(n, sizeof(qocl_entry), "a stack's places", err);
}

static qocl_entry *entry_of(const qocl_use *use)
{
    return &((const qocl_weight *)use->weight->device)->entries[use->mat];
}

/* By two uses of one operation: the matrix counts once. */
static void pin(qmi_device *device, qocl_entry *e)
{
    if (e->n_pins++ == 0)
        device->pinned_bytes += e->n_bytes;
}

static void unpin(qmi_device *device, qocl_entry *e)
{
    if (--e->n_pins == 0)
        device->pinned_bytes -= e->n_bytes;
}

/* ---- the list ---- */

/* At the ends, the device's pointers take the place of a neighbour's. */
static void unlink_entry(qmi_device *device, qocl_entry *e)
{
    *(e->newer != NULL ? &e->newer->older : &device->newest) = e->older;
    *(e->older != NULL ? &e->older->newer : &device->oldest) = e->newer;
    e->newer = e->older = NULL;
}

static void push_newest(qmi_device *device, qocl_entry *e)
{
    e->older = device->newest;
    *(e->older != NULL ? &e->older->newer : &device->oldest) = e;
    device->newest = e;
}

static void release_event(cl_event *event)
{
    if (*event != NULL)
        qmi_cl.ReleaseEvent(*event);
    *event = NULL;
}

/* Waits for the transfer and the kernels, then gives the memory back. */
static cl_int drop(qmi_device *device, qocl_entry *e)
{
    cl_event last[2];
    cl_uint n = 0;
    if (e->uploaded != NULL)
        last[n++] = e->uploaded;
    if (e->used != NULL)
        last[n++] = e->used;
    const cl_int status =
        n != 0 ? qmi_cl.WaitForEvents(n, last) : (cl_int)CL_SUCCESS;
    release_event(&e->uploaded);
    release_event(&e->used);
    qocl_chunk_release(device, &e->chunk);
    if (e->is_here) {
        unlink_entry(device, e);
        device->streamed_bytes -= e->n_bytes;
    }
    e->is_here = false;
    return status;
}

void qocl_entries_destroy(qmi_device *device, qocl_entry *entries, size_t n)
{
    /* A status is of no use here: the memory goes in any case. */
    for (size_t i = 0; entries != NULL && i < n; i++)
        drop(device, &entries[i]);
    qmi_free(entries);
}

qmoe_status qocl_evict(qmi_device *device, bool *evicted, qmi_error *err)
{
    *evicted = false;
    for (qocl_entry *e = device->oldest; e != NULL; e = e->newer) {
        /* Needed by this operation. */
        if (e->n_pins != 0)
            continue;
        const cl_int status = drop(device, e);
        *evicted = true;
        return status == CL_SUCCESS
                   ? QMOE_OK
                   : qocl_fail(device, "waiting for an expert", status, err);
    }
    return QMOE_OK;
}

/* ---- uses ---- */

/* Starts the upload of a matrix that is not here. */
static qmoe_status upload(
    qmi_device *device, const qocl_use *use, qocl_entry *e, qmi_error *err)
{
    /* The device cannot validate. */
    QMI_TRY(qmi_weight_check(use->weight->host, use->mat, err));
    /* The event is that of the last part's write; the queue keeps order. */
    qmoe_status status = qocl_chunk_fill(
        &e->chunk, device, use->weight, use->mat, 1, &e->uploaded, err);
    /* Transfers must begin now, not when somebody waits. */
    const cl_int flushed = qmi_cl.Flush(device->transfers);
    if (status == QMOE_OK && flushed != CL_SUCCESS)
        status = qocl_fail(device, "an upload", flushed, err);
    if (status != QMOE_OK) {
        drop(device, e);
        return status;
    }
    /* Counted only when all of it is on its way; a failure has given back what
     * was made. */
    e->n_bytes = qocl_matrix_bytes(use->weight, use->mat);
    e->is_here = true;
    device->streamed_bytes += e->n_bytes;
    push_newest(device, e);
    return QMOE_OK;
}

/* Pins the matrix, here or on its way. */
static qmoe_status fetch(
    qmi_device *device, const qocl_use *use, qmi_error *err)
{
    qocl_entry *e = entry_of(use);
    if (!e->is_here)
        QMI_TRY(upload(device, use, e, err));
    pin(device, e);
    return QMOE_OK;
}

static qmoe_status launch_use(qmi_device *device, const qocl_use *use,
    qocl_launch_use launch, void *user, qmi_error *err)
{
    qocl_entry *e = entry_of(use);
    cl_event finish = NULL;
    /* The kernel waits for the upload on the device, not on the host. */
    QMI_TRY(launch(user, use, &e->chunk, e->uploaded, &finish, err));
    /* Kernels run in order, so the last one's end is that of all. */
    if (finish != NULL) {
        release_event(&e->used);
        e->used = finish;
    }
    /* Events of a queue that was not flushed may never come. */
    const cl_int flushed = qmi_cl.Flush(device->queue);
    return flushed == CL_SUCCESS ? QMOE_OK
                                 : qocl_fail(device, "a flush", flushed, err);
}

/* Phase by phase, what is here first; the order is otherwise kept.  What is
 * here counts as used now. */
static qmoe_status sort_uses(
    qmi_device *device, qocl_use *uses, size_t n, qmi_error *err)
{
    qocl_use *sorted = qmi_calloc(n, sizeof *sorted, "a list of experts", err);
    size_t at = 0;
    if (sorted == NULL)
        return QMOE_E_NOMEM;
    /* Before the uploads begin: what is needed now must not be sent away for
     * them. */
    for (size_t i = 0; i < n; i++)
        if (entry_of(&uses[i])->is_here) {
            unlink_entry(device, entry_of(&uses[i]));
            push_newest(device, entry_of(&uses[i]));
        }
    /* Phase 0 here, phase 0 not here, then phase 1: a product reads what those
     * before have written. */
    for (int pass = 0; at < n; pass++)
        for (size_t i = 0; i < n; i++)
            if (uses[i].phase == pass / 2 &&
                entry_of(&uses[i])->is_here == (pass % 2 == 0))
                sorted[at++] = uses[i];
    for (size_t i = 0; i < n; i++)
        uses[i] = sorted[i];
    qmi_free(sorted);
    return QMOE_OK;
}

/* Whether the next matrix can come without sending away one that this
 * operation still needs. */
static bool has_room(const qmi_device *device, const qocl_use *use)
{
    /* What can never go: everything but streamed matrices. */
    const uint64_t fixed = device->allocated - device->streamed_bytes;
    return fixed + device->pinned_bytes +
               qocl_matrix_bytes(use->weight, use->mat) <=
           device->limits.memory;
}

qmoe_status qocl_stream(qmi_device *device, qocl_use *uses, size_t n,
    qocl_launch_use launch, void *user, qmi_error *err)
{
    /* `fetched` runs ahead of `launched` as far as the memory allows: uploads
     * go on while kernels run. */
    size_t fetched = 0, launched = 0;
    qmoe_status status = n != 0 ? sort_uses(device, uses, n, err) : QMOE_OK;
    for (; launched < n && status == QMOE_OK; launched++) {
        /* Nothing fetched: this one must come now, whatever it sends away. */
        if (fetched == launched)
            status = fetch(device, &uses[fetched], err);
        if (status != QMOE_OK)
            break;
        fetched += fetched == launched;
        status = launch_use(device, &uses[launched], launch, user, err);
        unpin(device, entry_of(&uses[launched]));
        /* What is here costs nothing; of the rest, as much as fits beside what
         * is pinned. */
        while (status == QMOE_OK && fetched < n &&
               (entry_of(&uses[fetched])->is_here ||
                   has_room(device, &uses[fetched]))) {
            status = fetch(device, &uses[fetched], err);
            fetched += status == QMOE_OK;
        }
    }
    /* After an error: what was fetched and will not be launched. */
    for (size_t i = launched; i < fetched; i++)
        unpin(device, entry_of(&uses[i]));
    return status;
}
