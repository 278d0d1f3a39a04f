/* SPDX-License-Identifier: Apache-2.0
 * Tasks per token: each token once, whether the team or the caller works, and
 * small work on the caller alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "cpu.h"

enum { MOST = 1000, N_THREADS = 3 };

typedef struct visits {
    int n[MOST];
    int by[N_THREADS]; /* whether a thread came */
} visits;

static void visit(void *context, int64_t t, int thread)
{
    visits *v = context;
    v->n[t]++;
    v->by[thread] = 1;
}

static void run(visits *v, int64_t n_tokens, int64_t n_values)
{
    qmi_error err = {0};
    qmi_device device = {.n_threads = N_THREADS};
    memset(v, 0, sizeof *v);
    assert_int_equal(qmi_team_open(&device.team, N_THREADS, &err), QMOE_OK);
    assert_int_equal(
        qcpu_each_token(&device, n_tokens, n_values, visit, v, &err), QMOE_OK);
    qmi_team_close(device.team);
    for (int64_t t = 0; t < MOST; t++)
        assert_int_equal(v->n[t], t < n_tokens ? 1 : 0);
}

static void test_each_token_once(void **state)
{
    (void)state;
    visits v;
    run(&v, 0, 64);
    run(&v, MOST, 1);
    run(&v, MOST, 64);
    run(&v, MOST - 1, 4096);
}

static void test_small_work_stays_with_the_caller(void **state)
{
    (void)state;
    visits v;
    run(&v, 1, 1 << 20);
    assert_int_equal(v.by[1] + v.by[2], 0);
    run(&v, 7, 64);
    assert_int_equal(v.by[1] + v.by[2], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_token_once),
        cmocka_unit_test(test_small_work_stays_with_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
