/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a file of torch.save; bytes that begin like a pickle also as a
 * bare one, so that mutations need not keep an archive intact. */
#include "fuzz.h"
#include "torch_file.h"
#include "torch_pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = NULL;
    qmi_pickle pickle;
    char path[64];
    int fd = -1;
    if (n_bytes > 0 && data[0] == 0x80 &&
        qmi_pickle_read(&pickle, data, n_bytes, &err) == QMOE_OK)
        qmi_pickle_free(&pickle);
    fuzz_file(&fd, path, data, n_bytes);
    if (qmi_torch_open(&file, path, &err) == QMOE_OK) {
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            if (qmi_tensor_file_find(file, t->name) != t ||
                qmi_tensor_file_fetch(file, t->data, t->n_bytes, &err) !=
                    QMOE_OK)
                abort();
            fuzz_touch(t->data, t->n_bytes);
            qmi_tensor_file_release(file, t->data, t->n_bytes);
        }
    } else if (file != NULL || err.text[0] == '\0') {
        abort();
    }
    qmi_tensor_file_close(file);
    close(fd);
    return 0;
}
