/* SPDX-License-Identifier: Apache-2.0
 * Parent side: starts children, reads their records, names what died. */
#include "runner.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* A backend that dies more often is not worth going on with. */
enum { MAX_CHILDREN = 64 };

typedef struct child {
    pid_t pid;
    int fd;
    record last; /* the step that is running */
    bool begun, ended, timed_out, lost;
} child;

static bool start_child(
    child *c, check_report *report, const qmi_backend *backend, uint64_t start)
{
    int ends[2];
    *c = (child){.fd = -1};
    if (pipe(ends) != 0)
        return false;
    fflush(stdout);
    fflush(stderr);
    c->pid = fork();
    if (c->pid == 0) {
        close(ends[0]);
        walk_backend(report, backend, ends[1], start);
        close(ends[1]);
        report_free(report);
        exit(0);
    }
    close(ends[1]);
    c->fd = ends[0];
    return c->pid > 0;
}

/* 1: a record, 0: end of the stream, -1: nothing came in time. */
static int next_record(const child *c, record *r, int64_t timeout_ms)
{
    size_t got = 0;
    while (got < sizeof *r) {
        struct pollfd wait = {.fd = c->fd, .events = POLLIN};
        int ready = poll(&wait, 1, (int)timeout_ms);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            return -1;
        ssize_t n = read(c->fd, (char *)r + got, sizeof *r - got);
        if (n <= 0)
            return 0;
        got += (size_t)n;
    }
    return 1;
}

static void read_records(child *c, check_report *report)
{
    record r;
    for (;;) {
        int got = next_record(c, &r, report->options->timeout_ms);
        if (got < 0) {
            c->timed_out = true;
            kill(c->pid, SIGKILL);
        }
        if (got <= 0)
            return;
        if (r.kind == RECORD_BEGIN) {
            c->last = r;
            c->begun = true;
        } else if (r.kind == RECORD_END) {
            c->ended = true;
        } else if (r.kind == RECORD_LOST) {
            c->lost = true;
        } else {
            report_add(report, &r);
        }
    }
}

/* Waits for the child; false when it did not end well, with the reason. */
static bool reap(child *c, char *text, size_t capacity)
{
    int status = 0;
    close(c->fd);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (c->timed_out)
        snprintf(text, capacity, "no answer in time");
    else if (WIFSIGNALED(status))
        snprintf(text, capacity, "signal %d (%s)", WTERMSIG(status),
            strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        snprintf(text, capacity, "exit status %d%s", WEXITSTATUS(status),
            c->ended ? " after the last case" : "");
    else if (!c->ended && !c->lost)
        snprintf(text, capacity, "ended early");
    else
        return true;
    return false;
}

static void add_death(check_report *report, const child *c,
    const qmi_backend *backend, const char *text)
{
    record r = c->last;
    if (!c->begun || c->ended) {
        r = (record){.device = -1, .op = -1};
        snprintf(r.backend, sizeof r.backend, "%s", backend->name);
    }
    bool of_case = r.variant[0] != '\0';
    r.kind = of_case ? RECORD_RESULT : RECORD_FAILURE;
    verdict_fail(&r.v, c->timed_out ? CHECK_TIMEOUT : CHECK_CRASH, "%s", text);
    report_add(report, &r);
}

void run_backend(check_report *report, const qmi_backend *backend)
{
    uint64_t start = 0;
    for (int i = 0; i < MAX_CHILDREN; i++) {
        child c;
        char text[128];
        if (!start_child(&c, report, backend, start)) {
            snprintf(
                text, sizeof text, "no child process: %s", strerror(errno));
            add_death(report, &c, backend, text);
            return;
        }
        read_records(&c, report);
        if (!reap(&c, text, sizeof text))
            add_death(report, &c, backend, text);
        else if (!c.lost)
            return;
        if (!c.begun || c.ended)
            return; /* nowhere to go on from */
        start = c.last.step + 1;
    }
    child none = {0};
    add_death(report, &none, backend, "too many deaths, the rest is not run");
}
