/* SPDX-License-Identifier: Apache-2.0
 * Held launches and graphs (backends/cuda/launches.c) on the emulated driver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "twice.h"

enum { RUN = 8 };

static int open_normal(void **state)
{
    (void)state;
    open_device(NULL, NULL);
    return 0;
}

static int close_normal(void **state)
{
    (void)state;
    close_device();
    return 0;
}

/* Steps that give other results in every other order. */
static void make_run(step *steps, uint32_t variant)
{
    for (int i = 0; i < RUN; i++)
        steps[i] = (step){.kind = i % 3 == 2 ? OTHER : STEP,
            .dst = i % 2,
            .src = 2 + i % 2,
            .add = 100 * variant + (uint32_t)i,
            .blocks = 2};
    steps[3].kind = COPY;
    steps[3].dst = 2;
    steps[3].src = 0;
    steps[5].kind = FILL;
    steps[5].dst = 1;
}

/* ---- tests ---- */

static void test_replays(void **state)
{
    (void)state;
    step steps[RUN];
    make_run(steps, 0);
    launch_run(steps, RUN);
    expect_counts(RUN, 0, 0, 0);
    for (int i = 0; i < RUN; i++)
        launch(&steps[i]);
    assert_false(has_run());
    end_run();
    expect_counts(RUN, RUN, 1, 0);
    for (int i = 0; i < 3; i++)
        launch_run(steps, RUN);
    expect_counts(RUN, 4 * RUN, 1, 0);
    assert_int_equal(counts().graphs, 4);
}

static void test_updates(void **state)
{
    (void)state;
    step steps[RUN];
    make_run(steps, 0);
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    steps[1].add += 7;
    launch_run(steps, RUN);
    expect_counts(RUN, 2 * RUN, 1, 1);
    steps[4].blocks = 1;
    steps[3].dst = 3;
    launch_run(steps, RUN);
    expect_counts(RUN, 3 * RUN, 1, 3);
    steps[3].src = 1;
    steps[5].dst = 0;
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    expect_counts(RUN, 5 * RUN, 1, 5);
    /* A copy of another size is another run. */
    steps[3].blocks = 1;
    launch_run(steps, RUN);
    expect_counts(2 * RUN, 5 * RUN, 1, 5);
}

/* Differences between noting and making the graph. */
static void test_changed_before_the_graph(void **state)
{
    (void)state;
    step steps[RUN];
    make_run(steps, 0);
    launch_run(steps, RUN);
    steps[2].add += 7;
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    expect_counts(RUN, 2 * RUN, 1, 0);
}

/* Passes of the same kernels but other arguments have a graph each. */
static void test_alternates(void **state)
{
    (void)state;
    step steps[2][RUN];
    for (uint32_t v = 0; v < 2; v++)
        make_run(steps[v], v + 1);
    for (int i = 0; i < 10; i++)
        launch_run(steps[i % 2], RUN);
    expect_counts(2 * RUN, 8 * RUN, 2, 0);
}

static void test_moved_buffer(void **state)
{
    (void)state;
    step steps[RUN];
    make_run(steps, 0);
    steps[6].src = 3;
    for (int i = 1; i < RUN; i++)
        if (i != 6 && steps[i].src == 3)
            steps[i].src = 2;
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    /* What a stale address would trap at. */
    qmi_buffer old = buffers[3];
    assert_int_equal(
        qcuda_alloc(&buffers[3], &device, old.n_bytes, "a test", &err),
        QMOE_OK);
    qcuda_release(&device, &old);
    upload(3, 77);
    launch_run(steps, RUN);
    expect_counts(RUN, 2 * RUN, 1, 1);
}

static void test_other_order(void **state)
{
    (void)state;
    step steps[RUN], swapped[RUN];
    make_run(steps, 0);
    make_run(swapped, 0);
    const step at = swapped[6];
    swapped[6] = swapped[5];
    swapped[5] = at;
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    for (int i = 0; i < 5; i++)
        launch(&swapped[i]);
    assert_false(has_run());
    launch(&swapped[5]);
    assert_true(has_run());
    launch(&swapped[6]);
    launch(&swapped[7]);
    end_run();
    expect_counts(2 * RUN, RUN, 1, 0);
    launch_run(swapped, RUN);
    launch_run(steps, RUN);
    expect_counts(2 * RUN, 3 * RUN, 2, 0);
}

