/* SPDX-License-Identifier: Apache-2.0
 * All that an import reads of a GGUF file before it writes. */
#ifndef QMOE_TEST_GGUF_READ_H
#define QMOE_TEST_GGUF_READ_H

#include <string.h>

#include "alloc.h"
#include "gguf_tensors.h"
#include "gguf_tokenizer.h"

static inline qmoe_status gguf_read(const char *path, qmi_error *err)
{
    qmi_gguf_source source;
    qmi_gguf_model model;
    qmi_gguf_tokenizer tokenizer = {0};
    qmi_gguf_entries entries = {0};
    qmi_json_writer w[4];
    memset(w, 0, sizeof w);
    qmoe_status status = qmi_gguf_source_open(&source, path, err);
    if (status == QMOE_OK)
        status = qmi_gguf_model_read(&model, &source);
    if (status == QMOE_OK)
        status = qmi_gguf_tokenizer_read(&tokenizer, &source, model.n_tokens);
    if (status == QMOE_OK)
        status = qmi_gguf_config(&w[0], &model, &source);
    if (status == QMOE_OK)
        status = qmi_gguf_list(&entries, &model, &source, QMI_DTYPE_COUNT);
    if (status == QMOE_OK)
        status = qmi_gguf_generation_config(&w[1], &tokenizer, &source);
    if (status == QMOE_OK && tokenizer.exists) {
        qmi_gguf_tokenizer_json(&w[2], &tokenizer);
        status = qmi_gguf_tokenizer_config(
            &w[3], &tokenizer, &source, model.n_positions);
    }
    for (int i = 0; i < 4; i++)
        qmi_free(w[i].text.data);
    qmi_free(entries.list);
    qmi_gguf_tokenizer_destroy(&tokenizer);
    qmi_gguf_source_close(&source);
    return status;
}

#endif
