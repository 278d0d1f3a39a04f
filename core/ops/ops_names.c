/* SPDX-License-Identifier: Apache-2.0
 * In: the kind of an operation.  Out: its text, for messages and tables; "?"
 * for a number that is none. */
#include "ops.h"

const char *qmi_op_name(qmi_op_kind kind)
{
    static const char *const names[QMI_OP_COUNT] = {
#define X(name, member, text) text,
        QMI_OP_MAP(X)
#undef X
    };
    return (unsigned)kind < QMI_OP_COUNT ? names[kind] : "?";
}
