/* SPDX-License-Identifier: Apache-2.0
 * generation_config.json: what ends a text, and how its authors sample. */
#ifndef QMI_GENERATION_H
#define QMI_GENERATION_H

#include "checkpoint.h"
#include "shape.h"

/* What the file recommends; zeros ask for nothing. */
typedef struct qmi_sampling {
    float temperature, top_p, min_p, repetition_penalty;
    int top_k;
} qmi_sampling;

/* Adds the end ids of the file beside the checkpoint to those of `shape`, and
 * reads the sampling it recommends.  No file: nothing.  E_FORMAT. */
qmoe_status qmi_generation_read(qmi_shape *shape, qmi_sampling *sampling,
    const qmi_checkpoint *checkpoint, qmi_error *err);

#endif
