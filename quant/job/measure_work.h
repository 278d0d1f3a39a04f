/* SPDX-License-Identifier: Apache-2.0
 * How long one thread of this machine takes for what a calibrated compression
 * consists of: measured on small pieces, each the code that does the work. */
#ifndef QMI_MEASURE_WORK_H
#define QMI_MEASURE_WORK_H

#include "expert_pass.h"

typedef struct qmi_work_rates {
    double pair;    /* seconds per query, key and head of attention */
    double product; /* per weight and token of a dense matrix */
    double expert;  /* per weight and token of a compressed one */
    double moment;  /* per squared column and token */
    /* Per matrix of r rows and n columns: cube n^3 + r (square n^2 + line n). */
    double cube, square, line;
    double rounding; /* per weight of an expert without tokens */
} qmi_work_rates;

/* Seconds of processor time; takes about one itself.  Statuses of the
 * operations; E_NOMEM. */
qmoe_status qmi_measure_work(qmi_work_rates *out, const qmoe_model *model,
    const qmi_stack_recipe *recipe, qmi_error *err);
/* Seconds to round a weight to nearest, without second moments. */
qmoe_status qmi_measure_rounding(
    double *seconds, const qmi_stack_recipe *recipe, qmi_error *err);

#endif
