/* SPDX-License-Identifier: Apache-2.0
 * generation_config.json beside a checkpoint: end ids and sampling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

#define DIRECTORY QMOE_TEST_DIR "/generation"
#define SOURCE QMOE_SOURCE_DIR "/tests/golden/decoders/llama/"

static void link_file(const char *name)
{
    char from[512], to[512];
    snprintf(from, sizeof from, SOURCE "%s", name);
    snprintf(to, sizeof to, DIRECTORY "/%s", name);
    unlink(to);
    assert_int_equal(symlink(from, to), 0);
}

/* Opens the model with this file beside it. */
static qmoe_status open_with(
    qmoe_context *context, qmoe_model **out, const char *text)
{
    FILE *file = fopen(DIRECTORY "/generation_config.json", "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    return qmoe_model_open(out, context, DIRECTORY);
}

static void reads_what_is_recommended(void **state)
{
    (void)state;
    qmoe_context *context;
    qmoe_model *model;
    qmoe_generate_options got;
    (void)mkdir(DIRECTORY, 0777);
    link_file("config.json");
    link_file("model.safetensors");
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    /* config.json says 2. */
    assert_int_equal(open_with(context, &model,
                         "{\"eos_token_id\": [2, 7, 9], \"do_sample\": true,"
                         " \"top_k\": 20, \"top_p\": 0.9, \"min_p\": 3,"
                         " \"repetition_penalty\": 1.5}"),
        QMOE_OK);
    assert_int_equal(model->shape.n_end_ids, 3);
    assert_true(qmi_shape_is_end(&model->shape, 2));
    assert_true(qmi_shape_is_end(&model->shape, 9));
    assert_false(qmi_shape_is_end(&model->shape, 8));
    qmoe_model_generation_defaults(model, &got);
    assert_true(got.temperature == 1 && got.top_k == 20 && got.top_p == 0.9f);
    assert_true(got.min_p == 0 && got.repetition_penalty == 1.5f);
    qmoe_model_close(model);
    /* Without do_sample its numbers are not used. */
    assert_int_equal(open_with(context, &model, "{\"top_k\": 20}"), QMOE_OK);
    qmoe_model_generation_defaults(model, &got);
    assert_true(got.temperature == 0 && got.top_k == 0);
    assert_int_equal(model->shape.n_end_ids, 1);
    qmoe_model_close(model);
    static const char *const broken[] = {
        "{\"eos_token_id\": 96}", "{\"eos_token_id\": [\"x\"]}", "[]", "{"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        assert_int_equal(open_with(context, &model, broken[i]), QMOE_E_FORMAT);
        assert_non_null(
            strstr(qmoe_context_error(context), "generation_config.json"));
    }
    qmoe_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_recommended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
