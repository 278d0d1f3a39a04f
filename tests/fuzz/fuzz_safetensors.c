/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a safetensors file. */
#include "fuzz.h"
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = NULL;
    char path[64];
    int fd = -1;
    fuzz_file(&fd, path, data, n_bytes);
    if (qmi_safetensors_open(&file, path, &err) == QMOE_OK) {
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            if (qmi_tensor_file_find(file, t->name) != t)
                abort();
            fuzz_touch(t->data, t->n_bytes);
        }
    } else if (file != NULL || err.text[0] == '\0') {
        abort();
    }
    qmi_tensor_file_close(file);
    close(fd);
    return 0;
}
