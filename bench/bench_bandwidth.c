/* SPDX-License-Identifier: Apache-2.0
 * Read bandwidth: sums up a large array.  Copy bandwidth: copies one.  In:
 * threads, or a device.  Out: GB/s, the median of some passes, which is what
 * results are compared with.  Both move memory as the backends do: by the CPU's
 * own team, by the device's own copies. */
#include "bench_bandwidth.h"

#include <stdatomic.h>
#include <string.h>

#include "alloc.h"
#include "bench_stats.h"
#include "team.h"

enum { N_PASSES = 7, N_COPIES = 8 };
/* 1 GiB is far beyond any cache; 4 MiB per turn keeps the threads' starts from
 * counting. */
static const size_t total = (size_t)1 << 30, slice = (size_t)1 << 22;

typedef uint64_t vector __attribute__((vector_size(64)));

typedef struct reading {
    const uint8_t *data;
    _Atomic(uint64_t) sum; /* used, so that nothing is optimised away */
} reading;

static void read_slice(void *context, int64_t item, int thread)
{
    reading *r = context;
    const vector *v = (const void *)(r->data + (size_t)item * slice);
    /* Four sums, so that additions wait for memory and not for each other. */
    vector sums[4] = {{0}};
    uint64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < slice / sizeof *v; i += 4)
        for (size_t j = 0; j < 4; j++)
            sums[j] += v[i + j];
    sums[0] += sums[1] + sums[2] + sums[3];
    for (size_t i = 0; i < 8; i++)
        sum += sums[0][i];
    atomic_fetch_add(&r->sum, sum);
}

qmoe_status qmi_bench_read_bandwidth(
    double *gbytes_per_s, int n_threads, bool cpu_time, qmi_error *err)
{
    *gbytes_per_s = 0;
    qmi_team *team = NULL;
    QMI_TRY(qmi_team_open(&team, n_threads, err));
    uint8_t *data = qmi_calloc(total, 1, "memory to read", err);
    if (data == NULL) {
        qmi_team_close(team);
        return QMOE_E_NOMEM;
    }
    memset(data, 1, total); /* untouched pages are one page of zeros */
    reading r = {.data = data};
    double seconds[N_PASSES];
    qmoe_status status = QMOE_OK;
    /* The median drops a pass that something disturbed. */
    for (int i = 0; i < N_PASSES && status == QMOE_OK; i++) {
        const double begin = qmi_bench_now(cpu_time);
        status =
            qmi_team_run(team, (int64_t)(total / slice), read_slice, &r, err);
        seconds[i] = qmi_bench_now(cpu_time) - begin;
    }
    if (status == QMOE_OK)
        *gbytes_per_s = 1e-9 * (double)total /
                        qmi_bench_spread_of(seconds, N_PASSES).median;
    qmi_free(data);
    qmi_team_close(team);
    return status;
}

/* ---- a device ---- */

static qmoe_status time_copies(double seconds[N_PASSES],
    const qmi_backend *backend, qmi_device *device, qmi_buffer *const two[2],
    uint64_t n_bytes, qmi_error *err)
{
    for (int pass = -1; pass < N_PASSES; pass++) { /* -1: warming up */
        const double begin = qmi_bench_now(false);
        for (int i = 0; i < N_COPIES; i++)
            QMI_TRY(backend->buffer_copy(device, (qmi_view){two[i % 2], 0},
                (qmi_view){two[1 - i % 2], 0}, n_bytes, err));
        /* One wait for all copies: launching is not what is measured. */
        QMI_TRY(backend->sync(device, err));
        if (pass >= 0)
            seconds[pass] = (qmi_bench_now(false) - begin) / N_COPIES;
    }
    return QMOE_OK;
}

qmoe_status qmi_bench_copy_bandwidth(double *gbytes_per_s,
    const qmi_backend *backend, qmi_device *device, uint64_t cold_bytes,
    qmi_error *err)
{
    /* Beyond the caches; two such blocks must fit the device. */
    static const uint64_t most = (uint64_t)512 << 20;
    const uint64_t n_bytes = cold_bytes < most ? cold_bytes : most;
    qmi_buffer *two[2] = {NULL, NULL};
    double seconds[N_PASSES];
    *gbytes_per_s = 0;
    qmoe_status status = backend->buffer_alloc(&two[0], device, n_bytes, err);
    if (status == QMOE_OK)
        status = backend->buffer_alloc(&two[1], device, n_bytes, err);
    if (status == QMOE_OK)
        status = time_copies(seconds, backend, device, two, n_bytes, err);
    if (status == QMOE_OK)
        /* Read and written: twice the bytes. */
        *gbytes_per_s = 1e-9 * 2 * (double)n_bytes /
                        qmi_bench_spread_of(seconds, N_PASSES).median;
    for (int i = 0; i < 2; i++)
        backend->buffer_free(device, two[i]);
    return status;
}
