/* SPDX-License-Identifier: Apache-2.0
 * Rates of compression that were measured, for comparison with a plan.
 * docs/publish.md explains the entries.  Each rate is expert weights per
 * second: weights divided by the time of the source. */
#include "qmoe/plan.h"

static const qmoe_recorded_rate recorded[] = {
    {"gptq ternary-dict, base-128", "one A6000, 10,000 samples, 14.0 min",
        "QMoE paper, table 7", 7247757312.0 / (14.0 * 60)},
    {"gptq ternary-dict, large-128", "one A6000, 10,000 samples, 30.2 min",
        "QMoE paper, table 7", 25769803776.0 / (30.2 * 60)},
    {"gptq ternary-dict, c-2048", "one A6000, 160,000 samples, 16.0 h",
        "QMoE paper, table 7", 1570347417600.0 / (16.0 * 3600)},
    {"gptq ternary-dict, 4096 experts of 1024 x 512 and 512 x 1024",
        "two threads of an AMD EPYC (Zen 4), busy, 512 samples",
        "bench/results/compress-scale.md", 4.6e6},
};

const qmoe_recorded_rate *qmoe_recorded_rate_at(size_t index)
{
    return index < sizeof recorded / sizeof *recorded ? &recorded[index] : NULL;
}