static void test_other_length(void **state)
{
    (void)state;
    step steps[RUN + 1];
    make_run(steps, 0);
    steps[RUN] = steps[0];
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    launch_run(steps, RUN - 2); /* is recorded too */
    launch_run(steps, RUN + 1);
    launch_run(steps, QCUDA_MIN_NODES - 1); /* is not */
    launch_run(steps, QCUDA_MIN_NODES - 1);
    const uint64_t single = 3 * RUN - 1 + 2 * (QCUDA_MIN_NODES - 1);
    expect_counts(single, RUN, 1, 0);
    launch_run(steps, RUN - 2);
    launch_run(steps, RUN + 1);
    launch_run(steps, RUN);
    expect_counts(single, 4 * RUN - 1, 3, 0);
}

static void prime(step *steps)
{
    make_run(steps, 0);
    launch_run(steps, RUN);
    launch_run(steps, RUN);
}

/* The host's write comes behind what was launched before it. */
static void test_write_between(void **state)
{
    (void)state;
    step steps[RUN];
    prime(steps);
    for (int i = 0; i < 5; i++)
        launch(&steps[i]);
    assert_false(has_run());
    upload(2, 55);
    assert_true(has_run());
    for (int i = 5; i < RUN; i++)
        launch(&steps[i]);
    end_run();
    expect_counts(2 * RUN, RUN, 1, 0);
}

/* Held launches run before their memory goes. */
static void test_release_between(void **state)
{
    (void)state;
    step steps[RUN];
    prime(steps);
    for (int i = 0; i < 5; i++)
        launch(&steps[i]);
    assert_false(has_run());
    uint32_t last[N];
    qmi_buffer scratch = buffers[3];
    memcpy(last, want[3], sizeof last);
    buffers[3] = (qmi_buffer){0};
    qcuda_release(&device, &scratch);
    assert_int_equal(
        qcuda_alloc(&buffers[3], &device, sizeof last, "a test", &err),
        QMOE_OK);
    memcpy(buffers[3].data, last, sizeof last);
    assert_true(has_run());
    for (int i = 5; i < RUN; i++)
        launch(&steps[i]);
    end_run();
    /* A run so interrupted is not recorded. */
    expect_counts(2 * RUN, RUN, 1, 0);
}

/* Work space that grows while launches that use it are held. */
static void test_reserve_between(void **state)
{
    (void)state;
    step steps[RUN];
    void *small, *large;
    assert_int_equal(
        qcuda_reserve(&small, &device, QCUDA_ARRIVED, 256, &err), QMOE_OK);
    prime(steps);
    for (int i = 0; i < 5; i++)
        launch(&steps[i]);
    assert_int_equal(
        qcuda_reserve(&large, &device, QCUDA_ARRIVED, 4096, &err), QMOE_OK);
    assert_true(has_run());
    static const char zeros[4096];
    end_run();
    assert_memory_equal(large, zeros, sizeof zeros);
}

/* An operation that calls the driver itself. */
static void test_flush(void **state)
{
    (void)state;
    step steps[RUN];
    prime(steps);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++)
            launch(&steps[i]);
        assert_int_equal(qcuda_flush(&device, &err), QMOE_OK);
        assert_true(has_run());
        assert_null(qdrv_zero(device.driver, buffers[2].data, N * 4));
        memset(want[2], 0, sizeof want[2]);
        for (int i = 0; i < RUN; i++) {
            launch(&steps[i]);
            assert_true(has_run());
        }
        end_run();
    }
    expect_counts(RUN + 3 * (5 + RUN), RUN, 1, 0);
    launch_run(steps, RUN);
    expect_counts(RUN + 3 * (5 + RUN), 2 * RUN, 1, 0);
}

static void expect_error(qmoe_status status, const char *name)
{
    assert_int_equal(status, QMOE_E_DEVICE);
    assert_non_null(strstr(err.text, name));
    assert_non_null(strstr(err.text, "waits at"));
    err = (qmi_error){0};
}

/* After an error what was recorded is gone and the memory may be anything. */
static void expect_fresh_start(step *steps)
{
    const uint64_t single = counts().single;
    const uint64_t replayed = counts().replayed;
    assert_int_equal(qcuda_end_run(&device, &err), QMOE_OK);
    for (int b = 0; b < N_BUFFERS; b++)
        upload(b, (uint32_t)b + 1);
    launch_run(steps, RUN);
    assert_int_equal(counts().single, single + RUN);
    assert_int_equal(counts().replayed, replayed);
    launch_run(steps, RUN);
    assert_int_equal(counts().replayed, replayed + RUN);
}

