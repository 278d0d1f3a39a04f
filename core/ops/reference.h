/* SPDX-License-Identifier: Apache-2.0
 * Private to the reference backend (ops_reference.c): its operations, one
 * function each, and what they share. */
#ifndef QMI_REFERENCE_H
#define QMI_REFERENCE_H

#include "backend.h"

#define X(name, member, text)                                                  \
    qmoe_status qmi_reference_##member(                                        \
        qmi_device *device, const qmi_op *op, qmi_error *err);
QMI_OP_MAP(X)
#undef X

/* NULL for an operand that is absent. */
static inline float *qmi_reference_floats(qmi_view view)
{
    return qmi_host_pointer(view);
}

static inline int32_t *qmi_reference_ints(qmi_view view)
{
    return qmi_host_pointer(view);
}

/* Left to right in double: the error is far below what f32 results can show. */
static inline double qmi_reference_dot(
    const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

double qmi_reference_act(qmi_act act, double x);

/* Index of the largest value not yet taken; ties: lowest index.  Callers take
 * at most n. */
int64_t qmi_reference_next_largest(
    const double *values, const bool *taken, int64_t n);

/* Room for a row of a matrix; release with qmi_free. */
float *qmi_reference_row(const qmi_weight *w, qmi_error *err);
/* The values of a dense vector, to be released with qmi_free; NULL, and no
 * error, when `w` is NULL. */
qmoe_status qmi_reference_vector(
    float **out, const qmi_bound_weight *w, qmi_error *err);

#endif
