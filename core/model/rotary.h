/* SPDX-License-Identifier: Apache-2.0
 * Rotary position embeddings: what config.json says about their frequencies,
 * and the cosines and sines of a position.  Rules and their names: transformers
 * 4.57, modeling_rope_utils.py. */
#ifndef QMI_ROTARY_H
#define QMI_ROTARY_H

#include "json.h"

typedef enum qmi_rope_type {
    QMI_ROPE_DEFAULT,
    QMI_ROPE_LINEAR,
    QMI_ROPE_DYNAMIC, /* its base grows with the length of the sequence */
    QMI_ROPE_LLAMA3,
    QMI_ROPE_YARN,
    QMI_ROPE_LONGROPE /* other factors beyond the original length */
} qmi_rope_type;

enum { QMI_MAX_ROTARY = 1024 };

typedef struct qmi_rotary_spec {
    qmi_rope_type type;
    int64_t width; /* values of a head that rotate, even */
    bool interleaved;
    double base, factor;
    int64_t max_positions;      /* of the model */
    int64_t original_positions; /* before the context was extended */
    float scale;                /* of cosines and sines */
    /* [width / 2] for sequences up to original_positions, and beyond. */
    float near[QMI_MAX_ROTARY / 2], far[QMI_MAX_ROTARY / 2];
} qmi_rotary_spec;

/* Reads rope_theta and rope_scaling, or rope_parameters, of `config`.
 * `width`: of a head's rotated part; max_positions: of the model.
 * E_UNSUPPORTED names a type that is not known, E_FORMAT a value out of
 * range. */
qmoe_status qmi_rotary_configure(qmi_rotary_spec *out, const cJSON *config,
    int64_t width, double default_base, int64_t max_positions, const char *file,
    qmi_error *err);

/* turns f32 [width]: cosines of the pairs' angles at `position` of a sequence
 * of `length` tokens, then their sines.  Angles are products of floats, rounded
 * to float, as the reference has them. */
void qmi_rotary_turn(float *turns, const qmi_rotary_spec *spec,
    int64_t position, int64_t length);

#endif
