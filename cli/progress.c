/* SPDX-License-Identifier: Apache-2.0
 * The progress line on a terminal, and signals that stop long work cleanly:
 * the hook the library calls while working returns non-zero after a signal,
 * and the library then undoes what it had begun. */
#include "cli.h"

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Redrawing more often than this is not seen; work shorter than the delay
 * needs no line at all. */
static const double redraw_seconds = 0.1, first_seconds = 0.3;

static atomic_bool interrupted;

static struct {
    const char *stage; /* NULL: none begun */
    double begin, drawn;
    bool visible;
} line;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&interrupted, true);
}

void cli_catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction now, action = {.sa_handler = on_signal};
        /* Ignored by the parent (nohup, a background job): stays so. */
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN)
            continue;
        sigemptyset(&action.sa_mask);
        action.sa_flags = SA_RESTART | (int)SA_RESETHAND;
        sigaction(numbers[i], &action, NULL);
    }
}

bool cli_interrupted(void)
{
    return atomic_load(&interrupted);
}

/* ---- the line ---- */

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool on_terminal(void)
{
    const char *kind = getenv("TERM");
    return isatty(STDERR_FILENO) && kind != NULL && strcmp(kind, "dumb") != 0;
}

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
        {"quantize", "weights"}, {"evaluate", "samples"}};
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
    for (; rate >= 999.5 && scale + 1 < sizeof scales / sizeof *scales; scale++)
        rate /= 1000;
    append(text, capacity, "  %.3g %s%s/s", rate, scales[scale], unit);
}

static void append_eta(char *text, size_t capacity, double seconds)
{
    if (seconds > 359999)
        seconds = 359999;
    int s = (int)(seconds + 0.5);
    if (s >= 3600)
        append(text, capacity, "  ETA %d:%02d:%02d", s / 3600, s / 60 % 60,
            s % 60);
    else
        append(text, capacity, "  ETA %d:%02d", s / 60, s % 60);
}

static void describe(
    char *text, size_t capacity, const qmoe_progress *p, double elapsed)
{
    const char *unit = unit_of(p->stage);
    double rate = elapsed > 0 ? (double)p->done / elapsed : 0;
    bool bounded = p->total != 0 && p->done <= p->total;
    text[0] = '\0';
    append(text, capacity, "%s", p->stage);
    if (bounded)
        append(text, capacity, " %3d%%",
            (int)(100.0 * (double)p->done / (double)p->total));
    else if (unit != NULL)
        append(text, capacity, " %.0f %s", (double)p->done, unit);
    if (unit != NULL && p->done != 0)
        append_rate(text, capacity, rate, unit);
    if (bounded && rate > 0)
        append_eta(text, capacity, (double)(p->total - p->done) / rate);
    if (p->item != NULL)
        append(text, capacity, "  %s", p->item);
}

static void draw(const qmoe_progress *p, double elapsed)
{
    char text[512];
    describe(text, sizeof text, p, elapsed);
    /* The last column stays free: some terminals wrap on filling it. */
    size_t width = (size_t)columns() - 1;
    if (width < sizeof text)
        text[width] = '\0';
    fputc('\r', stderr);
    cli_print_name(stderr, text);
    fputs("\033[K", stderr);
    fflush(stderr);
    line.visible = true;
}

int cli_on_progress(void *user, const qmoe_progress *progress)
{
    (void)user;
    if (cli_interrupted())
        return 1;
    if (!on_terminal())
        return 0;
    double now = now_seconds();
    if (line.stage == NULL || strcmp(line.stage, progress->stage) != 0) {
        line.stage = progress->stage;
        line.begin = now;
        line.drawn = now + first_seconds - redraw_seconds;
    }
    if (now - line.drawn < redraw_seconds)
        return 0;
    line.drawn = now;
    draw(progress, now - line.begin);
    return 0;
}

void cli_clear_progress(void)
{
    if (!line.visible)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    line.visible = false;
}
