/* SPDX-License-Identifier: Apache-2.0
 * The names that a state dict may use, and what calling them makes. */
#ifndef QMI_TORCH_REBUILD_H
#define QMI_TORCH_REBUILD_H

#include "torch_machine.h"

/* The value for a name "module\nname\n"; unknown ones are refused. */
qmoe_status qmi_pickle_global_of(qmi_pickle_machine *m, qmi_pickle_value *out,
    qmi_slice module, qmi_slice name);
/* Calls `callable` with a tuple. */
qmoe_status qmi_pickle_reduce(qmi_pickle_machine *m, qmi_pickle_value *out,
    qmi_pickle_value callable, qmi_pickle_value arguments);
/* The storage for a persistent id. */
qmoe_status qmi_pickle_storage_of(
    qmi_pickle_machine *m, qmi_pickle_value *out, qmi_pickle_value id);
/* "a tuple", ... */
const char *qmi_pickle_kind_name(qmi_pickle_value value);

#endif
