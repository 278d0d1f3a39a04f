/* SPDX-License-Identifier: Apache-2.0
 * The table of architectures, and nothing else.  In: the objects of arch_*.c.
 * Out: an array that ends with NULL.  A test that adds an architecture links a
 * table of its own in place of this file. */
#include "arch.h"

extern const qmi_arch qmi_arch_switch;

const qmi_arch *const qmi_architectures[] = {
    &qmi_arch_switch,
    NULL,
};
