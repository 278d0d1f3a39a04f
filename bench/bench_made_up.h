/* SPDX-License-Identifier: Apache-2.0
 * A compressed model without a compression: the experts of a synthetic
 * checkpoint (core/model/synth.h) are stacks of random codes in memory. */
#ifndef QMB_BENCH_MADE_UP_H
#define QMB_BENCH_MADE_UP_H

#include "bench_weights.h"
#include "model.h"

typedef struct qmi_bench_made_up {
    qmoe_model model;        /* shares everything else with the model it is made
                            of, which must outlive it */
    qmi_bench_stack *stacks; /* [n_weights], empty where no expert's */
} qmi_bench_made_up;

/* All experts of a stack hold the same codes at different places, or in little
 * memory for a device that has its own (`copies`).  pvq formats have the rotation that `qmoe compress` gives them.  E_INVALID: no compressed
 * format; E_NOMEM: not that much is free.  Release with qmi_bench_made_up_free. */
qmoe_status qmi_bench_made_up_make(qmi_bench_made_up *out,
    const qmoe_model *model, const char *format, qmi_bench_copies copies,
    qmi_error *err);
void qmi_bench_made_up_free(qmi_bench_made_up *made_up);

#endif
