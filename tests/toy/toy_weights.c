/* SPDX-License-Identifier: Apache-2.0
 * Generated weights in the format of toy_format.c (toy_weights.h). */
#include "toy_weights.h"

#include <stdlib.h>

void store_toy(gen_weight *w, const weight_request *q, rng *r)
{
    const int64_t n = q->n_mats * q->n_rows * q->n_cols;
    int8_t *codes = check_calloc((size_t)n, 1);
    for (int64_t i = 0; i < n; i++) {
        codes[i] = q->values == VALUES_STRUCTURED
                       ? (int8_t)(i % 3 * 127 - 127)
                       : (int8_t)((int)rng_below(r, 255) - 127);
        w->values[i] = codes[i];
    }
    w->host.parts[0] = (qmi_part){
        weight_place(w, codes, (size_t)n, q->layout != LAYOUT_ALIGNED),
        (uint64_t)n};
    free(codes);
}

void corrupt_toy(gen_weight *w)
{
    *(uint8_t *)(uintptr_t)w->host.parts[0].data = 0x80;
}
