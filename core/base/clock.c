/* SPDX-License-Identifier: Apache-2.0
 * Two clocks in seconds: one that only goes forwards, for waiting times, and
 * processor time of the calling thread, for work that other load must not count
 * in. */
#include "clock.h"

#include <time.h>

static double read_clock(clockid_t id)
{
    struct timespec t = {0};
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double qmi_seconds(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

double qmi_thread_seconds(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
