/* SPDX-License-Identifier: Apache-2.0
 * Graphs of the golden models, step by step: each is the text in
 * tests/golden/graphs.  `test_graph MODEL` prints that of a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const char *const programs[QMI_N_PROGRAMS] = {
    "encode", "cross", "decode"};

static void put_slot(
    FILE *out, const qmoe_model *m, const char *what, qmi_slot slot)
{
    const qmi_slot_spec *spec = &m->graph.slots[slot];
    if (slot != QMI_NONE)
        fprintf(out, " %s=%s[%d]", what, spec->name, (int)spec->width);
}

/* A cache is known by its rule, its block, and what number it has of those. */
static void put_cache(
    FILE *out, const qmoe_model *m, const char *what, qmi_cache cache)
{
    const qmi_cache_spec *spec = &m->graph.caches[cache], *other;
    int number = 0;
    if (cache == QMI_NONE)
        return;
    for (qmi_cache i = 1; i < cache; i++) {
        other = &m->graph.caches[i];
        number += other->rule == spec->rule && other->block == spec->block;
    }
    fprintf(out, " %s=%s/%d/%d[%d]", what,
        spec->rule == QMI_CACHE_GROWING ? "growing" : "encoded",
        (int)m->blocks[spec->block].number, number, (int)spec->width);
}

static void put_attention(FILE *out, const qmoe_model *m, const qmi_step *s)
{
    put_slot(out, m, "k", s->u.attention.k);
    put_slot(out, m, "v", s->u.attention.v);
    put_cache(out, m, "k", s->u.attention.k_cache);
    put_cache(out, m, "v", s->u.attention.v_cache);
    fprintf(out, " heads=%d width=%d scale=%g causal=%d",
        (int)s->u.attention.n_heads, (int)s->u.attention.d_key,
        (double)s->u.attention.scale, s->u.attention.causal);
    if (s->u.attention.bias == QMI_NONE)
        return;
    const qmi_table_spec *t = &m->graph.tables[s->u.attention.bias];
    const qmi_weight *w = &m->weights[t->weight];
    fprintf(out, " bias=%s,%d,%d,%d", w->name, t->bidirectional, (int)w->n_rows,
        (int)t->max_distance);
}

static void put_parameters(FILE *out, const qmoe_model *m, const qmi_step *s)
{
    switch (s->kind) {
    case QMI_OP_RMSNORM:
        fprintf(out, " epsilon=%g", (double)s->u.rmsnorm.epsilon);
        break;
    case QMI_OP_LINEAR:
        fprintf(out, " alpha=%.9g relu=%d", (double)s->u.linear.alpha,
            s->u.linear.act == QMI_ACT_RELU);
        break;
    case QMI_OP_KV_STORE:
        put_cache(out, m, "cache", s->u.kv_store.cache);
        break;
    case QMI_OP_ATTENTION:
        put_attention(out, m, s);
        break;
    case QMI_OP_ROUTE:
        put_slot(out, m, "chosen", s->u.route.chosen);
        fprintf(out, " experts=%d top_k=%d", (int)s->u.route.n_experts,
            (int)s->u.route.top_k);
        break;
    case QMI_OP_EXPERT_FFN:
        put_slot(out, m, "chosen", s->u.expert_ffn.chosen);
        put_slot(out, m, "scale", s->u.expert_ffn.scale);
        fprintf(out, " top_k=%d", (int)s->u.expert_ffn.top_k);
        break;
    default:
        break;
    }
}

static void put_step(
    FILE *out, const qmoe_model *m, int program, const qmi_step *s)
{
    fprintf(out, "%s", programs[program]);
    if (s->block >= 0)
        fprintf(out, " %d", (int)m->blocks[s->block].number);
    fprintf(out, ": %s (%s)", qmi_op_name(s->kind), qmoe_role_name(s->role));
    put_slot(out, m, "dst", s->dst);
    put_slot(out, m, "src", s->src);
    put_slot(out, m, "residual", s->residual);
    put_parameters(out, m, s);
    for (int i = 0; i < s->n_weights; i++)
        fprintf(out, " %s", m->weights[s->weights[i]].name);
    fprintf(out, "\n");
}

