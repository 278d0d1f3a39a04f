/* SPDX-License-Identifier: Apache-2.0
 * Operation top-logits (ops.h): its limits and what a logit counts as, the
 * same for all backends and for the choice among the results. */
#ifndef QMI_TOP_LOGITS_H
#define QMI_TOP_LOGITS_H

#include <float.h>
#include <math.h>

#include "ops.h"

/* Whether the counts are allowed; backends support nothing else. */
static inline bool qmi_top_logits_fit(const qmi_op_top_logits *o)
{
    return o->n_tokens >= 0 && o->n_cols <= INT32_MAX && o->top_k >= 1 &&
           o->top_k <= QMI_TOP_LOGITS_MAX && o->top_k <= o->n_cols;
}

/* NaN loses against everything and no difference of two becomes NaN, so that
 * broken logits still have an order. */
static inline float qmi_counted_logit(float logit)
{
    if (isnan(logit))
        return -INFINITY;
    return logit > FLT_MAX ? FLT_MAX : logit;
}

#endif
