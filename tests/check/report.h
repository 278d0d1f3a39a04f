/* SPDX-License-Identifier: Apache-2.0
 * Results of a run: collected from the children, counted, printed. */
#ifndef QMOE_CHECK_REPORT_H
#define QMOE_CHECK_REPORT_H

#include "check.h"
#include "stats.h"

enum { MAX_FILTERS = 32 };

typedef struct check_options {
    const char *backend, *variant;     /* NULL: all */
    const char *filters[MAX_FILTERS];  /* of cases: any of them */
    size_t n_filters;                  /* 0: all cases */
    const char *excepted[MAX_FILTERS]; /* no case with any of these */
    size_t n_excepted;
    int device; /* -1: all */
    int op;     /* qmi_op_kind; -1: all */
    uint64_t seed;
    bool bench, json, list;
    int64_t time_budget_ms; /* of one timing */
    int n_threads;          /* of a timed device; 0: all processors */
    int64_t timeout_ms;     /* of one step */
    bool quiet;             /* print nothing (selftest) */
} check_options;

typedef enum record_kind {
    RECORD_BEGIN,  /* a step starts: what to blame if the child dies */
    RECORD_RESULT, /* a variant was judged on a case */
    RECORD_TIMING,
    RECORD_FAILURE, /* of no single case: coverage, a missing backend */
    RECORD_SKIP,    /* the same, not a failure */
    RECORD_LISTED,
    RECORD_LOST, /* the device answers no more: the child ends here */
    RECORD_END   /* the child has seen everything */
} record_kind;

typedef struct timing {
    sample_summary seconds;
    double gigabytes, gigaflops; /* per second */
    double reference_ratio;      /* reference's median / this one's */
} timing;

/* One message of a child; small enough for an atomic write to a pipe. */
typedef struct record {
    record_kind kind;
    uint64_t step;
    char backend[16];
    int device; /* -1: of no device */
    int op;     /* -1: of no operation */
    char variant[32];
    char name[CHECK_NAME];
    char format[24]; /* of the weights; "" without */
    bool bench;
    verdict v;
    timing t;
} record;

typedef struct check_report {
    const check_options *options;
    record *records; /* all but RECORD_BEGIN, RECORD_LOST and RECORD_END */
    size_t n, capacity;
    size_t n_passed, n_failed, n_skipped, n_listed;
} check_report;

typedef struct tally {
    size_t n_passed, n_failed, n_skipped;
    double worst; /* share of a bound that an error used */
} tally;

void report_add(check_report *report, const record *r);
void report_free(check_report *report);
/* Results of one variant so far; a NULL variant stands for all. */
tally report_tally(const check_report *report, const char *backend, int device,
    int op, const char *variant);
/* All tables or the JSON document, then the summary line. */
void report_print(check_report *report);

/* "qmoe-check --backend ...": the command that repeats a result. */
void reproducer(char *text, size_t capacity, const record *r, uint64_t seed);

#endif
