/* SPDX-License-Identifier: Apache-2.0
 * Synthetic checkpoints: the specification, the list of tensors, and values
 * that depend on seed, name and place alone. */

#include "scratch.h"

#include <math.h>

#include "checkpoint.h"
#include "synth.h"

static void check_refused(const char *specification, const char *text)
{
    qmi_error err = {0};
    qmi_synth synth;
    assert_int_equal(
        qmi_synth_parse(&synth, specification, &err), QMOE_E_INVALID);
    if (strstr(err.text, text) == NULL)
        fail_msg("no '%s' in: %s", text, err.text);
}

static void refuses_bad_specifications(void **state)
{
    (void)state;
    check_refused("synth:", "known are base-8");
    check_refused("synth:base-9", "unknown model");
    check_refused("synth:base-8?", "unknown key ''");
    check_refused("synth:base-8?seed", "seed must be");
    check_refused("synth:base-8?seed=-1", "seed must be");
    check_refused("synth:base-8?seed=99999999999999999999", "seed must be");
    check_refused("synth:base-8?experts=0", "from 1 to 8");
    check_refused("synth:base-8?experts=9", "from 1 to 8");
    check_refused("synth:base-8?encoder_blocks=13", "from 1 to 12");
    check_refused("synth:base-8?seed=1&", "unknown key ''");
    check_refused("synth:base-8?tokenizer=", "tokenizer must be");
    check_refused("synth:base-8?blocks=1", "unknown key 'blocks'");
    check_refused("synth:qwen3-30b", "qwen3-30b-a3b");
    check_refused("synth:qwen3-30b-a3b?experts=129", "from 1 to 128");
    check_refused("synth:qwen3-30b-a3b?blocks=49", "from 1 to 48");
    check_refused("synth:qwen3-30b-a3b?encoder_blocks=1", "unknown key");
    assert_false(qmi_is_synth("models/synth:base-8"));
}

static void reads_keys(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_synth s;
    assert_int_equal(
        qmi_synth_parse(&s,
            "synth:base-64?decoder_blocks=3&experts=5&seed=7&tokenizer=a/b",
            &err),
        QMOE_OK);
    assert_int_equal(s.config.n_experts, 5);
    assert_int_equal(s.config.n_blocks[QMI_SWITCH_ENCODER], 12);
    assert_int_equal(s.config.n_blocks[QMI_SWITCH_DECODER], 3);
    assert_int_equal(s.config.n_sparse[QMI_SWITCH_DECODER], 1);
    assert_int_equal(s.seed, 7);
    assert_string_equal(s.tokenizer, "a/b");
}

static const qmi_tensor *tensor(
    const qmi_checkpoint *c, const char *name, qmi_error *err)
{
    const qmi_tensor *t = NULL;
    if (qmi_checkpoint_require(c, &t, name, err) != QMOE_OK)
        fail_msg("%s", err->text);
    return t;
}

