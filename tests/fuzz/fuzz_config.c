/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as config.json of every architecture. */
#include "arch.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    qmi_error err = {.text = ""};
    qmi_config config;
    cJSON *tree = NULL;
    const char *text = (const char *)data;
    if (qmi_json_parse(&tree, text, n_bytes, "fuzz", &err) != QMOE_OK)
        return 0;
    const qmi_arch *arch = qmi_arch_find("switch_transformers");
    if (arch == NULL)
        abort();
    if (arch->configure(&config, tree, "fuzz", &err) == QMOE_OK) {
        if (config.d_model < 1 || config.n_experts < 1 ||
            config.n_blocks[QMI_ENCODER] < 1 ||
            config.n_blocks[QMI_DECODER] < 1 || config.pad_id < 0 ||
            qmi_config_sparse_count(&config) < 0)
            abort();
    } else if (err.text[0] == '\0') {
        abort();
    }
    cJSON_Delete(tree);
    return 0;
}
