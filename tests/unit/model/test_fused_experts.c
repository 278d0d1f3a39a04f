/* SPDX-License-Identifier: Apache-2.0
 * Which tensors hold all experts of a block, and in which order: shapes that
 * say so, shapes that are the same in both orders, and what is refused. */
#include "fused_experts.h"
#include "scratch.h"

#include <stdlib.h>

enum { E = 3, MAX_TENSORS = 3 };

typedef struct tensor {
    const char *name, *dtype; /* name NULL: the end */
    int shape[3];             /* 0: no such dimension */
} tensor;

typedef struct fixture {
    tensor tensors[MAX_TENSORS + 1];
    int d_ff;            /* 0: 4 */
    bool is_transposed;  /* expected */
    const char *refused; /* a part of the error; NULL: found */
    qmoe_status status;  /* when refused */
} fixture;

#define GATE_UP "x.gate_up_proj", "BF16"
#define DOWN "x.down_proj", "BF16"

static const fixture fixtures[] = {
    {.tensors = {{GATE_UP, {E, 8, 6}}, {DOWN, {E, 6, 4}}}},
    {.tensors = {{GATE_UP, {E, 6, 8}}, {DOWN, {E, 4, 6}}},
        .is_transposed = true},
    /* One of them is square: the other one tells the order. */
    {.d_ff = 6, .tensors = {{GATE_UP, {E, 12, 6}}, {DOWN, {E, 6, 6}}}},
    {.d_ff = 6,
        .tensors = {{GATE_UP, {E, 6, 12}}, {DOWN, {E, 6, 6}}},
        .is_transposed = true},
    {.d_ff = 3, .tensors = {{GATE_UP, {E, 6, 6}}, {DOWN, {E, 6, 3}}}},
    {.d_ff = 3,
        .tensors = {{GATE_UP, {E, 6, 6}}, {DOWN, {E, 3, 6}}},
        .is_transposed = true},
    /* Hostile ones. */
    {.tensors = {{GATE_UP, {E, 8, 6}}, {DOWN, {E, 4, 6}}},
        .refused = "x.down_proj': BF16 [3, 4, 6], expected the order of "
                   "gate_up_proj"},
    {.tensors = {{GATE_UP, {E, 8, 6}}},
        .refused = "tensor 'x.down_proj' is missing"},
    {.tensors = {{DOWN, {E, 6, 4}}},
        .refused = "tensor 'x.gate_up_proj' is missing"},
    {.tensors = {{GATE_UP, {E + 1, 8, 6}}, {DOWN, {E, 6, 4}}},
        .refused = "x.gate_up_proj': BF16 [4, 8, 6], expected a float tensor "
                   "[3, 8, 6] or [3, 6, 8]"},
    {.tensors = {{GATE_UP, {E, 8, 6}}, {DOWN, {E - 1, 6, 4}}},
        .refused = "x.down_proj': BF16 [2, 6, 4], expected a float tensor "
                   "[3, 6, 4] or [3, 4, 6]"},
    {.tensors = {{GATE_UP, {E, 7, 6}}, {DOWN, {E, 6, 4}}},
        .refused = "BF16 [3, 7, 6], expected"},
    {.tensors = {{GATE_UP, {E, 48}}, {DOWN, {E, 6, 4}}},
        .refused = "BF16 [3, 48], expected"},
    {.tensors = {{"x.gate_up_proj", "U8", {E, 8, 6}}, {DOWN, {E, 6, 4}}},
        .refused = "U8 [3, 8, 6], expected a float tensor"},
    /* gpt-oss. */
    {.tensors = {{GATE_UP, {E, 6, 8}}, {"x.gate_up_proj_bias", "BF16", {E, 8}},
         {DOWN, {E, 4, 6}}},
        .refused = "x.gate_up_proj_bias': experts with interleaved gate and up",
        .status = QMOE_E_UNSUPPORTED},
    {.tensors = {{"x.gate_up_proj_blocks", "U8", {E, 8, 16}}},
        .refused = "x.gate_up_proj_blocks': experts with interleaved gate",
        .status = QMOE_E_UNSUPPORTED},
    /* Nothing of the kind. */
    {.tensors = {{"y.gate_up_proj", "BF16", {E, 8, 6}}}},
};

/* A checkpoint of these tensors, all zero. */
static const char *write_tensors(const tensor *tensors)
{
    static uint8_t file[4096];
    char *header = (char *)file + 8;
    const size_t capacity = 1024;
    size_t n = (size_t)snprintf(header, capacity, "{"), at = 0;
    const char *directory = scratch_directory("fused-experts");
    scratch_text("fused-experts/config.json", "{\"model_type\":\"x\"}");
    for (const tensor *t = tensors; t->name != NULL; t++) {
        const int last = t->shape[2] != 0 ? t->shape[2] : 1;
        const size_t size = strcmp(t->dtype, "U8") == 0 ? 1 : 2;
        const size_t end =
            at + size * (size_t)(t->shape[0] * t->shape[1] * last);
        n += (size_t)snprintf(header + n, capacity - n,
            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%d,%d", at != 0 ? "," : "",
            t->name, t->dtype, t->shape[0], t->shape[1]);
        if (t->shape[2] != 0)
            n += (size_t)snprintf(header + n, capacity - n, ",%d", t->shape[2]);
        n += (size_t)snprintf(
            header + n, capacity - n, "],\"data_offsets\":[%zu,%zu]}", at, end);
        at = end;
    }
    n += (size_t)snprintf(header + n, capacity - n, "}");
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)n >> (8 * i));
    assert_true(8 + n + at <= sizeof file);
    memset(header + n, 0, at);
    scratch_write("fused-experts/model.safetensors", file, 8 + n + at);
    return directory;
}

static void check(const fixture *f)
{
    qmi_checkpoint *c = NULL;
    qmi_fused_experts got;
    qmi_error err = {0};
    if (qmi_checkpoint_open(&c, write_tensors(f->tensors), &err) != QMOE_OK)
        fail_msg("%s", err.text);
    const qmoe_status status =
        qmi_fused_find(&got, c, "x", E, f->d_ff != 0 ? f->d_ff : 4, 6, &err);
    if (f->refused != NULL) {
        assert_error(status, f->status != QMOE_OK ? f->status : QMOE_E_FORMAT,
            err.text, f->refused);
        /* The file, or the directory where none has the tensor. */
        assert_non_null(strstr(err.text, "fused-experts"));
    } else {
        const qmi_tensor *expected = qmi_checkpoint_find(c, "x.gate_up_proj");
        if (status != QMOE_OK)
            fail_msg("%s", err.text);
        assert_ptr_equal(got.gate_up, expected);
        assert_ptr_equal(got.down, qmi_checkpoint_find(c, "x.down_proj"));
        assert_int_equal(got.is_transposed, f->is_transposed);
    }
    qmi_checkpoint_close(c);
}

static void test_find(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++)
        check(&fixtures[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
