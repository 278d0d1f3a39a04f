/* SPDX-License-Identifier: Apache-2.0
 * Results (bench_results.h).  In: samples of a contender, in seconds per call.
 * Out: speeds with their spread, and their ratios within a setting. 0 stands
 * for what was not measured and is printed as such. */
#include "bench_results.h"

#include <string.h>

#include "alloc.h"

/* Speed of the memory that weights are read from; 0: unknown. */
static double memory_speed(const qmoe_bench_kernels_report *report, int threads)
{
    for (size_t i = 0; i < report->n_bandwidth; i++)
        if (report->bandwidth[i].threads == threads)
            return report->bandwidth[i].gbytes_per_s;
    return report->copy_gbytes_per_s;
}

qmoe_status qmi_bench_add_result(qmoe_bench_kernels_report *report,
    size_t *capacity, qmi_bench_contender *c, int n_rounds,
    const qmoe_bench_kernel *setting, qmi_error *err)
{
    if (report->n_results == *capacity) {
        /* Doubling: how many variants there will be is not known. */
        const size_t more = *capacity != 0 ? 2 * *capacity : 64;
        qmoe_bench_kernel *grown = qmi_regrow(
            report->results, *capacity, more, sizeof *grown, "results", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        report->results = grown;
        *capacity = more;
    }
    const qmi_weight *w = c->weight->host;
    const double n =
        1e-9 * (double)w->n_rows * (double)w->n_cols * setting->batch;
    /* Of one matrix, all parts: what a product has to read. */
    const double n_bytes = (double)qmi_weight_bytes(w) / (double)w->n_mats;
    const double memory = memory_speed(report, setting->threads);
    const qmi_bench_spread seconds =
        qmi_bench_spread_of(c->samples, (size_t)n_rounds);
    qmoe_bench_kernel *out = &report->results[report->n_results++];
    *out = *setting;
    out->format = w->format->name;
    out->variant = c->variant->name;
    out->rows = w->n_rows;
    out->cols = w->n_cols;
    out->gweights_per_s = n / seconds.median;
    /* Speeds: the slow end of the times is the low end. */
    out->p10 = n / seconds.p90;
    out->p90 = n / seconds.p10;
    out->gbytes_per_s = 1e-9 * n_bytes / seconds.median;
    out->bandwidth_share = memory > 0 ? out->gbytes_per_s / memory : 0;
    return QMOE_OK;
}

static const char cublas[] = "cublas-bf16", paper[] = "paper-design";

/* The first result of a variant; 0: there is none. */
static double speed_of_variant(
    const qmoe_bench_kernels_report *report, size_t first, const char *name)
{
    for (size_t i = first; i < report->n_results; i++)
        if (strcmp(report->results[i].variant, name) == 0)
            return report->results[i].gweights_per_s;
    return 0;
}

/* Of bf16's preferred variant, which what others compute is not. */
static double speed_of_bf16(
    const qmoe_bench_kernels_report *report, size_t first)
{
    for (size_t i = first; i < report->n_results; i++)
        if (strcmp(report->results[i].format, "bf16") == 0 &&
            strcmp(report->results[i].variant, cublas) != 0)
            return report->results[i].gweights_per_s;
    return 0;
}

void qmi_bench_add_ratios(qmoe_bench_kernels_report *report, size_t first)
{
    const double own = speed_of_bf16(report, first);
    const double others = speed_of_variant(report, first, cublas);
    const double papers = speed_of_variant(report, first, paper);
    /* A partner that was not measured leaves its ratio at 0. */
    for (size_t i = first; i < report->n_results; i++) {
        qmoe_bench_kernel *k = &report->results[i];
        k->ratio_bf16 = own > 0 ? k->gweights_per_s / own : 0;
        k->ratio_cublas = others > 0 ? k->gweights_per_s / others : 0;
        k->ratio_paper = papers > 0 ? k->gweights_per_s / papers : 0;
    }
}
