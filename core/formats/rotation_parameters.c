/* SPDX-License-Identifier: Apache-2.0
 * How a stack says under which rotation its rows are stored.  In: its entry of
 * config.json.  Out: members of the weight that qmi_rotate accepts. */
#include "rotation_parameters.h"

#include <inttypes.h>

#include "rotation.h"

/* Bounds are those that qmi_rotate asserts. */
qmoe_status qmi_rotation_configure(
    qmi_weight *w, const qmi_parameters *from, qmi_error *err)
{
    int64_t block = 0, seed = 0;
    QMI_TRY(from->integer(
        from, &block, "rotation", 0, QMI_ROTATION_MAX_BLOCK, err));
    QMI_TRY(from->integer(from, &seed, "rotation_seed", 0, UINT32_MAX, err));
    if ((block & (block - 1)) != 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: rotation of '%s' is not a power of two", from->file, w->name);
    w->rotation = (int32_t)block;
    w->rotation_seed = (uint32_t)seed;
    return QMOE_OK;
}

/* Stacks without a rotation have no members, as those written before there was
 * one. */
bool qmi_rotation_record(
    const qmi_weight *w, qmi_put_parameter *put, void *entry)
{
    return w->rotation == 0 ||
           (put(entry, "rotation", w->rotation) &&
               put(entry, "rotation_seed", w->rotation_seed));
}

/* Not from a file alone: tests and quantisers open stacks, too. */
qmoe_status qmi_rotation_check(const qmi_weight *w, qmi_error *err)
{
    const int32_t rotation = w->rotation;
    if (rotation >= 0 && rotation <= QMI_ROTATION_MAX_BLOCK &&
        (rotation & (rotation - 1)) == 0)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "'%s': rotation %" PRId32 " is not 0 or a power of two up to %d",
        w->name, rotation, QMI_ROTATION_MAX_BLOCK);
}
