/* SPDX-License-Identifier: Apache-2.0
 * From samples to the results of a report. */
#ifndef QMB_BENCH_RESULTS_H
#define QMB_BENCH_RESULTS_H

#include "bench_setting.h"
#include "qmoe/bench.h"

/* Adds the result of a contender whose samples are filled in, by `threads`. */
qmoe_status qmi_bench_add_result(qmoe_bench_kernels_report *report,
    size_t *capacity, qmi_bench_contender *contender, int n_rounds,
    const qmoe_bench_kernel *setting, qmi_error *err);
/* Ratios of the results from `first` on, which are one setting's. */
void qmi_bench_add_ratios(qmoe_bench_kernels_report *report, size_t first);

#endif