static qmi_checkpoint *open_checkpoint(const char *specification)
{
    qmi_error err = {0};
    qmi_checkpoint *c = NULL;
    if (qmi_source_open(&c, specification, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_true(qmi_checkpoint_is_generated(c));
    return c;
}

static const char wo_7[] =
    "encoder.block.1.layer.1.mlp.experts.expert_7.wo.weight";

/* A range alone has the values it has within the whole; what was released
 * comes back the same. */
static void makes_the_same_values_again(void **state)
{
    (void)state;
    enum { BEGIN = 12346, N = 5002 };
    qmi_error err = {0};
    qmi_checkpoint *c = open_checkpoint("synth:base-8?seed=3");
    const qmi_tensor *t = tensor(c, wo_7, &err);
    uint16_t some[N];
    const uint16_t *all = (const uint16_t *)t->data;
    assert_int_equal(
        qmi_checkpoint_fetch(c, all + BEGIN, N * 2, &err), QMOE_OK);
    assert_int_equal(all[BEGIN - 1], 0);
    assert_int_equal(all[BEGIN + N], 0);
    memcpy(some, all + BEGIN, sizeof some);
    qmi_checkpoint_release(c, t->data, t->n_bytes);
    assert_int_equal(all[BEGIN], 0);
    assert_int_equal(
        qmi_checkpoint_fetch(c, t->data, t->n_bytes, &err), QMOE_OK);
    assert_memory_equal(some, all + BEGIN, sizeof some);
    qmi_checkpoint_close(c);
}

static void spread_of(const qmi_tensor *t, double *mean, double *spread)
{
    const uint16_t *values = (const uint16_t *)t->data;
    size_t n = (size_t)(t->n_bytes / 2);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        double v = (double)qmi_bf16_to_f32(values[i]);
        sum += v;
        squares += v * v;
    }
    *mean = sum / (double)n;
    *spread = sqrt(squares / (double)n);
}

static void makes_normal_values(void **state)
{
    (void)state;
    static const char norm[] = "encoder.final_layer_norm.weight";
    qmi_error err = {0};
    double mean, spread;
    qmi_checkpoint *c = open_checkpoint("synth:base-8?seed=3");
    const qmi_tensor *t = tensor(c, wo_7, &err);
    assert_int_equal(
        qmi_checkpoint_fetch(c, t->data, t->n_bytes, &err), QMOE_OK);
    spread_of(t, &mean, &spread);
    double expected = 1 / sqrt(3072);
    assert_true(fabs(mean) < 5 * expected / sqrt(768.0 * 3072));
    assert_true(fabs(spread / expected - 1) < 0.003);
    t = tensor(c, norm, &err);
    assert_int_equal(
        qmi_checkpoint_fetch(c, t->data, t->n_bytes, &err), QMOE_OK);
    spread_of(t, &mean, &spread);
    assert_true(mean == 1 && spread == 1);
    qmi_checkpoint_close(c);
}

/* Seed and name decide. */
static void makes_different_matrices(void **state)
{
    (void)state;
    static const char wo_6[] =
        "encoder.block.1.layer.1.mlp.experts.expert_6.wo.weight";
    qmi_error err = {0};
    qmi_checkpoint *a = open_checkpoint("synth:base-8?seed=3");
    qmi_checkpoint *b = open_checkpoint("synth:base-8?seed=4");
    const qmi_tensor *const t[] = {
        tensor(a, wo_7, &err), tensor(b, wo_7, &err), tensor(a, wo_6, &err)};
    assert_int_equal(qmi_checkpoint_fetch(a, t[0]->data, 64, &err), QMOE_OK);
    assert_int_equal(qmi_checkpoint_fetch(b, t[1]->data, 64, &err), QMOE_OK);
    assert_int_equal(qmi_checkpoint_fetch(a, t[2]->data, 64, &err), QMOE_OK);
    assert_memory_not_equal(t[0]->data, t[1]->data, 64);
    assert_memory_not_equal(t[0]->data, t[2]->data, 64);
    qmi_checkpoint_close(a);
    qmi_checkpoint_close(b);
}

/* All of c-2048 has its place; what is not fetched is not in memory. */
static void opens_three_terabytes(void **state)
{
    (void)state;
    static const char last[] =
        "decoder.block.14.layer.2.mlp.experts.expert_2047.wo.weight";
    qmi_error err = {0};
    qmi_checkpoint *c = open_checkpoint("synth:c-2048");
    const qmi_tensor *t = tensor(c, last, &err);
    assert_int_equal(t->shape[0], 2080);
    assert_int_equal(t->shape[1], 6144);
    const qmi_tensor *first = tensor(c, "shared.weight", &err);
    assert_true((uint64_t)(t->data - first->data) > UINT64_C(3000000000000));
    assert_int_equal(
        qmi_checkpoint_fetch(c, t->data, t->n_bytes, &err), QMOE_OK);
    double mean, spread;
    spread_of(t, &mean, &spread);
    assert_true(fabs(spread * sqrt(6144) - 1) < 0.003);
    qmi_checkpoint_close(c);
}

/* The tensors of a decoder-only model are those of its architecture. */
static void opens_decoders(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_checkpoint *c = open_checkpoint("synth:qwen3-30b-a3b?experts=3");
    const qmi_tensor *down =
        tensor(c, "model.layers.47.mlp.experts.2.down_proj.weight", &err);
    const qmi_tensor *norm =
        tensor(c, "model.layers.0.self_attn.q_norm.weight", &err);
    assert_null(
        qmi_checkpoint_find(c, "model.layers.0.mlp.experts.3.up_proj.weight"));
    assert_int_equal(down->shape[0], 2048);
    assert_int_equal(down->shape[1], 768);
    assert_true(down->is_view);
    assert_int_equal(
        qmi_checkpoint_fetch(c, down->data, down->n_bytes, &err), QMOE_OK);
    double mean, spread;
    spread_of(down, &mean, &spread);
    assert_true(fabs(spread * sqrt(768) - 1) < 0.003);
    assert_int_equal(norm->shape[0], 128);
    assert_false(norm->is_view);
    assert_int_equal(
        qmi_checkpoint_fetch(c, norm->data, norm->n_bytes, &err), QMOE_OK);
    spread_of(norm, &mean, &spread);
    assert_true(mean == 1 && spread == 1);
    qmi_checkpoint_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_bad_specifications),
        cmocka_unit_test(reads_keys),
        cmocka_unit_test(makes_the_same_values_again),
        cmocka_unit_test(makes_normal_values),
        cmocka_unit_test(makes_different_matrices),
        cmocka_unit_test(opens_three_terabytes),
        cmocka_unit_test(opens_decoders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
