/* SPDX-License-Identifier: Apache-2.0
 * Threads that work on one job at a time: the one place where the library asks
 * the system, or OpenMP, for threads.
 *
 * - The caller is one of the threads, number 0.  Where the system refuses
 *   threads a team is smaller, at last the caller alone.
 * - Which thread does what is left to chance, so a result must not depend on
 *   it: work is cut by sizes that do not depend on the number of threads, and
 *   each output is written by one item.
 * - Jobs do not nest.  A job begun by a thread that is at work on another one,
 *   of whatever team, is done by that thread alone, as its thread 0.
 * - Tasks neither block on one another nor end their thread. */
#ifndef QMI_TEAM_H
#define QMI_TEAM_H

#include <stdint.h>

#include "team_kind.h"

enum { QMI_MOST_THREADS = 1024 };

typedef struct qmi_team qmi_team;

/* n_threads include the caller.  E_INVALID: fewer than 1 or more than
 * QMI_MOST_THREADS; as qmi_team_check_kind. */
qmoe_status qmi_team_open(qmi_team **out, int n_threads, qmi_error *err);
void qmi_team_close(qmi_team *team);

/* Item `item` of a job; 0 <= thread < n_threads of the team, and no two calls
 * of one job with the same thread at once. */
typedef void (*qmi_task)(void *context, int64_t item, int thread);

/* Each of n_items once, in any order; returns when they are done.  One caller
 * of a team at a time.  The wish to end early (cancel.h) is looked at before
 * each item; E_CANCELLED: some were left out. */
qmoe_status qmi_team_run(qmi_team *team, int64_t n_items, qmi_task task,
    void *context, qmi_error *err);

/* `part` once on the caller and at most once on each other thread; returns when
 * all that began have ended.  Those that come after the caller's part has ended
 * may not begin at all, so parts take shares of the work from one another, and
 * that of the caller ends when there is nothing left to take.  More than
 * n_useful threads are not woken. */
void qmi_team_each(
    qmi_team *team, int64_t n_useful, qmi_team_part part, void *context);

/* The implementation in use: the environment variable QMOE_THREADS, "pool" or
 * "openmp", or the default of the build.  Read once per process. */
const char *qmi_team_kind_name(void);
/* E_INVALID where QMOE_THREADS is none of these or not in this build. */
qmoe_status qmi_team_check_kind(qmi_error *err);
/* How many threads a program gets that asks for no number: the processors it
 * may use or, with OpenMP, what OpenMP would use (OMP_NUM_THREADS). */
int qmi_default_threads(void);

#endif
