/* SPDX-License-Identifier: Apache-2.0
 * The table of generated weights, and nothing else: a test that adds a format
 * (MORE_WEIGHT_KINDS) links its table in place of this one. */
#include "weights.h"

#ifndef MORE_WEIGHT_KINDS
#define MORE_WEIGHT_KINDS
#endif

/* Eight rates of one code. */
#define TLUT(rate, suffix, rotation)                                           \
    {                                                                          \
        "tlut-" rate suffix, "tlut-" rate, false, rotation, store_tlut,        \
            corrupt_tlut, KIND_FEW | KIND_OPTIONAL | KIND_ROUNDED              \
    }

const weight_kind weight_kinds[] = {
    {"bf16", "bf16", true, 0, store_bf16, NULL, 0},
    {"f16", "f16", true, 0, store_f16, NULL, 0},
    {"f32", "f32", true, 0, store_f32, NULL, 0},
    {"ternary-dict", "ternary-dict", false, 0, store_ternary_dict,
        corrupt_ternary_dict, 0},
    {"q2", "q2", false, 0, store_q2, corrupt_q2, 0},
    {"int8", "int8", false, 0, store_int8, corrupt_int8, KIND_OPTIONAL},
    {"pvq", "pvq", false, 0, store_pvq, corrupt_pvq, 0},
    {"pvq8", "pvq8", false, 0, store_pvq8, corrupt_pvq, 0},
    {"pvq-rotated16", "pvq", false, 16, store_pvq, corrupt_pvq, 0},
    {"pvq-rotated32", "pvq", false, 32, store_pvq, corrupt_pvq, 0},
    {"pvq-rotated64", "pvq", false, 64, store_pvq, corrupt_pvq, 0},
    {"pvq8-rotated16", "pvq8", false, 16, store_pvq8, corrupt_pvq, 0},
    {"pvq8-rotated64", "pvq8", false, 64, store_pvq8, corrupt_pvq, 0},
    TLUT("0.25", "", 0),
    TLUT("0.5", "", 0),
    TLUT("0.75", "", 0),
    TLUT("1", "", 0),
    TLUT("1.5", "", 0),
    TLUT("2", "", 0),
    TLUT("3", "", 0),
    TLUT("4", "", 0),
    TLUT("0.5", "-rotated64", 64),
    TLUT("2", "-rotated64", 64),
    MORE_WEIGHT_KINDS{0},
};
