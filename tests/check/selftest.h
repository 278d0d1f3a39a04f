/* SPDX-License-Identifier: Apache-2.0
 * The harness against variants broken on purpose. */
#ifndef QMOE_CHECK_SELFTEST_H
#define QMOE_CHECK_SELFTEST_H

#include "report.h"

/* Ends with the summary line; 0 when every expectation held. */
int run_selftest(const check_options *options);

/* ---- shared by the selftest's files ---- */

/* Counts, and tells when it does not hold. */
void expect(bool holds, const char *format, ...) QMI_PRINTF(2, 3);

/* How often over the cases a mutant must be caught. */
typedef enum how_often {
    SOMETIMES,
    SOMETIMES_WIDE, /* on those beyond T5's forms, the only ones that run */
    ALWAYS
} how_often;

/* A way to be wrong. */
typedef struct mutant {
    const char *name;
    int op; /* qmi_op_kind; -1: any operation */
    /* Called for what the mutant can be wrong at; NULL: anything. */
    bool (*applies)(const problem *p);
    qmoe_status (*run)(qmi_device *device, const qmi_op *op, qmi_error *err);
    how_often often;
    /* Verdicts must have all of `must` and nothing outside must | may. */
    unsigned must, may;
} mutant;

/* Tables; NULL past the end. */
const mutant *mutant_at(size_t index);           /* mutants.c: any operation */
const mutant *semantic_mutant_at(size_t index);  /* mutants_semantic.c */
const mutant *attention_mutant_at(size_t index); /* mutants_attention.c */
const mutant *decoder_mutant_at(size_t index);   /* mutants_decoder.c */

/* The problem being run, for mutants that need its operands and bounds. */
extern const problem *mutant_problem;

/* A host backend whose one variant of every operation is `toy_run`.  Its
 * device remembers the number of threads. */
extern qmoe_status (*toy_run)(
    qmi_device *device, const qmi_op *op, qmi_error *err);
const qmi_backend *toy_backend(void);
int toy_threads(const qmi_device *device);

/* The right answer. */
qmoe_status run_reference(qmi_device *device, const qmi_op *op, qmi_error *err);

/* selftest_runner.c: children, coverage, timing. */
void selftest_runner(void);

#endif
