/* SPDX-License-Identifier: Apache-2.0
 * qmoe selftest: every operation of a backend against the reference.  The work
 * is that of the program qmoe-check, which survives a driver that crashes.  In:
 * a choice of backend, device, operation.  Out: the program's own output, and
 * an exit code of this tool for its result.  Another process does the work, so
 * that no driver can take this one down. */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char help[] =
    "Usage: qmoe selftest [options]\n"
    "\n"
    "Runs every operation of every available backend and device on random,\n"
    "extreme and structured inputs, in all weight formats, and compares each\n"
    "result with the reference backend within its error bound.  Compilers in\n"
    "drivers have bugs: run this once on a new device or driver.  A crash or\n"
    "hang of a driver fails its case only.  The test takes seconds to "
    "minutes.\n"
    "(A session runs a shorter test when it opens an OpenCL device.)\n"
    "\n"
    "Options:\n"
    "  -b, --backend NAME   only this backend: cpu, opencl, cuda\n"
    "  --device D           only this device of it, by number, type (gpu, "
    "cpu,\n"
    "                       accelerator) or part of its name\n"
    "  --op NAME            only this operation: embed, rmsnorm, linear,\n"
    "                       kv-store, attention, route, expert-ffn, decode,\n"
    "                       top-logits\n"
    "  --seed N             seed of the random inputs (default 1)\n"
    "  --json               print the results as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe selftest\n"
    "  qmoe selftest --backend opencl --device gpu\n";

typedef struct request {
    const char *backend, *device, *op;
    uint64_t seed;
    bool as_json;
} request;

/* A path, the arguments below with an end, and how soon Ctrl-C is heard. */
enum { PATH_BYTES = 4096, MAX_ARGUMENTS = 12, WAIT_MS = 20 };

/* It lies beside this program and is not looked for in the PATH: it must be of
 * the same build. */
static bool find_program(char path[PATH_BYTES])
{
    static const char name[] = "qmoe-check";
    ssize_t n = readlink("/proc/self/exe", path, PATH_BYTES - sizeof name);
    if (n <= 0)
        return false;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return false;
    memcpy(slash + 1, name, sizeof name);
    return access(path, X_OK) == 0;
}

/* What the device's word means, as a number for qmoe-check, which knows numbers
 * only. */
static cli_exit find_device(const request *r, char number[16])
{
    cli_session s;
    qmoe_device_info info;
    cli_exit code = cli_open_context(&s, 0);
    if (code == CLI_OK) {
        qmoe_status status =
            qmoe_find_device(s.context, &info, r->backend, r->device);
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
        else
            snprintf(number, 16, "%d", info.index);
    }
    cli_close(&s);
    return code;
}

/* Runs the program; its exit status, or -1 if it could not run or a signal
 * ended it. */
static int run_program(char *path, char **arguments)
{
    int status = 0;
    /* What is buffered would be written by both processes. */
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        return -1;
    if (pid == 0) {
        /* A group of its own: Ctrl-C reaches this process alone, which then
         * kills the group. */
        setpgid(0, 0); /* its children die with it */
        execv(path, arguments);
        /* 127 as a shell has it; no handlers of the parent run. */
        _exit(127);
    }
    /* Polled: a signal may come at any moment, and wait() would be
     * restarted. */
    for (;;) {
        const pid_t ended = waitpid(pid, &status, WNOHANG);
        if (ended == pid)
            break;
        if (ended < 0 && errno != EINTR)
            return -1;
        if (cli_interrupted()) {
            /* Both: the child may not have made its group yet. */
            kill(pid, SIGKILL);
            kill(-pid, SIGKILL);
        }
        nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000L}, NULL);
    }
    /* Ended by a signal: no status that means anything. */
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static cli_exit selftest(const request *r)
{
    char path[PATH_BYTES], device[16] = "", seed[32];
    char *arguments[MAX_ARGUMENTS];
    size_t n = 0;
    /* In the handler's hands from here on, before the first child. */
    cli_catch_signals();
    /* Tells what is missing in the tool's words; auto is no backend. */
    if (r->backend != NULL) {
        cli_exit code = find_device(r, device);
        if (code != CLI_OK)
            return code;
    }
    /* Not an error of the device: the package lacks the program. */
    if (!find_program(path))
        return cli_fail(CLI_UNSUPPORTED,
            "selftest: the program qmoe-check is not installed");
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)r->seed);
    /* Its errors begin with this name. */
    arguments[n++] = (char *)(uintptr_t) "qmoe";
    arguments[n++] = "--seed";
    arguments[n++] = seed;
    if (r->backend != NULL) {
        arguments[n++] = "--backend";
        arguments[n++] = (char *)(uintptr_t)r->backend;
    }
    if (r->device != NULL) {
        arguments[n++] = "--device";
        arguments[n++] = device;
    }
    if (r->op != NULL) {
        arguments[n++] = "--op";
        arguments[n++] = (char *)(uintptr_t)r->op;
    }
    if (r->as_json)
        arguments[n++] = "--json";
    arguments[n] = NULL;
    const int status = run_program(path, arguments);
    if (cli_interrupted())
        return cli_fail(CLI_INTERRUPTED, "interrupted");
    if (status == 0)
        return CLI_OK;
    if (status == 2) /* it has said what is wrong */
        return CLI_USAGE;
    /* The program has listed what failed; this says what it means. */
    if (status == 1)
        return cli_fail(CLI_BACKEND,
            "the selftest failed: results of what failed cannot be trusted; "
            "use another device or driver, or --backend cpu");
    return cli_fail(
        CLI_INTERNAL, "selftest: qmoe-check ended with status %d", status);
}

static cli_exit run(int argc, char **argv)
{
    request r = {.seed = 1};
    const cli_option table[] = {
        {"backend", 'b', CLI_TEXT, &r.backend, 0, 0},
        {"device", 0, CLI_TEXT, &r.device, 0, 0},
        {"op", 0, CLI_TEXT, &r.op, 0, 0},
        {"seed", 0, CLI_COUNT, &r.seed, 0, INT64_MAX},
        {"json", 0, CLI_SET, &r.as_json, 0, 0},
    };
    cli_exit code;
    if (!cli_parse(&code, NULL, NULL, &cli_verb_selftest, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    /* A device is one of a backend's: a number alone says nothing. */
    if (r.device != NULL && r.backend == NULL)
        return cli_fail(
            CLI_USAGE, "selftest: --device needs --backend to be given");
    /* The reference is what others are compared with. */
    if (r.backend != NULL &&
        (strcmp(r.backend, "auto") == 0 || strcmp(r.backend, "reference") == 0))
        return cli_fail(CLI_USAGE,
            "selftest: --backend: '%s' cannot be checked", r.backend);
    return selftest(&r);
}

const cli_verb cli_verb_selftest = {
    "selftest", "compare a device's results with the reference", help, run};
