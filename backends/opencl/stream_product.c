/* SPDX-License-Identifier: Apache-2.0
 * Products with streamed weights: the host learns the router's choice and
 * launches each expert's tiles when its matrix is on the way.  In: one product,
 * or those of an expert layer.  Out: the same launches as for weights that
 * are there, tile by tile in another order.  Every item is in one tile, so the
 * order does not show in the result. */
#include "product.h"

#include "alloc.h"
#include "stream.h"

/* Products whose uses are launched in turn. */
typedef struct job {
    qmi_device *device;
    const qocl_product *products; /* by phase */
    int n_products;
    int prepared; /* of them */
    qmi_view packed;
    int program;
} job;

static qmoe_status launch(void *user, const qocl_use *use,
    const qocl_chunk *chunk, cl_event after, cl_event *finish, qmi_error *err)
{
    job *j = user;
    qocl_product p = j->products[use->phase];
    /* Packing waits for nothing but its input, which is complete when a
     * product's first use comes: all phases before are launched before. */
    if (j->prepared <= use->phase) {
        QMI_TRY(
            qocl_prepare_product(&j->packed, &j->program, j->device, &p, err));
        j->prepared = use->phase + 1;
    }
    p.first_tile = use->first_tile;
    p.n_tiles = use->n_tiles;
    p.after = after;
    p.finish = finish;
    return qocl_run_chunk(j->device, &p, chunk, j->packed, j->program, err);
}

/* Appends a use per expert with tokens; tiles lie by ascending expert, as
 * group_fill makes them. */
static size_t add_uses(qocl_use *uses, const qocl_product *p,
    const int32_t *expert, int32_t *counts, int phase)
{
    const int64_t n_mats = p->weight->host->n_mats;
    const int64_t width = p->tile_items;
    size_t n = 0;
    int64_t tile = 0;
    /* Counted anew for each phase: tiles may have other sizes. */
    for (int64_t e = 0; e < n_mats; e++)
        counts[e] = 0;
    for (int64_t i = 0; i < p->n_items; i++)
        if (expert[i] >= 0 && expert[i] < n_mats)
            counts[expert[i]]++;
    /* Experts without tokens have no tile and are not uploaded. */
    for (int64_t e = 0; e < n_mats; e++) {
        const int64_t n_tiles = (counts[e] + width - 1) / width;
        if (n_tiles != 0)
            uses[n++] = (qocl_use){p->weight, e, tile, n_tiles, phase};
        tile += n_tiles;
    }
    return n;
}

/* Work space must not grow while matrices are pinned. */
static qmoe_status reserve(
    qmi_device *device, const qocl_product *p, qmi_error *err)
{
    const uint64_t n_padded =
        ((uint64_t)p->weight->host->n_cols + 15) / 16 * 16;
    const qocl_weight *bound = p->weight->device;
    const uint64_t width =
        p->n_items > 1 ? (uint64_t)qocl_many(device, bound->format) : 1;
    return qocl_reserve(
        device, QOCL_PACKED, (uint64_t)p->n_tiles * n_padded * width * 4, err);
}

static qmoe_status run(
    qmi_device *device, job *j, const int32_t *expert, qmi_error *err)
{
    const qocl_product *p = j->products;
    const size_t n_mats = (size_t)p->weight->host->n_mats;
    const size_t n_items = (size_t)p->n_items;
    /* No more experts than items. */
    const size_t most = n_mats < n_items ? n_mats : n_items;
    qocl_use *uses =
        qmi_calloc((size_t)j->n_products * most, sizeof *uses, "experts", err);
    int32_t *counts = qmi_calloc(n_mats, sizeof *counts, "experts", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (uses != NULL && counts != NULL) {
        size_t n = 0;
        for (int phase = 0; phase < j->n_products; phase++)
            n += add_uses(uses + n, &p[phase], expert, counts, phase);
        status = qocl_stream(device, uses, n, launch, j, err);
    }
    qmi_free(uses);
    qmi_free(counts);
    return status;
}

static qmoe_status run_by_expert(qmi_device *device, job *j, qmi_error *err)
{
    const qocl_product *p = j->products;
    const uint64_t n_bytes = (uint64_t)p->n_items * sizeof(int32_t);
    int32_t *expert =
        qmi_calloc((size_t)p->n_items, sizeof *expert, "experts", err);
    if (expert == NULL)
        return QMOE_E_NOMEM;
    /* The only place where the host waits for the device's routing. */
    qmoe_status status =
        qocl_backend.buffer_read(device, expert, p->expert, n_bytes, err);
    if (status == QMOE_OK)
        status = run(device, j, expert, err);
    qmi_free(expert);
    return status;
}

qmoe_status qocl_stream_product(
    qmi_device *device, const qocl_product *p, qmi_error *err)
{
    job j = {.device = device, .products = p, .n_products = 1};
    if (p->n_items == 0)
        return QMOE_OK;
    QMI_TRY(reserve(device, p, err));
    if (p->grouping != FIXED_MATRIX)
        return run_by_expert(device, &j, err);
    /* One matrix, known without asking the device. */
    qocl_use use = {p->weight, p->mat, 0, p->n_tiles, 0};
    return qocl_stream(device, &use, 1, launch, &j, err);
}

qmoe_status qocl_stream_experts(
    qmi_device *device, const qocl_product *products, int n, qmi_error *err)
{
    job j = {.device = device, .products = products, .n_products = n};
    /* All before anything is pinned. */
    for (int i = 0; i < n; i++)
        QMI_TRY(reserve(device, &products[i], err));
    return run_by_expert(device, &j, err);
}
