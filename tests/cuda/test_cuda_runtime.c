/* SPDX-License-Identifier: Apache-2.0
 * driver_cuda.c on a runtime that does everything as late as it may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "fake_cuda.h"
#include "toy_steps.h"

enum { BLOCK = 16 << 20 }; /* of pinned memory; there are two */

static qdrv_device *device;

static int open_late(void **state)
{
    (void)state;
    assert_null(qdrv_open(&device, 0, 0));
    fake_cuda_is_late = true;
    fake_cuda_n_waits = fake_cuda_n_attributes = 0;
    return 0;
}

static int close_late(void **state)
{
    (void)state;
    fake_cuda_is_late = false;
    qdrv_close(device);
    return 0;
}

static void *alloc(uint64_t n_bytes)
{
    void *data;
    assert_null(qdrv_alloc(&data, device, n_bytes));
    return data;
}

/* Writes of `step` bytes until `total` are there; the source changes as soon as
 * a write returns. */
static void check_writes(size_t step, size_t total)
{
    unsigned char *const src = malloc(step), *const got = malloc(total);
    char *const dst = alloc(total);
    unsigned char n = 1;
    for (size_t at = 0; at < total; at += step, n++) {
        const size_t left = total - at;
        memset(src, n, step);
        assert_null(
            qdrv_write(device, dst + at, src, left < step ? left : step));
    }
    assert_null(qdrv_read(device, got, dst, total));
    n = 1;
    for (size_t at = 0; at < total; at += step, n++) {
        memset(src, n, step);
        const size_t left = total - at;
        assert_memory_equal(got + at, src, left < step ? left : step);
    }
    qdrv_free(device, dst);
    free(src);
    free(got);
}

static void test_writes(void **state)
{
    (void)state;
    check_writes(1000003, 5 * (size_t)BLOCK);
    check_writes(BLOCK, 3 * (size_t)BLOCK);
    check_writes(3 * (size_t)BLOCK + 5, 7 * (size_t)BLOCK);
    check_writes(1, 300);
}

/* The lists of a decode step. */
static void test_small_writes_do_not_wait(void **state)
{
    (void)state;
    char *const dst = alloc(4096), *const got = malloc(4096);
    const uint32_t list[] = {1, 2, 3, 4, 5};
    for (int i = 0; i < 5; i++)
        assert_null(qdrv_write(device, dst + i * 64, list, 4 + (size_t)i * 4));
    assert_int_equal(fake_cuda_n_waits, 0);
    assert_null(qdrv_read(device, got, dst, 4096));
    assert_memory_equal(got + 4 * 64, list, sizeof list);
    qdrv_free(device, dst);
    free(got);
}

/* Once per kernel, launched or in a graph. */
static void test_large_shared_memory(void **state)
{
    (void)state;
    uint32_t *const x = alloc(128);
    const toy_step_args args = {.dst = x, .src = x};
    qdrv_graph *graph;
    qdrv_node node = {.kernel = &qcuda_kernel_toy_step,
        .grid = {1, 1, 1, TOY_THREADS, 48 << 10},
        .args = &args};
    assert_null(qdrv_launch(device, node.kernel, node.grid, node.args));
    assert_int_equal(fake_cuda_n_attributes, 0);
    node.grid.shared_bytes = 50 << 10;
    assert_null(qdrv_graph_create(&graph, device, &node, 1));
    node.grid.shared_bytes = 60 << 10;
    assert_null(qdrv_graph_update(graph, 0, &node));
    assert_null(qdrv_launch(device, node.kernel, node.grid, node.args));
    assert_int_equal(fake_cuda_n_attributes, 1);
    node.grid.shared_bytes = 200 << 10;
    assert_non_null(qdrv_graph_update(graph, 0, &node));
    node.grid.shared_bytes = 60 << 10;
    node.kernel = &qcuda_kernel_toy_other;
    assert_null(qdrv_launch(device, node.kernel, node.grid, node.args));
    assert_int_equal(fake_cuda_n_attributes, 2);
    node.grid.shared_bytes = 200 << 10;
    assert_non_null(qdrv_launch(device, node.kernel, node.grid, node.args));
    qdrv_graph_destroy(graph);
    qdrv_free(device, x);
}

/* A change or the end of a graph does not reach a launch that still runs. */
static void test_launched_graph_is_left_alone(void **state)
{
    (void)state;
    uint32_t *const x = alloc(128), got[32];
    toy_step_args args = {.dst = x, .src = x, .add = 1};
    const qdrv_node nodes[] = {
        {.dst = x, .n_bytes = 128}, {.kernel = &qcuda_kernel_toy_step,
                                        .grid = {1, 1, 1, TOY_THREADS, 0},
                                        .args = &args}};
    qdrv_graph *graph;
    assert_null(qdrv_graph_create(&graph, device, nodes, 2));
    args.add = 7;
    assert_null(qdrv_graph_launch(graph));
    assert_null(qdrv_graph_update(graph, 1, &nodes[1]));
    qdrv_graph_destroy(graph);
    assert_null(qdrv_read(device, got, x, 128));
    for (int i = 0; i < 32; i++)
        assert_int_equal(got[i], 1);
    qdrv_free(device, x);
}

int main(void)
{
#define LATE(test) cmocka_unit_test_setup_teardown(test, open_late, close_late)
    const struct CMUnitTest tests[] = {
        LATE(test_writes),
        LATE(test_small_writes_do_not_wait),
        LATE(test_large_shared_memory),
        LATE(test_launched_graph_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
