/* SPDX-License-Identifier: Apache-2.0
 * Three clocks in seconds: one that only goes forwards, for waiting times,
 * processor time of the calling thread, for work that other load must not count
 * in, and the time of day. */
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

int64_t qmi_unix_seconds(void)
{
    return (int64_t)time(NULL);
}
