/* SPDX-License-Identifier: Apache-2.0
 * Loading of CLBlast and its one function that is used.  In: row-by-row
 * operands on the device.  Out: the product, in order with the device's queue,
 * or an error with CLBlast's number.  A build without its header has the same
 * two functions, which say that there is none. */
#include "clblast.h"

#include <stdio.h>

#ifdef QMOE_HAVE_CLBLAST
#include <clblast_c.h>
#include <dlfcn.h>
#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
/* The type comes from the header, the function from the library. */
static __typeof__(&CLBlastSgemm) sgemm;

static void load(void)
{
    void *library = dlopen("libclblast.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        *(void **)&sgemm = dlsym(library, "CLBlastSgemm");
}

bool qocl_clblast_load(void)
{
    pthread_once(&once, load);
    return sgemm != NULL;
}

qmoe_status qocl_clblast_run(
    qmi_device *device, const qocl_gemm *g, qmi_error *err)
{
    char what[64];
    cl_command_queue queue = device->queue;
    const CLBlastStatusCode status =
        sgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes,
            g->m, g->n, g->k, 1.0f, g->a, g->a_at, g->a_step, g->b, g->b_at,
            g->b_step, 0.0f, g->c, g->c_at, g->c_step, &queue, NULL);
    if (status == CLBlastSuccess)
        return QMOE_OK;
    snprintf(
        what, sizeof what, "CLBlast's matrix product (status %d)", (int)status);
    return qocl_fail(device, what, (cl_int)status, err);
}
#else
bool qocl_clblast_load(void)
{
    return false;
}

qmoe_status qocl_clblast_run(
    qmi_device *device, const qocl_gemm *g, qmi_error *err)
{
    (void)g;
    return qmi_fail(err, QMOE_E_INTERNAL,
        "OpenCL device '%s': this build has no CLBlast", device->name);
}
#endif
