/* SPDX-License-Identifier: Apache-2.0
 * Questions to a configuration. */
#include "config.h"

bool qmi_config_is_sparse(const qmi_config *config, int stack, int64_t block)
{
    int64_t step = config->sparse_step[stack];
    return step == 1 || (step > 1 && block % step == 1);
}

int64_t qmi_config_sparse_count(const qmi_config *config)
{
    int64_t n = 0;
    for (int stack = 0; stack < QMI_N_STACKS; stack++)
        for (int64_t block = 0; block < config->n_blocks[stack]; block++)
            n += qmi_config_is_sparse(config, stack, block);
    return n;
}
