/* SPDX-License-Identifier: Apache-2.0
 * The progress line, and signals that stop long work cleanly: the first one
 * cancels what the library does, which then undoes what it had begun; a second
 * one ends the process at once, whatever it is waiting for.  In: the library's
 * progress, signals.  Out: one line on stderr, redrawn on a terminal, repeated
 * elsewhere; a cancelled context.  The handler touches atomics alone. */
#include "cli.h"

#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* On a terminal, redrawing more often than this is not seen, and work shorter
 * than the delay needs no line at all.  Elsewhere a line stays. */
static const double redraw_seconds = 0.1, first_seconds = 0.3;
static const double print_seconds = 10;

/* What a user or a batch system sends to stop a program. */
static const int numbers[] = {SIGINT, SIGTERM};
enum { N_SIGNALS = sizeof numbers / sizeof *numbers };

static bool caught[N_SIGNALS];
static atomic_int interrupted; /* the first signal that came; 0: none */
static _Atomic(qmoe_context *) running;
static atomic_int n_in_handler;

/* Only the thread that runs a verb reports progress. */
static struct {
    const char *stage;    /* NULL: none begun */
    double begin, shown;  /* of the stage; last time */
    uint64_t done_before; /* the stage began with, by an earlier run */
    bool visible;
} line;

/* ---- signals ---- */

void cli_release_signals(void)
{
    for (size_t i = 0; i < N_SIGNALS; i++) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        if (caught[i])
            sigaction(numbers[i], &action, NULL);
    }
}

static void on_signal(int number)
{
    /* Counted, so that cli_cancel_on_signal can wait for it. */
    atomic_fetch_add(&n_in_handler, 1);
    /* The second signal is the system's. */
    cli_release_signals();
    atomic_store(&interrupted, number);
    qmoe_context *context = atomic_load(&running);
    if (context != NULL)
        qmoe_context_cancel(context, true);
    atomic_fetch_sub(&n_in_handler, 1);
}

void cli_catch_signals(void)
{
    for (size_t i = 0; i < N_SIGNALS; i++) {
        struct sigaction now, action = {.sa_handler = on_signal};
        /* Ignored by the parent (nohup, a background job): stays so. */
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN)
            continue;
        caught[i] = true;
        sigemptyset(&action.sa_mask);
        /* Writes in progress go on: output is not torn by the first signal. */
        action.sa_flags = SA_RESTART;
        sigaction(numbers[i], &action, NULL);
    }
}

bool cli_interrupted(void)
{
    return atomic_load(&interrupted) != 0;
}

bool cli_take_interruption(qmoe_context *context)
{
    /* Whoever terminates a program means all of it. */
    if (atomic_load(&interrupted) != SIGINT)
        return false;
    atomic_store(&interrupted, 0);
    qmoe_context_cancel(context, false);
    /* The first signal gave the second to the system. */
    cli_catch_signals();
    return true;
}

void cli_cancel_on_signal(qmoe_context *context)
{
    atomic_store(&running, context);
    /* One that came before. */
    if (context != NULL && cli_interrupted())
        qmoe_context_cancel(context, true);
    /* A handler, on whatever thread, may still hold the one before. */
    while (context == NULL && atomic_load(&n_in_handler) != 0)
        sched_yield();
}

/* ---- the line ---- */

/* Steady: the time of day may jump. */
static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool on_terminal(void)
{
    /* Asked once: a terminal does not change into a file. */
    static int known = -1;
    const char *kind = getenv("TERM");
    if (known < 0)
        known =
            isatty(STDERR_FILENO) && kind != NULL && strcmp(kind, "dumb") != 0;
    return known != 0;
}

/* Asked each time: windows change their width. */
static int columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

/* What `done` counts, for the rate; NULL: only the share is meaningful. */
static const char *unit_of(const char *stage)
{
    static const char *const units[][2] = {{"load", "B"}, {"verify", "B"},
        {"checksum", "B"}, {"quantize", "weights"}, {"measure", "weights"},
        {"evaluate", "samples"}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(units[i][0], stage) == 0)
            return units[i][1];
    return NULL;
}