static void test_error_in_a_graph(void **state)
{
    (void)state;
    step steps[RUN], bad;
    prime(steps);
    bad = steps[2];
    bad.fails = 1;
    for (int i = 0; i < RUN; i++)
        assert_int_equal(try_step(i == 2 ? &bad : &steps[i]), QMOE_OK);
    expect_error(qcuda_end_run(&device, &err), "toy_other");
    expect_fresh_start(steps);
}

/* Held, and issued because the run goes another way. */
static void test_error_of_held(void **state)
{
    (void)state;
    step steps[RUN], bad;
    prime(steps);
    bad = steps[2];
    bad.fails = 1;
    for (int i = 0; i < 4; i++)
        assert_int_equal(try_step(i == 2 ? &bad : &steps[i]), QMOE_OK);
    expect_error(try_step(&steps[2]), "toy_other");
    /* What comes before the run ends is neither lost nor recorded. */
    assert_int_equal(try_step(&steps[0]), QMOE_OK);
    expect_fresh_start(steps);
}

static void test_error_at_once(void **state)
{
    (void)state;
    step steps[RUN], bad;
    prime(steps);
    bad = steps[0];
    bad.kind = OTHER;
    bad.fails = 1;
    expect_error(try_step(&bad), "toy_other");
    expect_fresh_start(steps);
}

/* A release cannot tell; the next call does. */
static void test_error_told_later(void **state)
{
    (void)state;
    step steps[RUN], bad;
    qmi_buffer extra;
    prime(steps);
    bad = steps[2];
    bad.fails = 1;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(
            qcuda_alloc(&extra, &device, 16, "a test", &err), QMOE_OK);
        for (int i = 0; i < 4; i++)
            assert_int_equal(try_step(i == 2 ? &bad : &steps[i]), QMOE_OK);
        qcuda_release(&device, &extra);
        expect_error(
            round == 0 ? try_step(&steps[0]) : qcuda_end_run(&device, &err),
            "toy_other");
        expect_fresh_start(steps);
    }
}

static void test_least_recently_used(void **state)
{
    (void)state;
    step steps[RUN];
    enum { MANY = QCUDA_MAX_LISTS + 1 };
    for (int round = 0; round < 2; round++)
        for (uint32_t v = 1; v <= MANY; v++) {
            make_run(steps, v);
            launch_run(steps, RUN);
        }
    /* Each was pushed out before it came again. */
    expect_counts(2 * MANY * RUN, 0, 0, 0);
    for (uint32_t v = MANY; v > 1; v--) {
        make_run(steps, v);
        launch_run(steps, RUN);
    }
    expect_counts(2 * MANY * RUN, (MANY - 1) * RUN, MANY - 1, 0);
    /* The place of the graph used longest ago, of run MANY. */
    make_run(steps, 1);
    launch_run(steps, RUN);
    for (uint32_t v = 2; v < MANY; v++) {
        make_run(steps, v);
        launch_run(steps, RUN);
    }
    expect_counts((2 * MANY + 1) * RUN, (2 * MANY - 3) * RUN, MANY - 1, 0);
    make_run(steps, MANY);
    launch_run(steps, RUN);
    expect_counts((2 * MANY + 2) * RUN, (2 * MANY - 3) * RUN, MANY - 1, 0);
}

static void test_too_long(void **state)
{
    (void)state;
    step steps[RUN];
    make_run(steps, 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < QCUDA_MAX_NODES + 3; i++)
            launch(&steps[i % RUN]);
        end_run();
    }
    expect_counts(3 * (QCUDA_MAX_NODES + 3), 0, 0, 0);
    /* The longest that is recorded. */
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < QCUDA_MAX_NODES; i++)
            launch(&steps[i % RUN]);
        end_run();
    }
    assert_int_equal(counts().replayed, QCUDA_MAX_NODES);
}

static void test_too_wide(void **state)
{
    (void)state;
    step steps[RUN];
    prime(steps);
    steps[4].kind = WIDE;
    for (int i = 0; i < 3; i++)
        launch_run(steps, RUN);
    expect_counts(4 * RUN, RUN, 1, 0);
}

static void test_nothing(void **state)
{
    (void)state;
    const step none = {.kind = STEP, .blocks = 0};
    const step no_copy = {.kind = COPY, .dst = 1, .blocks = 0};
    for (int i = 0; i < 8; i++) {
        launch(&none);
        launch(&no_copy);
    }
    end_run();
    expect_counts(0, 0, 0, 0);
}

