/* SPDX-License-Identifier: Apache-2.0
 * The table of recorded rates (rates.c). */
#ifndef QMI_PLAN_RATES_H
#define QMI_PLAN_RATES_H

#include "qmoe/plan.h"

/* Bits per expert weight that ternary-dict takes, everything counted, as
 * published for models of this width; 1 for other widths. */
double qmi_dictionary_bits(int64_t d_model);

#endif
