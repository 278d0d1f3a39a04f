/* SPDX-License-Identifier: Apache-2.0
 * Matrices and second moments to try quantisers on: synthetic families, or
 * recorded ones from a file. */
#ifndef BENCH_QUANTISERS_PROBLEM_H
#define BENCH_QUANTISERS_PROBLEM_H

#include "quantiser.h"

typedef struct bench_problem {
    char name[64];
    int64_t n_rows, n_cols;
    float *w;             /* [n_rows, n_cols] */
    qmi_hessian calib;    /* what the quantiser sees */
    qmi_hessian held_out; /* other tokens of the same source */
} bench_problem;

/* Families of weights and of inputs. */
extern const char *const bench_weight_names[];
enum { BENCH_GAUSS, BENCH_STUDENT, BENCH_LAPLACE, BENCH_UNEVEN };
extern const char *const bench_input_names[];
enum { BENCH_IID, BENCH_CORRELATED, BENCH_FEW, BENCH_RELU };
enum { BENCH_N_WEIGHTS = 4, BENCH_N_INPUTS = 4 };

/* Exits when out of memory: this is a bench. */
void bench_problem_make(bench_problem *out, int weights, int inputs,
    int64_t n_rows, int64_t n_cols, uint32_t seed);
/* Records of i32 rows, cols, calibration tokens, held-out tokens; f32 weights
 * [rows, cols]; f64 sums [cols, cols] of calibration and held-out tokens, in
 * native byte order.  False at the end. */
bool bench_problem_read(bench_problem *out, void *file);
void bench_problem_free(bench_problem *problem);

#endif
