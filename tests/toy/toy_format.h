/* SPDX-License-Identifier: Apache-2.0
 * The weight format of toy_format.c. */
#ifndef QMOE_TOY_FORMAT_H
#define QMOE_TOY_FORMAT_H

#include "weight.h"

/* Of what toy_quantiser.c writes. */
#define TOY_STEP 0x1p-7

extern const qmi_format qmi_format_toy;

#endif
