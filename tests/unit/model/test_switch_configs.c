/* SPDX-License-Identifier: Apache-2.0
 * Named configurations: the texts configure the architecture they are of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "arch_switch.h"
#include "switch_configs.h"

static void test_configure(void **state)
{
    (void)state;
    const qmi_switch_config *c;
    size_t n = 0;
    for (; (c = qmi_switch_config_at(n)) != NULL; n++) {
        qmi_error err = {0};
        qmi_switch got;
        char *text = qmi_switch_config_text(c);
        assert_non_null(text);
        cJSON *json = cJSON_Parse(text);
        assert_non_null(json);
        assert_int_equal(
            qmi_switch_configure(&got, json, "config.json", &err), QMOE_OK);
        assert_int_equal(got.shape.d_model, c->d_model);
        assert_int_equal(got.d_ff, c->d_ff);
        assert_int_equal(got.n_experts, c->n_experts);
        assert_int_equal(got.tied_head, c->tied_head);
        for (int s = 0; s < QMI_SWITCH_STACKS; s++) {
            int64_t n_sparse = 0;
            for (int64_t b = 0; b < got.n_blocks[s]; b++)
                n_sparse += qmi_switch_is_sparse(&got, s, b);
            assert_int_equal(n_sparse, c->n_sparse[s]);
        }
        cJSON_Delete(json);
        cJSON_free(text);
        assert_ptr_equal(qmi_switch_config_find(c->name), c);
    }
    assert_int_equal(n, 8);
    assert_null(qmi_switch_config_find("base-7"));
}

/* Weights in experts, as published for the models. */
static void test_expert_weights(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t n;
    } known[] = {
        {"base-8", 452984832},
        {"base-128", 7247757312},
        {"large-128", 25769803776},
        {"c-2048", 1570347417600},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const qmi_switch_config *c = qmi_switch_config_find(known[i].name);
        assert_non_null(c);
        assert_true(2 * c->d_model * c->d_ff * c->n_experts *
                        (c->n_sparse[0] + c->n_sparse[1]) ==
                    known[i].n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configure),
        cmocka_unit_test(test_expert_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
