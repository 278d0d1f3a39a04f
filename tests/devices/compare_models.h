/* SPDX-License-Identifier: Apache-2.0
 * Whole models on a device: the same greedy tokens as on the CPU and logits
 * within 1e-4 of their range.  Failures are cmocka's. */
#ifndef QMOE_COMPARE_MODELS_H
#define QMOE_COMPARE_MODELS_H

#include <stdbool.h>
#include <stddef.h>

#include "qmoe/qmoe.h"

/* Is the backend's device 0 there?  Else `reason` says why not. */
bool find_device(
    qmoe_context *context, const char *backend, char *reason, size_t capacity);
/* One model directory. */
void compare_model(
    qmoe_context *context, const char *backend, const char *path);
/* The golden models and switch-mini as they are. */
void compare_uncompressed(qmoe_context *context, const char *backend);
/* switch-mini in every compressed format. */
void compare_compressed(qmoe_context *context, const char *backend);
/* Generation with switch-mini: the same tokens as on the CPU for greedy, top_k
 * within and beyond what top-logits takes, and top_p; counts that it does not
 * take are refused. */
void compare_choices(qmoe_context *context, const char *backend);

#endif
