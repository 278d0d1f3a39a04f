/* SPDX-License-Identifier: Apache-2.0
 * What a PyTorch state dict says, without Python: a pickle is a program for a
 * stack machine, and this machine knows the few instructions and names that
 * state dicts need and refuses all others by name.  Nothing is imported, called or
 * allocated on the pickle's word. */
#ifndef QMI_TORCH_PICKLE_H
#define QMI_TORCH_PICKLE_H

#include "torch_state.h"

/* Runs the pickle [data, data + n_bytes), which must outlive `out`.  Its
 * result must be a dict or OrderedDict of names to tensors, parameters or
 * integers.
 * Tensors with metadata (conjugated, negated) are refused.
 * Numbers are within [0, 2^62) but otherwise as claimed: whether a tensor lies in its
 * storage is for the caller to check.  E_FORMAT names opcode, name or value and
 * the byte where it stands.  Memory is at most 64 times n_bytes + 64 KiB, and
 * 1 GiB.  Release with qmi_pickle_free. */
qmoe_status qmi_pickle_read(
    qmi_pickle *out, const uint8_t *data, size_t n_bytes, qmi_error *err);
void qmi_pickle_free(qmi_pickle *pickle);

#endif
