/* SPDX-License-Identifier: Apache-2.0
 * The small files that an output takes over from its source, in the order in
 * which they are copied.  Names only, so that output_owner.c can know them
 * without the rest. */
#include "side_names.h"

#include <string.h>

const char *const qmi_side_files[QMI_N_SIDE_FILES] = {"spiece.model",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "generation_config.json", "tokenizer.model", "tiktoken.model",
    "qwen.tiktoken", "chat_template.jinja", "chat_template.json"};

bool qmi_is_side_file(const char *name)
{
    for (size_t i = 0; i < QMI_N_SIDE_FILES; i++)
        if (strcmp(name, qmi_side_files[i]) == 0)
            return true;
    return false;
}
