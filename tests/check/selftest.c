/* SPDX-License-Identifier: Apache-2.0
 * The harness against itself: good variants must pass, broken ones must fail
 * by the expected check, and the case lists must be able to tell. */
#include "selftest.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static size_t n_held, n_broken;

void expect(bool holds, const char *format, ...)
{
    if (holds) {
        n_held++;
        return;
    }
    va_list args;
    va_start(args, format);
    printf("FAIL selftest: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    n_broken++;
}

/* ---- mutants ---- */

/* Big cases add time and no insight here. */
static bool is_small(const check_case *c)
{
    const int64_t n_tokens = c->n_heads != 0 ? 600 : 33;
    return !c->corrupt && c->n_rows * c->n_cols * c->n_mats <= 20000 &&
           c->n_tokens <= n_tokens &&
           c->n_rows * c->n_cols * c->n_tokens <= 100000;
}

typedef struct outcome {
    size_t n_runs, n_caught; /* caught: all of `must` */
    unsigned outside;        /* bits nobody expected */
    char text[CHECK_TEXT];   /* of the first unexpected verdict */
} outcome;

static void note(outcome *o, const mutant *m, const verdict *v)
{
    unsigned outside = v->failed & ~(m->must | m->may);
    bool caught = (v->failed & m->must) == m->must && m->must != 0;
    o->n_runs++;
    o->n_caught += caught;
    if (outside != 0 && o->outside == 0)
        snprintf(o->text, sizeof o->text, "%s", v->text);
    o->outside |= outside;
    if (v->skipped)
        o->outside |= CHECK_HARNESS;
}

static void expect_outcome(const outcome *o, const mutant *m, const char *op)
{
    char names[128];
    check_names(names, sizeof names, m->must);
    expect(o->outside == 0, "%s %s: unexpected %s", op, m->name, o->text);
    if (m->must == 0)
        expect(o->n_runs != 0, "%s %s: never ran", op, m->name);
    else if (m->often == ALWAYS)
        expect(o->n_caught == o->n_runs && o->n_runs != 0,
            "%s %s: caught by [%s] in %zu of %zu cases", op, m->name, names,
            o->n_caught, o->n_runs);
    else
        expect(o->n_caught != 0, "%s %s: [%s] never caught it in %zu cases", op,
            m->name, names, o->n_runs);
}

static void run_mutant(
    outcome *o, const mutant *m, problem *p, const target *toy)
{
    verdict v;
    if (m->applies != NULL && !m->applies(p))
        return;
    toy_run = m->run;
    mutant_problem = p;
    check_run(&v, p, toy, 0);
    note(o, m, &v);
}

static problem *create(int op, const check_case *c, uint64_t seed)
{
    qmi_error err = {0};
    problem *p = NULL;
    qmoe_status status = problem_create(&p, (qmi_op_kind)op, c, seed, &err);
    expect(status == QMOE_OK, "%s: %s", c->name, err.text);
    return p;
}

enum { MAX_MUTANTS = 32, CASES_PER_OP = 24 };

/* Every general mutant on an even choice of the operation's cases. */
static void test_general(
    int op, const case_list *cases, const target *toy, uint64_t seed)
{
    outcome outcomes[MAX_MUTANTS] = {0};
    size_t stride = cases->n / CASES_PER_OP + 1;
    bool weightless = true, inputless = true;
    for (size_t i = 0; i < cases->n; i += stride) {
        if (!is_small(&cases->cases[i]))
            continue;
        problem *p = create(op, &cases->cases[i], seed);
        if (p == NULL)
            continue;
        weightless = p->n_weights == 0;
        inputless = p->n_operands == 1;
        for (size_t m = 0; mutant_at(m) != NULL; m++)
            run_mutant(&outcomes[m], mutant_at(m), p, toy);
        problem_destroy(p);
    }
    for (size_t m = 0; mutant_at(m) != NULL; m++) {
        bool applies = outcomes[m].n_runs != 0;
        if (applies || mutant_at(m)->applies == NULL ||
            !(weightless || inputless))
            expect_outcome(
                &outcomes[m], mutant_at(m), qmi_op_name((qmi_op_kind)op));
    }
}

/* One mutant of one operation, on its cases until one catches it. */
static void test_semantic(
    const mutant *m, const case_list *cases, const target *toy, uint64_t seed)
{
    outcome o = {0};
    for (size_t i = 0; i < cases->n && o.n_caught == 0; i++) {
        const check_case *c = &cases->cases[i];
        if (!is_small(c) || (m->often == SOMETIMES_WIDE && !c->wide))
            continue;
        problem *p = create(m->op, c, seed);
        if (p == NULL)
            continue;
        run_mutant(&o, m, p, toy);
        problem_destroy(p);
    }
    expect_outcome(&o, m, qmi_op_name((qmi_op_kind)m->op));
}

static void test_table(const mutant *(*at)(size_t index), int op,
    const case_list *cases, const target *toy, uint64_t seed)
{
    for (size_t i = 0; at(i) != NULL; i++)
        if (at(i)->op == op)
            test_semantic(at(i), cases, toy, seed);
}

/* ---- broken weights ---- */

static qmoe_status accept_anything(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)op;
    (void)err;
    return QMOE_OK;
}

static qmoe_status last_bound;

/* As on a device with memory of its own: read when bound. */
static qmoe_status bind_and_read(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err)
{
    last_bound = qmi_weight_check(host, 0, err);
    return last_bound == QMOE_OK ? qmi_host_weight_bind(out, device, host, err)
                                 : last_bound;
}

