/* SPDX-License-Identifier: Apache-2.0
 * One verification, shared by verify.c (the flow, config.json, small files) and
 * verify_tensors.c (shards). */
#ifndef QMI_VERIFY_JOB_H
#define QMI_VERIFY_JOB_H

#include <pthread.h>

#include "model.h"

/* Something broken. */
typedef struct qmi_fault {
    /* Where: number of the file, 0 for all but shards, and place in it. */
    uint64_t file, place;
    char *name;   /* of the file; NULL: unknown */
    char *tensor; /* or stack; NULL: the file itself */
    qmi_error error;
} qmi_fault;

typedef struct qmi_verification {
    qmi_hooks *hooks;
    const char *directory;
    char *config_path;
    cJSON *config;     /* NULL: there is none that can be read */
    qmoe_model *model; /* NULL: it cannot be opened */
    bool compressed;
    /* [n_shards], the model's, or without model those that can be opened. */
    const qmi_tensor_file **shards;
    size_t n_shards;
    qmoe_verify_report *report;
    pthread_mutex_t lock; /* of all that follows */
    qmi_error failure;    /* that ended it */
    qmi_fault *faults;
    size_t n_faults, fault_capacity;
} qmi_verification;

/* OK: `status` is, or it tells of a broken file, which `error` says more about
 * and which was added to the faults.  Else `status`: verifying has to end.  Any
 * thread. */
qmoe_status qmi_verify_note(qmi_verification *v, qmoe_status status,
    const qmi_fault *fault, const qmi_error *error);
/* "b" of "a/b". */
const char *qmi_verify_file_name(const qmi_tensor_file *file);

/* Headers, sizes and tensors of all shards, and the rows of stacks. */
qmoe_status qmi_verify_shards(qmi_verification *v);

#endif
