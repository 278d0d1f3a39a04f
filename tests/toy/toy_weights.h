/* SPDX-License-Identifier: Apache-2.0
 * Generated weights in the format of toy_format.c. */
#ifndef QMOE_TOY_WEIGHTS_H
#define QMOE_TOY_WEIGHTS_H

#include "weights.h"

void store_toy(gen_weight *w, const weight_request *request, rng *r);
void corrupt_toy(gen_weight *w);

#endif
