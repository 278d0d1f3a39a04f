/* SPDX-License-Identifier: Apache-2.0
 * What tables of ways to get one operation wrong are made of. */
#ifndef QMOE_CHECK_MUTANTS_H
#define QMOE_CHECK_MUTANTS_H

#include "selftest.h"

/* An operand replaced by an altered copy for one run. */
typedef struct stand_in {
    qmi_buffer *buffer;
    void *data;
} stand_in;

/* `n`: elements of 4 bytes. */
static inline qmoe_status replace(
    stand_in *out, qmi_view *view, int64_t n, qmi_error *err)
{
    uint64_t n_bytes = 4 * (uint64_t)n;
    const void *original = qmi_host_pointer(*view);
    QMI_TRY(qmi_host_buffer_alloc(&out->buffer, NULL, n_bytes, err));
    *view = (qmi_view){out->buffer, 0};
    out->data = qmi_host_pointer(*view);
    memcpy(out->data, original, n_bytes);
    return QMOE_OK;
}

static inline qmoe_status run_replaced(
    stand_in *s, qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmoe_status status = run_reference(device, op, err);
    qmi_host_buffer_free(NULL, s->buffer);
    return status;
}

/* A mutant that runs an altered description of the operation. */
#define ALTERED(name, statement)                                               \
    static qmoe_status name(                                                   \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        qmi_op o = *op;                                                        \
        statement;                                                             \
        return run_reference(device, &o, err);                                 \
    }

/* Lines of a table: must be caught on some case. */
#define WRONG_IN(text, kind, function, often)                                  \
    {                                                                          \
        text, QMI_OP_##kind, NULL, function, often, CHECK_VALUE, CHECK_REPEAT  \
    }
#define WRONG(text, kind, function) WRONG_IN(text, kind, function, SOMETIMES)
#define WRONG_WIDE(text, kind, function)                                       \
    WRONG_IN(text, kind, function, SOMETIMES_WIDE)

#endif
