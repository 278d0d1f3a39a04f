/* SPDX-License-Identifier: Apache-2.0
 * The table of generated weights, and nothing else: a test that adds a format
 * (MORE_WEIGHT_KINDS) links its table in place of this one. */
#include "weights.h"

#ifndef MORE_WEIGHT_KINDS
#define MORE_WEIGHT_KINDS
#endif

const weight_kind weight_kinds[] = {
    {"bf16", "bf16", true, 0, store_bf16, NULL},
    {"f16", "f16", true, 0, store_f16, NULL},
    {"f32", "f32", true, 0, store_f32, NULL},
    {"ternary-dict", "ternary-dict", false, 0, store_ternary_dict,
        corrupt_ternary_dict},
    {"q2", "q2", false, 0, store_q2, corrupt_q2},
    {"pvq", "pvq", false, 0, store_pvq, corrupt_pvq},
    {"pvq8", "pvq8", false, 0, store_pvq8, corrupt_pvq},
    {"pvq-rotated16", "pvq", false, 16, store_pvq, corrupt_pvq},
    {"pvq-rotated32", "pvq", false, 32, store_pvq, corrupt_pvq},
    {"pvq-rotated64", "pvq", false, 64, store_pvq, corrupt_pvq},
    {"pvq8-rotated16", "pvq8", false, 16, store_pvq8, corrupt_pvq},
    {"pvq8-rotated64", "pvq8", false, 64, store_pvq8, corrupt_pvq},
    MORE_WEIGHT_KINDS{0},
};
