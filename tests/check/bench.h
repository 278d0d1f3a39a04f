/* SPDX-License-Identifier: Apache-2.0
 * Times one variant on one problem. */
#ifndef QMOE_CHECK_BENCH_H
#define QMOE_CHECK_BENCH_H

#include "check.h"
#include "stats.h"

/* Seconds per run.  Warms up, rotates through copies of operands and weights
 * too large together for the caches, takes at least `min_samples` samples and
 * more while `budget` seconds last. */
qmoe_status qmi_bench_variant(sample_summary *out, const qmi_backend *backend,
    qmi_device *device, size_t variant, const problem *p, double budget,
    size_t min_samples, qmi_error *err);

#endif
