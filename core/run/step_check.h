/* SPDX-License-Identifier: Apache-2.0
 * A look at what a step wrote. */
#ifndef QMI_STEP_CHECK_H
#define QMI_STEP_CHECK_H

#include "probe.h"

/* A probe for any session.  E_FORMAT naming the step when its result is not
 * finite; waits for the device. */
qmi_probe qmi_step_check(void);

#endif
