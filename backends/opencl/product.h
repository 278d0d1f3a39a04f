/* SPDX-License-Identifier: Apache-2.0
 * Products with a weight, shared by product.c and stream_product.c. */
#ifndef QOCL_PRODUCT_H
#define QOCL_PRODUCT_H

#include "qocl_device.h"

/* How tiles find their matrix, as in pack.cl. */
enum { FIXED_MATRIX, ONLY_EXPERT, BY_TILES };

typedef struct qocl_product {
    const qmi_bound_weight *weight;
    qmi_view dst, src, residual;
    qmi_view expert; /* ids of the items; unused with FIXED_MATRIX */
    int grouping;
    int64_t mat;              /* FIXED_MATRIX */
    int64_t n_items, n_tiles; /* rows of dst */
    int64_t tile_items;       /* of one matrix, put into a tile at most */
    int64_t divisor;          /* items per row of src */
    float alpha;
    const qmi_bound_weight *bias; /* one row, or NULL */
    qmi_act act;
    bool multiplies; /* dst = residual * result; else the sum */
    /* Of a part of the tiles, for streamed weights; as in qocl_call. */
    int64_t first_tile;
    cl_event after;
    cl_event *finish;
} qocl_product;

/* Packs the activations unless they can be used as they are; gives where they
 * then are and the program for the product. */
qmoe_status qocl_prepare_product(qmi_view *packed, int *program,
    qmi_device *device, const qocl_product *p, qmi_error *err);
/* The product's part for what is in the chunk. */
qmoe_status qocl_run_chunk(qmi_device *device, const qocl_product *p,
    const qocl_chunk *chunk, qmi_view packed, int program, qmi_error *err);

/* ---- streamed weights (stream_product.c) ---- */

/* A product with one or more matrices of a streamed stack. */
qmoe_status qocl_stream_product(
    qmi_device *device, const qocl_product *p, qmi_error *err);
enum { QOCL_MAX_PHASES = 3 };

/* The n products of experts, each of which reads what those before have
 * written, so that the matrices of one come during the one before.  Waits for
 * the router's choice. */
qmoe_status qocl_stream_experts(
    qmi_device *device, const qocl_product *products, int n, qmi_error *err);

#endif
