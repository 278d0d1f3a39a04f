/* SPDX-License-Identifier: Apache-2.0
 * What an implementation of team.h provides; team.c has the list of them.  One
 * of them is used throughout a process. */
#ifndef QMI_TEAM_KIND_H
#define QMI_TEAM_KIND_H

#include <stdint.h>

#include "error.h"

/* What one thread does for a job; the team has n_threads of them. */
typedef void (*qmi_team_part)(void *context, int thread, int n_threads);

typedef struct qmi_team_kind {
    const char *name;
    /* Other threads than the caller, up to n_threads - 1 >= 1 of them; *out is
     * NULL, with QMOE_OK, where the system refuses every one. */
    qmoe_status (*open)(void **out, int n_threads, qmi_error *err);
    void (*close)(void *threads);
    /* As qmi_team_each. */
    void (*run)(
        void *threads, int64_t n_useful, qmi_team_part part, void *context);
    int (*default_threads)(void);
} qmi_team_kind;

extern const qmi_team_kind qmi_team_pool, qmi_team_openmp;

#endif
