/* SPDX-License-Identifier: Apache-2.0
 * A compressed model without a compression: the experts of a synthetic
 * checkpoint (core/model/synth.h) are stacks of random codes in memory. */
#ifndef QMB_BENCH_MADE_UP_H
#define QMB_BENCH_MADE_UP_H

#include "bench_weights.h"
#include "model.h"

typedef struct bench_made_up {
    qmoe_model model;    /* shares everything else with the model it is made
                            of, which must outlive it */
    bench_stack *stacks; /* [n_weights], empty where no expert's */
} bench_made_up;

/* All experts of a stack hold the same codes at different places, or in little
 * memory for a device that has its own (`copies`).  pvq formats have the rotation that `qmoe compress` gives them.  E_INVALID: no compressed
 * format; E_NOMEM: not that much is free.  Release with bench_made_up_free. */
qmoe_status bench_made_up_make(bench_made_up *out, const qmoe_model *model,
    const char *format, bench_copies copies, qmi_error *err);
void bench_made_up_free(bench_made_up *made_up);

#endif
