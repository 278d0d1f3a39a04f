/* SPDX-License-Identifier: Apache-2.0
 * A host backend with one variant per operation that does whatever the
 * selftest wants. */
#include "selftest.h"

#include <stdlib.h>

#include "alloc.h"

struct qmi_device {
    int n_threads;
};

qmoe_status (*toy_run)(qmi_device *device, const qmi_op *op, qmi_error *err);

int toy_threads(const qmi_device *device)
{
    return device->n_threads;
}

static qmoe_status device_open(qmi_device **out, int index,
    const qmi_device_options *options, qmi_error *err)
{
    (void)index;
    *out = qmi_calloc(1, sizeof **out, "a toy device", err);
    if (*out == NULL)
        return QMOE_E_NOMEM;
    (*out)->n_threads = options->n_threads;
    return QMOE_OK;
}

static void device_close(qmi_device *device)
{
    qmi_free(device);
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    (void)op;
    return true;
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return toy_run(device, op, err);
}

static const qmi_variant *variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static const qmi_variant variant = {"toy", supports, run};
    (void)device;
    (void)kind;
    *n = 1;
    return &variant;
}

const qmi_backend *toy_backend(void)
{
    static qmi_backend backend;
    backend = *qmi_backend_reference();
    backend.name = "toy";
    backend.device_open = device_open;
    backend.device_close = device_close;
    backend.variants = variants;
    return &backend;
}