/* Random runs, mostly repeated, with all that can come between. */
static void random_runs(uint32_t seed, int n_rounds)
{
    enum { KINDS = 5 };
    uint32_t x = seed;
    step all[KINDS][RUN];
    for (uint32_t k = 0; k < KINDS; k++)
        make_run(all[k], k % 2);
    for (int round = 0; round < n_rounds; round++) {
        x = x * 1664525u + 1013904223u;
        step *steps = all[(x >> 8) % KINDS];
        const uint32_t what = (x >> 12) % 16, at = (x >> 16) % RUN;
        if (what == 0)
            steps[at].add += x >> 20;
        else if (what == 1)
            steps[at].kind = (x >> 20) % 5;
        else if (what == 2)
            steps[at].blocks = 1 + (x >> 20) % 2;
        else if (what == 3)
            steps[at].dst = (x >> 20) % N_BUFFERS;
        const size_t n = what == 4 ? at : RUN;
        for (size_t i = 0; i < n; i++) {
            if (what == 5 && i == at)
                upload((x >> 20) % N_BUFFERS, x);
            if (what == 6 && i == at)
                assert_int_equal(qcuda_flush(&device, &err), QMOE_OK);
            launch(&steps[i]);
        }
        end_run();
    }
}

static void test_random(void **state)
{
    (void)state;
    random_runs(1, 1500);
    /* All of it happened, and often. */
    const qmi_launch_counts c = counts();
    assert_true(c.replayed > 2000 && c.single > 2000);
    assert_true(c.updated > 40 && c.made > 16);
}

/* ---- other devices ---- */

static void test_off(void **state)
{
    (void)state;
    step steps[RUN];
    open_device("off", NULL);
    prime(steps);
    for (int i = 0; i < RUN; i++) {
        launch(&steps[i]);
        assert_true(has_run());
    }
    end_run();
    expect_counts(3 * RUN, 0, 0, 0);
    close_device();
    open_device("on", NULL);
    prime(steps);
    expect_counts(RUN, RUN, 1, 0);
    close_device();
    qcuda_launches *none;
    setenv("QMOE_CUDA_GRAPHS", "0", 1);
    assert_int_equal(qcuda_launches_create(&none, NULL, &err), QMOE_E_INVALID);
    unsetenv("QMOE_CUDA_GRAPHS");
    assert_non_null(strstr(err.text, "must be on or off"));
    assert_null(none);
}

/* A driver that makes no graph, or changes none. */
static void test_refusing_driver(void **state)
{
    (void)state;
    step steps[RUN];
    open_device(NULL, "graphs=0");
    prime(steps);
    launch_run(steps, RUN);
    random_runs(2, 200);
    assert_int_equal(counts().replayed, 0);
    close_device();
    open_device(NULL, "updates=0");
    prime(steps);
    steps[1].add++;
    launch_run(steps, RUN);
    expect_counts(2 * RUN, RUN, 1, 0);
    steps[1].add--;
    launch_run(steps, RUN);
    launch_run(steps, RUN);
    expect_counts(2 * RUN, 3 * RUN, 2, 0);
    random_runs(3, 200);
    close_device();
    /* Room for one only. */
    open_device(NULL, "graphs=1");
    prime(steps);
    random_runs(4, 200);
    close_device();
}

/* A device closes with launches held: they do not run. */
static void test_close_with_held(void **state)
{
    (void)state;
    step steps[RUN];
    open_device(NULL, NULL);
    prime(steps);
    for (int i = 0; i < 5; i++)
        launch(&steps[i]);
    assert_false(has_run());
    close_device();
}

int main(void)
{
#define ON_A_DEVICE(test)                                                      \
    cmocka_unit_test_setup_teardown(test, open_normal, close_normal)
    const struct CMUnitTest tests[] = {
        ON_A_DEVICE(test_replays),
        ON_A_DEVICE(test_updates),
        ON_A_DEVICE(test_changed_before_the_graph),
        ON_A_DEVICE(test_alternates),
        ON_A_DEVICE(test_moved_buffer),
        ON_A_DEVICE(test_other_order),
        ON_A_DEVICE(test_other_length),
        ON_A_DEVICE(test_write_between),
        ON_A_DEVICE(test_release_between),
        ON_A_DEVICE(test_reserve_between),
        ON_A_DEVICE(test_flush),
        ON_A_DEVICE(test_error_in_a_graph),
        ON_A_DEVICE(test_error_of_held),
        ON_A_DEVICE(test_error_at_once),
        ON_A_DEVICE(test_error_told_later),
        ON_A_DEVICE(test_least_recently_used),
        ON_A_DEVICE(test_too_long),
        ON_A_DEVICE(test_too_wide),
        ON_A_DEVICE(test_nothing),
        ON_A_DEVICE(test_random),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_refusing_driver),
        cmocka_unit_test(test_close_with_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
