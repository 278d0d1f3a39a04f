/* SPDX-License-Identifier: Apache-2.0
 * Portions of long operations (portions.h).  In: the cost of an operation and
 * where it stands.  Out: how many units may be launched next.  `given` counts
 * what the device may still be doing: at most a portion, or one unit that is
 * larger. */
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
    /* By ratio, since cost and portion are far apart in size. */
    const double n = (double)w->n_units * (device->info.portion / w->cost);
    return n > 1 ? (int64_t)n : 1;
}

qmoe_status qcuda_begin_portion(int64_t *n, qmi_device *device,
    const qcuda_work *w, int64_t first, qmi_error *err)
{
    const int64_t most = units_at_a_time(device, w), left = w->n_units - first;
    *n = left < most ? left : most;
    /* A decode step: nothing is counted, so that it never waits. */
    if (w->n_items <= QCUDA_STEP_ITEMS)
        return qmi_check_cancel(err);
    const double cost = w->cost * ((double)*n / (double)w->n_units);
    /* What was held back is given to the driver first, or waiting would not end
     * it. */
    if (device->given > 0 && device->given + cost > device->info.portion) {
        QMI_TRY(qcuda_flush(device, err));
        QMI_TRY(qcuda_wait(device, err));
    }
    device->given += cost;
    return qmi_check_cancel(err);
}
