/* SPDX-License-Identifier: Apache-2.0
 * The list of backends: built-in ones and modules found at run time. */
#ifndef QMI_REGISTRY_H
#define QMI_REGISTRY_H

#include "backend.h"

/* The backend whose memory is the host's, which is always there. */
#define QMI_HOST_BACKEND "cpu"

typedef struct qmi_registry qmi_registry;

/* Takes the `n_builtin` backends linked into the program and looks for modules
 * in `module_path` (NULL: the default places, see
 * qmoe_context_options.backend_path).  A module that cannot be loaded is not
 * an error: its reason is kept for qmi_registry_find. */
qmoe_status qmi_registry_create(qmi_registry **out,
    const qmi_backend *const *builtin, size_t n_builtin,
    const char *module_path, qmi_error *err);
void qmi_registry_destroy(qmi_registry *registry);

/* Preference order: cuda, opencl, cpu, reference. */
size_t qmi_registry_count(const qmi_registry *registry);
/* *backend NULL when the module is absent; *reason then says why. */
void qmi_registry_at(const qmi_registry *registry, size_t index,
    const char **name, const qmi_backend **backend, const char **reason);
/* E_INVALID: no such backend name; E_NO_BACKEND: not there, with the reason. */
qmoe_status qmi_registry_find(const qmi_registry *registry,
    const qmi_backend **out, const char *name, qmi_error *err);

#endif
