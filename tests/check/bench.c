/* SPDX-License-Identifier: Apache-2.0
 * Timing (bench.h, docs/numerics.md "Timing"). */
#include "bench.h"

#include <stdlib.h>

enum {
    /* All copies together: beyond the last-level cache of common machines. */
    ROTATION_BYTES = 128 * 1024 * 1024,
    MAX_COPIES = 512,
    MIN_COPIES = 2,
    MAX_SAMPLES = 2000,
    /* The samples a budget is cut into: above the 30 a median needs. */
    SAMPLES_PER_BUDGET = 50,
    MAX_RUNS_PER_SAMPLE = 1000,
};

typedef struct copy {
    placement at;
    gen_weight *weights[MAX_WEIGHTS];
} copy;

typedef struct rotation {
    const qmi_backend *backend;
    qmi_device *device;
    const qmi_variant *variant;
    copy copies[MAX_COPIES];
    size_t n_copies, next;
} rotation;

static size_t copies_needed(const problem *p)
{
    double n_bytes = operand_bytes(p);
    for (size_t i = 0; i < p->n_weights; i++)
        n_bytes += (double)qmi_weight_bytes(&p->weights[i]->host);
    double n = ROTATION_BYTES / (n_bytes + 1);
    return n < MIN_COPIES   ? MIN_COPIES
           : n > MAX_COPIES ? MAX_COPIES
                            : (size_t)n;
}

static qmoe_status add_copy(rotation *r, const problem *p, qmi_error *err)
{
    copy *c = &r->copies[r->n_copies++];
    for (size_t i = 0; i < p->n_weights; i++)
        c->weights[i] = weight_clone(p->weights[i]);
    QMI_TRY(
        placement_open(&c->at, r->backend, r->device, p, c->weights, 0, err));
    return placement_write(&c->at, err);
}

static void free_copies(rotation *r)
{
    for (size_t i = 0; i < r->n_copies; i++) {
        if (r->copies[i].at.backend != NULL)
            placement_close(&r->copies[i].at);
        for (size_t w = 0; w < MAX_WEIGHTS; w++)
            weight_destroy(r->copies[i].weights[w]);
    }
}

/* `n` runs, one sync at the end: seconds per run. */
static qmoe_status sample(
    double *seconds, rotation *r, size_t n, qmi_error *err)
{
    double begin = now_seconds();
    for (size_t i = 0; i < n; i++) {
        QMI_TRY(r->variant->run(r->device, &r->copies[r->next].at.op, err));
        r->next = (r->next + 1) % r->n_copies;
    }
    QMI_TRY(r->backend->sync(r->device, err));
    *seconds = (now_seconds() - begin) / (double)n;
    return QMOE_OK;
}

/* Once around, while the budget lasts: validates payloads, touches pages,
 * builds programs.  The last run's time is the first estimate. */
static qmoe_status warm_up(
    double *seconds, rotation *r, double budget, qmi_error *err)
{
    double end = now_seconds() + budget;
    for (size_t i = 0; i <= r->n_copies; i++) {
        QMI_TRY(sample(seconds, r, 1, err));
        if (now_seconds() > end)
            break;
    }
    return QMOE_OK;
}

static qmoe_status take_samples(sample_summary *out, rotation *r, double budget,
    size_t min_samples, qmi_error *err)
{
    double seconds = 0;
    QMI_TRY(warm_up(&seconds, r, budget, err));
    double ideal = budget / SAMPLES_PER_BUDGET / (seconds + 1e-9);
    size_t n_runs = ideal < 1                     ? 1
                    : ideal > MAX_RUNS_PER_SAMPLE ? MAX_RUNS_PER_SAMPLE
                                                  : (size_t)ideal;
    double *samples = check_calloc(MAX_SAMPLES, sizeof *samples);
    double end = now_seconds() + budget;
    size_t n = 0;
    qmoe_status status = QMOE_OK;
    while (status == QMOE_OK && n < MAX_SAMPLES &&
           (n < min_samples || now_seconds() < end)) {
        status = sample(&samples[n], r, n_runs, err);
        n++;
    }
    if (status == QMOE_OK)
        *out = summarise(samples, n);
    free(samples);
    return status;
}

qmoe_status qmi_bench_variant(sample_summary *out, const qmi_backend *backend,
    qmi_device *device, size_t variant, const problem *p, double budget,
    size_t min_samples, qmi_error *err)
{
    size_t n_variants = 0;
    const qmi_variant *variants =
        backend->variants(device, p->body.kind, &n_variants);
    *out = (sample_summary){0};
    if (variant >= n_variants)
        return qmi_fail(err, QMOE_E_INTERNAL, "variant gone while timing");
    rotation *r = check_calloc(1, sizeof *r);
    r->backend = backend;
    r->device = device;
    r->variant = &variants[variant];
    size_t n_copies = copies_needed(p);
    qmoe_status status = QMOE_OK;
    for (size_t i = 0; i < n_copies && status == QMOE_OK; i++)
        status = add_copy(r, p, err);
    if (status == QMOE_OK)
        status = take_samples(out, r, budget, min_samples, err);
    free_copies(r);
    free(r);
    return status;
}
