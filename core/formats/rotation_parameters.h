/* SPDX-License-Identifier: Apache-2.0
 * The parameters `rotation` and `rotation_seed` of a stack (docs/format.md), for
 * the formats whose rows may be stored rotated. */
#ifndef QMI_ROTATION_PARAMETERS_H
#define QMI_ROTATION_PARAMETERS_H

#include "weight.h"

/* For `configure` and `record` of a format. */
qmoe_status qmi_rotation_configure(
    qmi_weight *w, const qmi_parameters *from, qmi_error *err);
bool qmi_rotation_record(
    const qmi_weight *w, qmi_put_parameter *put, void *entry);
/* For `open`: whether qmi_rotate takes what the stack says.  E_FORMAT. */
qmoe_status qmi_rotation_check(const qmi_weight *w, qmi_error *err);

#endif
