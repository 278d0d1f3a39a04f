/* SPDX-License-Identifier: Apache-2.0
 * Whole models on the emulated CUDA device: the same greedy tokens as on the
 * CPU; memory that is too small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare_models.h"

static qmoe_context *context;
static int n_loads;

static int on_progress(void *user, const qmoe_progress *p)
{
    (void)user;
    if (strcmp(p->stage, "load") != 0)
        return 0;
    n_loads++;
    return p->done <= p->total ? 0 : 1;
}

static void test_uncompressed(void **state)
{
    (void)state;
    compare_uncompressed(context, "cuda");
}

static void test_compressed(void **state)
{
    (void)state;
    compare_compressed(context, "cuda");
}

static void test_choices(void **state)
{
    (void)state;
    compare_choices(context, "cuda");
}

static qmoe_status try_memory(const char *limits, uint64_t own_limit)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {.size = sizeof options,
        .backend = "cuda",
        .device_memory_bytes = own_limit};
    assert_int_equal(
        qmoe_model_open(&model, context, QMOE_SOURCE_DIR "/models/switch-mini"),
        QMOE_OK);
    n_loads = 0;
    setenv("QMOE_CUDA_EMU_LIMITS", limits, 1);
    qmoe_status status = qmoe_session_create(&session, model, &options);
    unsetenv("QMOE_CUDA_EMU_LIMITS");
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    return status;
}

/* Too little is found out before anything is loaded. */
static void test_too_small(void **state)
{
    (void)state;
    assert_int_equal(try_memory("memory=3000000", 0), QMOE_E_NOMEM);
    assert_non_null(strstr(qmoe_context_error(context), "3000000 are free"));
    assert_non_null(strstr(qmoe_context_error(context), "weights need"));
    assert_int_equal(n_loads, 0);
    assert_int_equal(try_memory("", 3000000), QMOE_E_NOMEM);
    assert_non_null(strstr(qmoe_context_error(context), "3000000 are free"));
    assert_int_equal(n_loads, 0);
    assert_int_equal(try_memory("", 0), QMOE_OK);
    assert_true(n_loads > 1);
}

int main(void)
{
    const qmoe_context_options options = {.size = sizeof options,
        .backend_path = QMOE_MODULE_DIR,
        .progress = on_progress};
    char reason[256] = "no cuda entry";
    if (qmoe_context_create(&context, &options) != QMOE_OK)
        return 1;
    if (!find_device(context, "cuda", reason, sizeof reason)) {
        printf("no emulated device: %s\n", reason);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uncompressed),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_too_small),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    qmoe_context_destroy(context);
    return failed;
}
