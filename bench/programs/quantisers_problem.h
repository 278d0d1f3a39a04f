/* SPDX-License-Identifier: Apache-2.0
 * Matrices and second moments to try quantisers on: synthetic families, or
 * recorded ones from a file. */
#ifndef QMI_BENCH_QUANTISERS_PROBLEM_H
#define QMI_BENCH_QUANTISERS_PROBLEM_H

#include "quantiser.h"

typedef struct qmi_bench_problem {
    char name[64];
    int64_t n_rows, n_cols;
    float *w;             /* [n_rows, n_cols] */
    qmi_hessian calib;    /* what the quantiser sees */
    qmi_hessian held_out; /* other tokens of the same source */
} qmi_bench_problem;

/* Families of weights and of inputs. */
extern const char *const qmi_bench_weight_names[];
enum {
    QMI_BENCH_GAUSS,
    QMI_BENCH_STUDENT,
    QMI_BENCH_LAPLACE,
    QMI_BENCH_UNEVEN
};
extern const char *const qmi_bench_input_names[];
enum { QMI_BENCH_IID, QMI_BENCH_CORRELATED, QMI_BENCH_FEW, QMI_BENCH_RELU };
enum { QMI_BENCH_N_WEIGHTS = 4, QMI_BENCH_N_INPUTS = 4 };

/* Exits when out of memory: this is a bench. */
void qmi_bench_problem_make(qmi_bench_problem *out, int weights, int inputs,
    int64_t n_rows, int64_t n_cols, uint32_t seed);
/* Records of i32 rows, cols, calibration tokens, held-out tokens; f32 weights
 * [rows, cols]; f64 sums [cols, cols] of calibration and held-out tokens, in
 * native byte order.  False at the end. */
bool qmi_bench_problem_read(qmi_bench_problem *out, void *file);
void qmi_bench_problem_free(qmi_bench_problem *problem);

#endif
