/* SPDX-License-Identifier: Apache-2.0
 * A compressed model without a compression: the experts and other
 * matrices of a synthetic checkpoint (core/model/synth.h) are random codes in
 * memory. */
#ifndef QMB_BENCH_MADE_UP_H
#define QMB_BENCH_MADE_UP_H

#include "bench_weights.h"
#include "model.h"

typedef struct qmi_bench_made_up {
    qmoe_model model;        /* shares everything else with the model it is made
                            of, which must outlive it */
    qmi_bench_stack *stacks; /* [n_weights], empty where the
                              * weight is the model's */
} qmi_bench_made_up;

typedef struct qmi_bench_formats {
    const qmi_format *experts;
    const qmi_format *others; /* of what else may be compressed; NULL: as is */
} qmi_bench_formats;

/* NULL for a name of NULL.  E_INVALID: no compressed format. */
qmoe_status qmi_bench_format_find(
    const qmi_format **out, const char *name, qmi_error *err);
/* All experts of a stack hold the same codes at different places, or in little
 * memory for a device that has its own (`copies`).  Formats that rotate have
 * the rotation that `qmoe compress` gives them.  E_NOMEM: not that much is
 * free.  Release with qmi_bench_made_up_free. */
qmoe_status qmi_bench_made_up_make(qmi_bench_made_up *out,
    const qmoe_model *model, const qmi_bench_formats *formats,
    qmi_bench_copies copies, qmi_error *err);
void qmi_bench_made_up_free(qmi_bench_made_up *made_up);

#endif
