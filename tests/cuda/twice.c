/* SPDX-License-Identifier: Apache-2.0 */
#include "twice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "toy_steps.h"

qmi_device device;
qmi_error err;
qmi_buffer buffers[N_BUFFERS];
uint32_t want[N_BUFFERS][N];

void upload(int at, uint32_t seed)
{
    for (uint32_t i = 0; i < N; i++)
        want[at][i] = seed * 2654435761u + i * 40503u;
    assert_int_equal(qcuda_upload(&device, buffers[at].data, want[at],
                         sizeof want[at], &err),
        QMOE_OK);
}

void open_device(const char *graphs, const char *limits)
{
    device = (qmi_device){.limit = UINT64_MAX};
    err = (qmi_error){0};
    if (graphs != NULL)
        setenv("QMOE_CUDA_GRAPHS", graphs, 1);
    if (limits != NULL)
        setenv("QMOE_CUDA_EMU_LIMITS", limits, 1);
    assert_null(qdrv_describe(&device.info, 0));
    assert_null(qdrv_open(&device.driver, 0, 0));
    assert_int_equal(
        qcuda_launches_create(&device.launches, device.driver, &err), QMOE_OK);
    unsetenv("QMOE_CUDA_GRAPHS");
    for (int b = 0; b < N_BUFFERS; b++) {
        assert_int_equal(
            qcuda_alloc(&buffers[b], &device, sizeof want[b], "a test", &err),
            QMOE_OK);
        upload(b, (uint32_t)b + 1);
    }
}

void close_device(void)
{
    unsetenv("QMOE_CUDA_EMU_LIMITS");
    qcuda_launches_destroy(device.launches);
    device.launches = NULL;
    for (int b = 0; b < N_BUFFERS; b++)
        qcuda_release(&device, &buffers[b]);
    for (int i = 0; i < QCUDA_N_SCRATCH; i++)
        qcuda_release(&device, &device.scratch[i]);
    assert_int_equal(device.allocated, 0);
    qdrv_close(device.driver);
}

qmi_launch_counts counts(void)
{
    qmi_launch_counts c;
    qcuda_launch_counts(&device, &c);
    return c;
}

void expect_counts(
    uint64_t single, uint64_t replayed, uint64_t made, uint64_t updated)
{
    const qmi_launch_counts c = counts();
    assert_int_equal(c.single, single);
    assert_int_equal(c.replayed, replayed);
    assert_int_equal(c.made, made);
    assert_int_equal(c.updated, updated);
}

static void do_on_host(const step *s)
{
    for (uint32_t i = 0; i < s->blocks * TOY_THREADS; i++) {
        uint32_t *dst = &want[s->dst][i];
        if (s->kind == COPY)
            *dst = want[s->src][i];
        else if (s->kind == FILL)
            *dst = 0;
        else
            *dst = *dst * (s->kind == OTHER ? 5 : 3) + want[s->src][i] + s->add;
    }
}

qmoe_status try_step(const step *s)
{
    const uint64_t n_bytes = (uint64_t)s->blocks * TOY_THREADS * 4;
    const qcuda_grid grid = {
        .x = s->blocks, .y = 1, .z = 1, .threads = TOY_THREADS};
    const toy_wide_args args = {
        .step = {.dst = buffers[s->dst].data,
            .src = buffers[s->src].data,
            .add = s->add,
            .fails = s->fails},
    };
    switch (s->kind) {
    case COPY:
        return qcuda_copy(
            &device, buffers[s->dst].data, buffers[s->src].data, n_bytes, &err);
    case FILL:
        return qcuda_zero(&device, buffers[s->dst].data, n_bytes, &err);
    case WIDE:
        return qcuda_launch(&device, &qcuda_kernel_toy_wide, grid, &args, &err);
    case OTHER:
        return qcuda_launch(
            &device, &qcuda_kernel_toy_other, grid, &args.step, &err);
    default:
        return qcuda_launch(
            &device, &qcuda_kernel_toy_step, grid, &args.step, &err);
    }
}

void launch(const step *s)
{
    assert_int_equal(try_step(s), QMOE_OK);
    do_on_host(s);
}

bool has_run(void)
{
    /* Of what it was given; what is held it does not know. */
    if (qdrv_sync(device.driver) != NULL)
        return false;
    for (int b = 0; b < N_BUFFERS; b++)
        if (memcmp(buffers[b].data, want[b], sizeof want[b]) != 0)
            return false;
    return true;
}

void end_run(void)
{
    assert_int_equal(qcuda_end_run(&device, &err), QMOE_OK);
    assert_true(has_run());
}

void launch_run(const step *steps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        launch(&steps[i]);
    end_run();
}
