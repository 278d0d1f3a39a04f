/* SPDX-License-Identifier: Apache-2.0
 * The table of quantisers and one line. */
#define QMI_MORE_QUANTISERS(X) X(toy_rtn)
#include "../../quant/quantisers/quantiser_table.c"
