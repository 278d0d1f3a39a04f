/* SPDX-License-Identifier: Apache-2.0 */
#include "portions.h"

#include "cancel.h"
#include "launches.h"
#include "qcuda_device.h"

qmoe_status qcuda_wait(qmi_device *device, qmi_error *err)
{
    const char *failure = qdrv_sync(device->driver);
    if (failure != NULL)
        return qcuda_fail(device, "waiting", failure, err);
    device->given = 0;
    return QMOE_OK;
}

/* Units that are at most a portion together; one is never cut. */
static int64_t units_at_a_time(const qmi_device *device, const qcuda_work *w)
{
    if (w->n_items <= QCUDA_STEP_ITEMS || w->cost <= device->info.portion)
        return w->n_units;
    const double n = (double)w->n_units * (device->info.portion / w->cost);
    return n > 1 ? (int64_t)n : 1;
}

qmoe_status qcuda_begin_portion(int64_t *n, qmi_device *device,
    const qcuda_work *w, int64_t first, qmi_error *err)
{
    const int64_t most = units_at_a_time(device, w), left = w->n_units - first;
    *n = left < most ? left : most;
    if (w->n_items <= QCUDA_STEP_ITEMS)
        return qmi_check_cancel(err);
    const double cost = w->cost * ((double)*n / (double)w->n_units);
    if (device->given > 0 && device->given + cost > device->info.portion) {
        QMI_TRY(qcuda_flush(device, err));
        QMI_TRY(qcuda_wait(device, err));
    }
    device->given += cost;
    return qmi_check_cancel(err);
}
