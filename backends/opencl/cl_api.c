/* SPDX-License-Identifier: Apache-2.0
 * Loading of libOpenCL.  In: the system's loader, if there is one.  Out: a
 * table of its functions, all of them or none, or a text that says what is
 * missing.  It stays loaded: drivers keep threads. */
#include "cl_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "room.h"

qocl_api qmi_cl;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool loaded;
static char failure[240];

static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL)
        snprintf(failure, sizeof failure, "libOpenCL.so.1 has no %s", name);
    *(void **)function = symbol;
    return symbol != NULL;
}

/* Drivers with a compiler of their own end the process where the system refuses
 * them memory or threads, one per processor. */
static bool has_room(void)
{
    enum { DRIVER_MIB = 512 };
    const int n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN) + 1;
    if (qmi_has_address_space(DRIVER_MIB) &&
        qmi_startable_threads(n_threads) == n_threads)
        return true;
    snprintf(failure, sizeof failure,
        "drivers need %d MiB of address space and %d threads, which the system "
        "refuses (ulimit -v, ulimit -u)",
        DRIVER_MIB, n_threads);
    return false;
}

static void load(void)
{
    /* Before anything of a driver can run. */
    if (!has_room())
        return;
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(failure, sizeof failure,
            "no OpenCL loader: %.150s (install ocl-icd-libopencl1 and a "
            "driver)",
            dlerror());
        return;
    }
    loaded = true;
/* Stops looking at the first that is missing. */
#define X(name) loaded = loaded && find(library, "cl" #name, &qmi_cl.name);
    QOCL_MAP(X)
#undef X
}

bool qocl_load(char *reason, size_t capacity)
{
    pthread_once(&once, load);
    if (!loaded && capacity != 0)
        snprintf(reason, capacity, "%s", failure);
    return loaded;
}

/* The library has no such table; names help where a driver's own log says
 * nothing. */
const char *qocl_error_name(cl_int status)
{
    static const struct {
        cl_int status;
        const char *name;
    } names[] = {
#define NAME(x) {x, #x}
        NAME(CL_DEVICE_NOT_FOUND),
        NAME(CL_DEVICE_NOT_AVAILABLE),
        NAME(CL_COMPILER_NOT_AVAILABLE),
        NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST),
        NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE),
        NAME(CL_OUT_OF_RESOURCES),
        NAME(CL_OUT_OF_HOST_MEMORY),
        NAME(CL_BUILD_PROGRAM_FAILURE),
        NAME(CL_INVALID_VALUE),
        NAME(CL_INVALID_DEVICE),
        NAME(CL_INVALID_CONTEXT),
        NAME(CL_INVALID_COMMAND_QUEUE),
        NAME(CL_INVALID_MEM_OBJECT),
        NAME(CL_INVALID_BINARY),
        NAME(CL_INVALID_BUILD_OPTIONS),
        NAME(CL_INVALID_PROGRAM),
        NAME(CL_INVALID_PROGRAM_EXECUTABLE),
        NAME(CL_INVALID_KERNEL_NAME),
        NAME(CL_INVALID_KERNEL),
        NAME(CL_INVALID_ARG_INDEX),
        NAME(CL_INVALID_ARG_VALUE),
        NAME(CL_INVALID_ARG_SIZE),
        NAME(CL_INVALID_KERNEL_ARGS),
        NAME(CL_INVALID_WORK_DIMENSION),
        NAME(CL_INVALID_WORK_GROUP_SIZE),
        NAME(CL_INVALID_WORK_ITEM_SIZE),
        NAME(CL_INVALID_BUFFER_SIZE),
        NAME(CL_INVALID_GLOBAL_WORK_SIZE),
#undef NAME
        {-1001, "CL_PLATFORM_NOT_FOUND_KHR"},
        {-9999, "illegal access in a kernel"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].status == status)
            return names[i].name;
    return "an unnamed OpenCL error";
}
