/* SPDX-License-Identifier: Apache-2.0
 * Questions to a shape.  In: what an architecture has set.  Out: answers
 * without a look at any weight. */
#include "shape.h"

const char *qmi_program_name(qmi_program program)
{
    return program == QMI_DECODE ? "decoder" : "encoder";
}

bool qmi_shape_is_end(const qmi_shape *shape, int32_t id)
{
    for (int i = 0; i < shape->n_end_ids; i++)
        if (shape->end_ids[i] == id)
            return true;
    return false;
}