static void put_graph(FILE *out, const qmoe_model *m)
{
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        for (size_t i = 0; i < m->graph.programs[p].n; i++)
            put_step(out, m, p, &m->graph.programs[p].items[i]);
}

/* ---- what holds in every graph ---- */

static void check_cache(const qmoe_model *m, const qmi_step *s, qmi_cache cache)
{
    assert_true(cache >= 0 && (size_t)cache <= m->graph.n_caches);
    if (cache != QMI_NONE)
        assert_int_equal(m->graph.caches[cache].block, s->block);
}

/* Numbers are in their lists, widths are those of the weights. */
static void check_step(const qmoe_model *m, const qmi_step *s)
{
    const qmi_slot_spec *slots = m->graph.slots;
    const qmi_slot used[] = {s->dst, s->src, s->residual};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        assert_true(used[i] >= 0 && (size_t)used[i] <= m->graph.n_slots);
    assert_true(s->block < m->n_blocks);
    assert_true(s->role < QMOE_ROLE_COUNT);
    for (int i = 0; i < s->n_weights; i++)
        assert_true(s->weights[i] < m->n_weights);
    if (s->kind == QMI_OP_LINEAR) {
        const qmi_weight *w = &m->weights[s->weights[0]];
        assert_int_equal(slots[s->dst].width, w->n_rows);
        assert_int_equal(slots[s->src].width, w->n_cols);
    }
    if (s->kind == QMI_OP_KV_STORE) {
        check_cache(m, s, s->u.kv_store.cache);
        assert_int_equal(
            slots[s->src].width, m->graph.caches[s->u.kv_store.cache].width);
    }
    if (s->kind == QMI_OP_ATTENTION) {
        check_cache(m, s, s->u.attention.k_cache);
        check_cache(m, s, s->u.attention.v_cache);
        assert_int_equal(
            slots[s->dst].width, s->u.attention.n_heads * s->u.attention.d_key);
    }
}

static char *read_all(FILE *file)
{
    static char text[1 << 16];
    rewind(file);
    const size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = '\0';
    return text;
}

static void check_model(const char *name, const char *directory)
{
    char path[512];
    qmoe_context *context = NULL;
    qmoe_model *m = NULL;
    snprintf(path, sizeof path, "%s/%s/%s", QMOE_SOURCE_DIR, directory, name);
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(qmoe_model_open(&m, context, path), QMOE_OK);
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        for (size_t i = 0; i < m->graph.programs[p].n; i++)
            check_step(m, &m->graph.programs[p].items[i]);
    FILE *made = tmpfile();
    assert_non_null(made);
    put_graph(made, m);
    char *got = strdup(read_all(made));
    fclose(made);
    snprintf(path, sizeof path, "%s/tests/golden/graphs/%s.txt",
        QMOE_SOURCE_DIR, name);
    FILE *golden = fopen(path, "r");
    assert_non_null(golden);
    assert_string_equal(got, read_all(golden));
    fclose(golden);
    free(got);
    qmoe_model_close(m);
    qmoe_context_destroy(context);
}

static void test_graphs(void **state)
{
    (void)state;
    check_model("switch-mini", "models");
    check_model("full-sparse", "tests/golden");
    check_model("three-heads", "tests/golden");
    check_model("tied", "tests/golden");
    check_model("untied", "tests/golden");
}

static int print_model(const char *path)
{
    qmoe_context *context = NULL;
    qmoe_model *m = NULL;
    if (qmoe_context_create(&context, NULL) != QMOE_OK ||
        qmoe_model_open(&m, context, path) != QMOE_OK)
        return 1;
    put_graph(stdout, m);
    qmoe_model_close(m);
    qmoe_context_destroy(context);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graphs),
    };
    if (argc == 2)
        return print_model(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
