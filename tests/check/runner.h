/* SPDX-License-Identifier: Apache-2.0
 * Runs all selected cases of one backend in child processes. */
#ifndef QMOE_CHECK_RUNNER_H
#define QMOE_CHECK_RUNNER_H

#include "report.h"

/* A case that kills or hangs the child is a named failure, one that loses the
 * device a failed status; a new child goes on behind it.  Everything ends in `report`. */
void run_backend(check_report *report, const qmi_backend *backend);

/* The child's part, in walk.c: goes through devices, operations, cases and
 * variants in a fixed order, writes records to `fd`, leaves out the steps
 * before `start`.  `report` holds what earlier children found. */
void walk_backend(
    check_report *report, const qmi_backend *backend, int fd, uint64_t start);

#endif