/* Appends to a text of fixed capacity, cutting what does not fit. */
static void append(char *text, size_t capacity, const char *format, ...)
    CLI_PRINTF(3, 4);
static void append(char *text, size_t capacity, const char *format, ...)
{
    size_t n = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + n, capacity - n, format, args);
    va_end(args);
}

static void append_rate(
    char *text, size_t capacity, double rate, const char *unit)
{
    static const char *const scales[] = {"", "k", "M", "G", "T"};
    size_t scale = 0;
    /* 999.5 would be printed with an exponent. */
    for (; rate >= 999.5 && scale + 1 < sizeof scales / sizeof *scales; scale++)
        rate /= 1000;
    append(text, capacity, "  %.3g %s%s/s", rate, scales[scale], unit);
}

static void append_eta(char *text, size_t capacity, double seconds)
{
    /* 99:59:59, the most that the line has room for. */
    if (seconds > 359999)
        seconds = 359999;
    int s = (int)(seconds + 0.5);
    if (s >= 3600)
        append(text, capacity, "  ETA %d:%02d:%02d", s / 3600, s / 60 % 60,
            s % 60);
    else
        append(text, capacity, "  ETA %d:%02d", s / 60, s % 60);
}

/* Rates count what this run has done; a resumed one begins further on. */
static void describe(
    char *text, size_t capacity, const qmoe_progress *p, double elapsed)
{
    const char *unit = unit_of(p->stage);
    double more = (double)p->done - (double)line.done_before;
    double rate = elapsed > 0 && more > 0 ? more / elapsed : 0;
    /* A total that was exceeded was an estimate: no percent of it. */
    bool bounded = p->total != 0 && p->done <= p->total;
    text[0] = '\0';
    append(text, capacity, "%s", p->stage);
    if (bounded)
        /* Rounded down: 100 % is the end and nothing before it. */
        append(text, capacity, " %3d%%",
            (int)(100.0 * (double)p->done / (double)p->total));
    else if (unit != NULL)
        append(text, capacity, " %.0f %s", (double)p->done, unit);
    if (unit != NULL && rate > 0)
        append_rate(text, capacity, rate, unit);
    if (bounded && rate > 0)
        /* By the mean of the stage so far, which jumps less than the last
         * step. */
        append_eta(text, capacity, (double)(p->total - p->done) / rate);
    if (p->item != NULL)
        append(text, capacity, "  %s", p->item);
}

/* The text may hold names of files: only cli_print_name writes it. */
static void draw(const qmoe_progress *p, double elapsed)
{
    char text[512];
    describe(text, sizeof text, p, elapsed);
    if (!on_terminal()) {
        /* A log file keeps every line. */
        fputs("qmoe: progress: ", stderr);
        cli_print_name(stderr, text);
        fputc('\n', stderr);
        return;
    }
    /* The last column stays free: some terminals wrap on filling it. */
    size_t width = (size_t)columns() - 1;
    if (width < sizeof text)
        text[width] = '\0';
    /* Redraws in place and clears what the longer line before has left. */
    fputc('\r', stderr);
    cli_print_name(stderr, text);
    fputs("\033[K", stderr);
    fflush(stderr);
    line.visible = true;
}

/* Called often, by the thread that works: most calls only look at the clock. */
int cli_on_progress(void *user, const qmoe_progress *progress)
{
    (void)user;
    if (cli_interrupted())
        return 1;
    const double now = now_seconds();
    const double every = on_terminal() ? redraw_seconds : print_seconds;
    /* Elsewhere than on a terminal the first line comes after a while, too. */
    if (line.stage == NULL && !on_terminal())
        line.shown = now;
    if (line.stage == NULL || strcmp(line.stage, progress->stage) != 0) {
        line.stage = progress->stage;
        line.begin = now;
        line.done_before = progress->done;
        /* A stage shorter than first_seconds is never drawn. */
        if (on_terminal())
            line.shown = now + first_seconds - redraw_seconds;
    }
    if (now - line.shown < every)
        return 0;
    line.shown = now;
    draw(progress, now - line.begin);
    return 0;
}

void cli_clear_progress(void)
{
    /* Only a line in place must go: others stay in the log. */
    if (!line.visible)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    line.visible = false;
}
