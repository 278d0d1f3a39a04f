/* SPDX-License-Identifier: Apache-2.0
 * What one device has of a model: a range of its blocks, bound weights, slots
 * and caches, the lists of the pass at hand.  Sessions run steps on it; it knows
 * no sequences. */
#ifndef QMI_STAGE_H
#define QMI_STAGE_H

#include "lists.h"
#include "model.h"
#include "place.h"

/* A position bias, up to the largest distance that occurred so far. */
typedef struct qmi_bias {
    qmi_growing values; /* f32 [n_heads, 2 * reach + 1] */
    int64_t reach;
} qmi_bias;

typedef struct qmi_stage {
    const qmoe_model *model; /* outlives the stage */
    const qmi_backend *backend;
    qmi_device *device;
    qmoe_device_info info;
    int32_t first_block, end_block; /* those it runs, of the model's blocks */
    qmi_bound_weight *bound;        /* [model->n_weights] */
    size_t n_bound;
    qmi_growing *slots; /* [n_slots + 1] of the graph; so below */
    qmi_growing *caches;
    qmi_bias *tables;
    qmi_lists lists; /* of the pass at hand */
} qmi_stage;

/* All blocks of the model, with or without the experts' stacks.  After a failure the stage is to be
 * closed, too. */
qmoe_status qmi_stage_open(qmi_stage *out, const qmoe_model *model,
    const qmi_place *place, const qmi_device_options *options,
    bool with_experts, qmi_error *err);
/* All zeros are fine. */
void qmi_stage_close(qmi_stage *stage);

static inline bool qmi_stage_has_block(const qmi_stage *stage, int32_t block)
{
    return block >= stage->first_block && block < stage->end_block;
}

/* Steps [*first, *last) of a program that the stage runs, neighbours because
 * programs follow the order of blocks.  Steps before the blocks go with the
 * first block of the program, those behind with its last. */
void qmi_stage_steps(const qmi_stage *stage, const qmi_steps *steps,
    size_t *first, size_t *last);

#endif
