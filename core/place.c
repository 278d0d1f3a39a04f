/* SPDX-License-Identifier: Apache-2.0
 * Choice of the backend (place.h). */
#include "place.h"

#include <string.h>

static bool has_device(const qmi_backend *backend, bool gpu_only, int index)
{
    int n = 0;
    char reason[256];
    qmoe_device_info info;
    if (backend == NULL ||
        backend->probe(&n, reason, sizeof reason) != QMOE_OK || index >= n)
        return false;
    return !gpu_only ||
           (backend->describe(&info, index, NULL) == QMOE_OK && info.is_gpu);
}

/* CUDA, else a GPU under OpenCL, else the CPU. */
static qmoe_status choose_auto(
    qmoe_context *context, const qmi_backend **out, int index, qmi_error *err)
{
    static const struct {
        const char *name;
        bool gpu_only;
    } order[] = {{"cuda", false}, {"opencl", true}, {"cpu", false}};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const qmi_backend *backend = NULL;
        qmi_error ignored;
        if (qmi_registry_find(context->registry, &backend, order[i].name,
                &ignored) == QMOE_OK &&
            has_device(backend, order[i].gpu_only, index)) {
            *out = backend;
            qmi_message(context, "backend auto: using %s", backend->name);
            return QMOE_OK;
        }
    }
    return qmi_fail(
        err, QMOE_E_NO_BACKEND, "no backend has a device %d", index);
}

qmoe_status qmi_place_find(qmoe_context *context, const qmi_backend **out,
    const char *name, int device, qmi_error *err)
{
    int n = 0;
    char reason[256] = "";
    *out = NULL;
    if (device < 0)
        return qmi_fail(err, QMOE_E_INVALID, "device %d is negative", device);
    if (name == NULL || strcmp(name, "auto") == 0)
        return choose_auto(context, out, device, err);
    QMI_TRY(qmi_registry_find(context->registry, out, name, err));
    QMI_TRY((*out)->probe(&n, reason, sizeof reason));
    if (n == 0)
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "backend %s is not available: %s", name, reason);
    if (device >= n)
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "backend %s has %d device(s), no device %d", name, n, device);
    return QMOE_OK;
}
