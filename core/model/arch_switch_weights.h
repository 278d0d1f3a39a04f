/* SPDX-License-Identifier: Apache-2.0
 * Part of the Switch architecture: the weights against the configuration. */
#ifndef QMI_ARCH_SWITCH_WEIGHTS_H
#define QMI_ARCH_SWITCH_WEIGHTS_H

#include "model.h"

/* Corrects number of blocks, sparse steps and the tied head in model->config
 * where the tensors of the checkpoint leave one reading only, and says so by a
 * message of the context.  What stays contradictory fails later, as a missing
 * tensor. */
void qmi_switch_settle(qmoe_model *model);

#endif
