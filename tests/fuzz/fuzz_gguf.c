/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a GGUF file: opened, every value and block read, and taken as a
 * model as far as an import goes before it writes. */
#include "fuzz.h"

#include "../unit/gguf_read.h"

static void touch_values(const qmi_tensor_file *file)
{
    for (size_t i = 0; i < qmi_gguf_count(file); i++) {
        const qmi_gguf_value *v = qmi_gguf_at(file, i);
        const uint8_t *at = v->data;
        int64_t integer;
        double real;
        bool truth;
        if (qmi_gguf_find(file, v->key) != v)
            abort();
        for (uint64_t k = 0; k < v->n; k++) {
            if (v->kind == QMI_GGUF_STRING) {
                const qmi_gguf_text text = qmi_gguf_next_text(&at);
                fuzz_touch(text.bytes, text.n);
                continue;
            }
            qmi_gguf_int(v, k, &integer);
            qmi_gguf_real(v, k, &real);
            qmi_gguf_bool(v, k, &truth);
        }
    }
}

static void touch_tensors(const qmi_tensor_file *file)
{
    float values[QMI_GGUF_MAX_BLOCK];
    for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
        const qmi_tensor *t = qmi_tensor_file_at(file, i);
        const qmi_gguf_type *type = qmi_gguf_type_of(file, t);
        if (qmi_tensor_file_find(file, t->name) != t)
            abort();
        for (uint64_t at = 0; at < t->n_bytes; at += type->n_bytes)
            qmi_gguf_decode(type, values, t->data + at, type->n_elements);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = NULL;
    char path[64];
    int fd = -1;
    fuzz_file(&fd, path, data, n_bytes);
    if (qmi_gguf_open(&file, path, &err) == QMOE_OK) {
        touch_values(file);
        touch_tensors(file);
        err = (qmi_error){0};
        if (gguf_read(path, &err) != QMOE_OK && err.text[0] == '\0')
            abort();
    } else if (file != NULL || err.text[0] == '\0') {
        abort();
    }
    qmi_tensor_file_close(file);
    close(fd);
    return 0;
}
