/* SPDX-License-Identifier: Apache-2.0
 * The table of generated weights and one line. */
#define MORE_WEIGHT_KINDS {"toy", "toy", false, 0, store_toy, corrupt_toy, 0},
#include "toy_weights.h"

#include "../check/weight_kinds.c"