/* --list goes through broken weights, too. */
static void test_listed(problem *p, const target *toy)
{
    qmi_backend reader = *toy_backend();
    target t = *toy;
    reader.weight_bind = bind_and_read;
    t.backend = &reader;
    last_bound = QMOE_OK;
    expect(check_supported(p, &t, 0) && last_bound == QMOE_E_FORMAT,
        "%s: a broken weight is listed as a whole one", p->c->name);
}

static void test_corrupt(int op, const case_list *cases, const target *toy)
{
    for (size_t i = 0; i < cases->n; i++) {
        const check_case *c = &cases->cases[i];
        problem *p = c->corrupt ? create(op, c, 1) : NULL;
        verdict v;
        if (p == NULL)
            continue;
        toy_run = run_reference;
        test_listed(p, toy);
        check_run(&v, p, toy, 0);
        expect(v.failed == 0, "%s: refused, yet %s", c->name, v.text);
        toy_run = accept_anything;
        check_run(&v, p, toy, 0);
        expect(v.failed == CHECK_STATUS, "%s: accepted, but %s", c->name,
            v.failed != 0 ? v.text : "nobody minds");
        problem_destroy(p);
    }
}

/* ---- cases ---- */

/* A reproducer selects by substring: it must hit one case. */
static void test_names(int op, const case_list *cases)
{
    for (size_t i = 0; i < cases->n; i++)
        for (size_t j = 0; j < cases->n; j++)
            if (i != j && strstr(cases->cases[j].name, cases->cases[i].name))
                expect(false, "%s: case name '%s' is not unique",
                    qmi_op_name((qmi_op_kind)op), cases->cases[i].name);
    expect(cases->n != 0, "%s: no cases", qmi_op_name((qmi_op_kind)op));
}

static bool same_inputs(const problem *a, const problem *b)
{
    for (size_t i = 0; i < a->n_operands; i++) {
        const operand *o = &a->operands[i], *q = &b->operands[i];
        if (o->data.bytes != NULL &&
            memcmp(o->data.bytes, q->data.bytes,
                (size_t)(o->n_rows * o->n_cols) * 4) != 0)
            return false;
    }
    for (size_t i = 0; i < a->n_weights; i++)
        if (a->weight_hash[i] != b->weight_hash[i])
            return false;
    return true;
}

static void test_seeds(int op, const case_list *cases)
{
    size_t n_changed = 0;
    for (size_t i = 0; i < cases->n && i < 8; i++) {
        problem *a = create(op, &cases->cases[i], 1);
        problem *b = create(op, &cases->cases[i], 1);
        problem *c = create(op, &cases->cases[i], 2);
        if (a != NULL && b != NULL && c != NULL) {
            expect(same_inputs(a, b), "%s: the seed does not fix the inputs",
                cases->cases[i].name);
            n_changed += !same_inputs(a, c);
        }
        problem_destroy(a);
        problem_destroy(b);
        problem_destroy(c);
    }
    expect(n_changed != 0, "%s: the seed changes nothing",
        qmi_op_name((qmi_op_kind)op));
}

/* ---- small parts ---- */

static void test_stats(void)
{
    double samples[] = {5, 1, 4, 2, 3, 11, 10, 9, 8, 7, 6};
    sample_summary s = summarise(samples, 11);
    expect(s.n == 11 && s.median == 6 && s.p10 == 2 && s.p90 == 10,
        "median %g, p10 %g, p90 %g of 1..11", s.median, s.p10, s.p90);
    double two[] = {2, 1};
    expect(summarise(two, 2).median == 1.5, "median of 1 and 2");
    expect(summarise(two, 1).p90 == two[0], "a single sample");
    expect(summarise(NULL, 0).n == 0, "no samples");
}

static void test_value_rule(void)
{
    expect(value_in_bound(1.5f, 1.0f, 0.5), "on the bound");
    expect(!value_in_bound(1.5f, 1.0f, 0.49), "outside of the bound");
    expect(value_in_bound(NAN, NAN, 0), "NaN for NaN");
    expect(!value_in_bound(NAN, 1, INFINITY), "NaN for a number");
    expect(!value_in_bound(1, NAN, INFINITY), "a number for NaN");
    expect(value_in_bound(INFINITY, INFINITY, 0), "infinity for infinity");
    expect(!value_in_bound(INFINITY, -INFINITY, INFINITY), "sign of infinity");
    expect(!value_in_bound(INFINITY, 1, INFINITY), "infinity for a number");
    expect(!value_in_bound(1, INFINITY, INFINITY), "a number for infinity");
    expect(!value_in_bound(1, 2, NAN), "a bound that is no number");
}

int run_selftest(const check_options *options)
{
    qmi_error err = {0};
    target toy;
    test_stats();
    test_value_rule();
    if (target_open(&toy, toy_backend(), 0, &err) != QMOE_OK) {
        fprintf(
            stderr, "%s: error: %s\n", program_invocation_short_name, err.text);
        return 2;
    }
    for (int op = 0; op < QMI_OP_COUNT; op++) {
        case_list cases = {0};
        check_op_of((qmi_op_kind)op)->list(&cases, true);
        check_op_of((qmi_op_kind)op)->list(&cases, false);
        test_names(op, &cases);
        case_list_free(&cases);
        check_op_of((qmi_op_kind)op)->list(&cases, false);
        test_seeds(op, &cases);
        test_corrupt(op, &cases, &toy);
        test_general(op, &cases, &toy, options->seed);
        test_table(semantic_mutant_at, op, &cases, &toy, options->seed);
        test_table(attention_mutant_at, op, &cases, &toy, options->seed);
        test_table(decoder_mutant_at, op, &cases, &toy, options->seed);
        case_list_free(&cases);
    }
    target_close(&toy);
    selftest_runner();
    printf("%zu passed, %zu failed, 0 skipped\n", n_held, n_broken);
    return n_broken != 0 ? 1 : 0;
}
