/* SPDX-License-Identifier: Apache-2.0
 * What becomes of the matrices beside the experts: a quantiser by role. */
#ifndef QMI_DENSE_CHOICE_H
#define QMI_DENSE_CHOICE_H

#include "dense_moments.h"
#include "quantiser.h"

typedef struct qmi_dense_choice {
    const qmi_quantiser *of[QMOE_ROLE_COUNT]; /* NULL: copied as they are */
} qmi_dense_choice;

/* From qmoe_compress_options.dense_bits: "B", or "ROLE=B" with commas between,
 * where B is a number of bits or the name of a format; NULL: all are copied.
 * With second moments (`calibrated`) or without.  E_INVALID. */
qmoe_status qmi_dense_choose(
    qmi_dense_choice *out, const char *text, bool calibrated, qmi_error *err);

/* Of one weight; NULL: it is copied. */
const qmi_quantiser *qmi_dense_quantiser(
    const qmi_dense_choice *choice, const qmi_weight *w);
/* Whether any role is compressed, or with second moments. */
bool qmi_dense_any(const qmi_dense_choice *choice);
bool qmi_dense_any_moments(const qmi_dense_choice *choice);
/* The quantiser of most of a model's weights; NULL: none is compressed. */
const qmi_quantiser *qmi_dense_main(
    const qmi_dense_choice *choice, const qmoe_model *model);
/* The weights whose inputs' second moments are needed. */
qmi_dense_filter qmi_dense_with_moments(const qmi_dense_choice *choice);
/* "attention=int8,head=tlut-4": what is not as it is, as qmi_dense_choose reads
 * it. */
enum { QMI_DENSE_TEXT = 256 };
void qmi_dense_describe(
    char text[QMI_DENSE_TEXT], const qmi_dense_choice *choice);

#endif
