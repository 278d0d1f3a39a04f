/* SPDX-License-Identifier: Apache-2.0
 * What a plan is for. */
#ifndef QMI_PLAN_SOURCE_H
#define QMI_PLAN_SOURCE_H

#include "model.h"

/* Opens a model or sketches one (qmi_model_sketch): the sources of qmoe_plan.
 * `from_config`: there are no weights, a config.json is taken at its word;
 * where it contradicts the published model of its shapes, a message says so.
 * The model is to be closed after a failure too (it may be NULL). */
qmoe_status qmi_plan_open(qmoe_model **out, bool *from_config,
    qmoe_context *context, const char *source);

#endif
