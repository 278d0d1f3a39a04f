/* SPDX-License-Identifier: Apache-2.0
 * Finding devices, and what can be said of one without opening it.  In: all
 * platforms of the loader.  Out: our numbers of devices, a description, and
 * what keeps a device from being used.  Every call lists anew in the same
 * order, so a number means the same device as long as the drivers do not
 * change. */
#include "find.h"

#include <stdio.h>
#include <string.h>

enum { MAX_PLATFORMS = 16, MAX_DEVICES = 64 };

/* ---- finding ---- */

cl_device_type qocl_type(cl_device_id id)
{
    static const cl_device_type kinds[] = {
        CL_DEVICE_TYPE_CPU, CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR};
    cl_device_type type = 0;
    /* A device may have several kinds; the first of the table counts. */
    qmi_cl.GetDeviceInfo(id, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    for (int i = 0; i < 3; i++)
        if ((type & kinds[i]) != 0)
            return kinds[i];
    return CL_DEVICE_TYPE_ACCELERATOR; /* a custom device */
}

/* GPUs, accelerators, processors; else as the loader lists them. */
static int list_devices(cl_device_id *out, char *reason, size_t capacity)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint n_platforms = 0;
    cl_int status =
        qmi_cl.GetPlatformIDs(MAX_PLATFORMS, platforms, &n_platforms);
    if (status != CL_SUCCESS || n_platforms == 0) {
        snprintf(reason, capacity, "no OpenCL driver is installed (%s)",
            status == CL_SUCCESS ? "no platform" : qocl_error_name(status));
        return 0;
    }
    if (n_platforms > MAX_PLATFORMS)
        n_platforms = MAX_PLATFORMS;
    cl_device_id found[MAX_DEVICES];
    cl_uint n_found = 0;
    for (cl_uint p = 0; p < n_platforms && n_found < MAX_DEVICES; p++) {
        /* More platforms or devices than there is room for are left out. */
        cl_uint n = 0, room = MAX_DEVICES - n_found;
        if (qmi_cl.GetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, room,
                found + n_found, &n) == CL_SUCCESS)
            n_found += n < room ? n : room;
    }
    int n = 0;
    static const cl_device_type order[] = {
        CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_CPU};
    /* Stable: devices of a kind stay in the loader's order. */
    for (int t = 0; t < 3; t++)
        for (cl_uint i = 0; i < n_found; i++)
            if (qocl_type(found[i]) == order[t])
                out[n++] = found[i];
    if (n == 0)
        snprintf(reason, capacity, "the OpenCL drivers have no device");
    return n;
}

qmoe_status qocl_probe(int *n_devices, char *reason, size_t capacity)
{
    cl_device_id ids[MAX_DEVICES];
    *n_devices = 0;
    if (capacity != 0)
        reason[0] = '\0';
    if (qocl_load(reason, capacity))
        *n_devices = list_devices(ids, reason, capacity);
    return QMOE_OK;
}

qmoe_status qocl_device_at(cl_device_id *out, int index, qmi_error *err)
{
    cl_device_id ids[MAX_DEVICES];
    char reason[256] = "";
    int n = 0;
    if (qocl_load(reason, sizeof reason))
        n = list_devices(ids, reason, sizeof reason);
    if (n == 0)
        return qmi_fail(err, QMOE_E_NO_BACKEND, "backend opencl: %s", reason);
    if (index < 0 || index >= n)
        return qmi_fail(
            err, QMOE_E_INVALID, "backend opencl has no device %d", index);
    *out = ids[index];
    return QMOE_OK;
}

void qocl_text_of(
    char *out, size_t capacity, cl_device_id id, cl_device_info what)
{
    /* Texts of drivers may be longer, or not end. */
    char text[512] = "";
    if (qmi_cl.GetDeviceInfo(id, what, sizeof text, text, NULL) != CL_SUCCESS)
        text[0] = '\0';
    text[sizeof text - 1] = '\0';
    snprintf(out, capacity, "%s", text);
}

/* Empty when the device can be used. */
void qocl_missing(char *out, size_t capacity, cl_device_id id)
{
    cl_bool available = CL_FALSE, compiler = CL_FALSE, little = CL_FALSE;
    qocl_tuning tuning;
    const qocl_limits limits = qocl_read_limits(id);
    char version[64];
    int major = 0, minor = 0;
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_AVAILABLE, sizeof available, &available, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_COMPILER_AVAILABLE, sizeof compiler, &compiler, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_ENDIAN_LITTLE, sizeof little, &little, NULL);
    qocl_text_of(version, sizeof version, id, CL_DEVICE_VERSION);
    const char *what = "";
    /* The first that applies: what the user has set, then what cannot be
     * changed. */
    if (limits.problem[0] != '\0')
        what = limits.problem;
    else if (!available)
        what = "it is not available";
    else if (!compiler)
        what = "its driver has no compiler";
    else if (!little)
        what = "it is big-endian";
    else if (sscanf(version, "OpenCL %d.%d", &major, &minor) != 2 ||
             10 * major + minor < 12)
        what = "it is older than OpenCL 1.2";
    else if (!qocl_tuning_default(&tuning, &limits, limits.is_cpu))
        what = limits.max_group < 32 ? "its work-groups are smaller than 32"
                                     : "its local memory is too small";
    snprintf(out, capacity, "%s", what);
}

qmoe_status qocl_describe(qmoe_device_info *out, int index, qmi_error *err)
{
    cl_device_id id;
    char version[96], driver[96];
    *out = (qmoe_device_info){.index = index};
    QMI_TRY(qocl_device_at(&id, index, err));
    snprintf(out->backend, sizeof out->backend, "opencl");
    qocl_text_of(out->name, sizeof out->name, id, CL_DEVICE_NAME);
    qocl_text_of(version, sizeof version, id, CL_DEVICE_VERSION);
    qocl_text_of(driver, sizeof driver, id, CL_DRIVER_VERSION);
    /* A device that cannot be used is listed, with the reason. */
    qocl_missing(out->detail, sizeof out->detail, id);
    out->usable = out->detail[0] == '\0';
    if (out->usable)
        snprintf(
            out->detail, sizeof out->detail, "%s, driver %s", version, driver);
    out->is_gpu = qocl_type(id) == CL_DEVICE_TYPE_GPU;
    snprintf(out->type, sizeof out->type, "%s",
        out->is_gpu                           ? "gpu"
        : qocl_type(id) == CL_DEVICE_TYPE_CPU ? "cpu"
                                              : "accelerator");
    out->memory_bytes = qocl_read_limits(id).memory;
    return QMOE_OK;
}
