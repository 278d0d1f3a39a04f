/* SPDX-License-Identifier: Apache-2.0
 * The table of architectures, and nothing else: a test that adds one links a
 * table of its own in place of this file. */
#include "arch.h"

extern const qmi_arch qmi_arch_switch;

const qmi_arch *const qmi_architectures[] = {
    &qmi_arch_switch,
    NULL,
};
