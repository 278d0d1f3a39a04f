/* SPDX-License-Identifier: Apache-2.0
 * Portions (backends/cuda/portions.h) and graphs, on a runtime that does
 * everything as late as it may: who does not wait has nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fake_cuda.h"
#include "portions.h"
#include "twice.h"

enum { RUN = 8, ROUNDS = 3 };

static int open_late(void **state)
{
    (void)state;
    open_device(NULL, NULL);
    fake_cuda_is_late = true;
    return 0;
}

static int close_late(void **state)
{
    (void)state;
    fake_cuda_is_late = false;
    close_device();
    return 0;
}

/* Work of which two steps are a portion; `at_once` of them are to be launched
 * together.  Returns how often the device was waited for. */
static int run_portions(int64_t n_items, int64_t at_once)
{
    const qcuda_work work = {.n_items = n_items,
        .n_units = RUN,
        .cost = RUN / 2 * device.info.portion};
    fake_cuda_n_waits = 0;
    for (int64_t first = 0, n; first < RUN; first += n) {
        assert_int_equal(
            qcuda_begin_portion(&n, &device, &work, first, &err), QMOE_OK);
        assert_int_equal(n, at_once);
        for (uint32_t i = 0; i < n; i++)
            launch(&(step){.kind = STEP, .src = 1, .add = i, .blocks = 2});
    }
    return fake_cuda_n_waits;
}

static void test_long(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        assert_int_equal(run_portions(QCUDA_STEP_ITEMS + 1, 2), RUN / 2 - 1);
        end_run();
        assert_int_equal(qcuda_wait(&device, &err), QMOE_OK);
    }
    /* What was waited in is not held back the next time. */
    expect_counts(ROUNDS * RUN, 0, 0, 0);
}

static void test_step(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        assert_int_equal(run_portions(QCUDA_STEP_ITEMS, RUN), 0);
        end_run();
    }
    expect_counts(RUN, (ROUNDS - 1) * RUN, 1, 0);
}

/* Behind another operation's portion that still runs. */
static void test_first_portion_waits(void **state)
{
    (void)state;
    run_portions(QCUDA_STEP_ITEMS + 1, 2);
    assert_int_equal(run_portions(QCUDA_STEP_ITEMS + 1, 2), RUN / 2);
    end_run();
}

int main(void)
{
#define ON_A_DEVICE(test)                                                      \
    cmocka_unit_test_setup_teardown(test, open_late, close_late)
    const struct CMUnitTest tests[] = {
        ON_A_DEVICE(test_long),
        ON_A_DEVICE(test_step),
        ON_A_DEVICE(test_first_portion_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
