/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as config.json. */
#include "arch_switch.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    qmi_error err = {.text = ""};
    qmi_switch config;
    cJSON *tree = NULL;
    const char *text = (const char *)data;
    if (qmi_json_parse(&tree, text, n_bytes, "fuzz", &err) != QMOE_OK)
        return 0;
    if (qmi_switch_configure(&config, tree, "fuzz", &err) == QMOE_OK) {
        if (config.shape.d_model < 1 || config.n_experts < 1 ||
            config.n_blocks[QMI_SWITCH_ENCODER] < 1 ||
            config.n_blocks[QMI_SWITCH_DECODER] < 1 ||
            config.shape.start_id < 0 || config.shape.end_ids[0] < 0)
            abort();
    } else if (err.text[0] == '\0') {
        abort();
    }
    cJSON_Delete(tree);
    return 0;
}
