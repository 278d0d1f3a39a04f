/* SPDX-License-Identifier: Apache-2.0
 * The ideal uncompressed model: all experts of a stack are one bf16 matrix. */
#ifndef QMB_BENCH_IDEAL_H
#define QMB_BENCH_IDEAL_H

#include "model.h"

typedef struct qmi_bench_ideal {
    qmoe_model model;  /* shares everything else with the model it is made of,
                           which must outlive it */
    uint16_t **blocks; /* [n_weights] the shared matrices, NULL elsewhere */
    uint64_t n_bytes;  /* of the shared matrices */
} qmi_bench_ideal;

/* Takes matrix 0 of each stack of `original` (may be `model` itself), rounded
 * to bf16.  E_INVALID: original lacks a stack or its shapes differ.  Release
 * with qmi_bench_ideal_free. */
qmoe_status qmi_bench_ideal_make(qmi_bench_ideal *out, const qmoe_model *model,
    const qmoe_model *original, qmi_error *err);
void qmi_bench_ideal_free(qmi_bench_ideal *ideal);

#endif
