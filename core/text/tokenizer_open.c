/* SPDX-License-Identifier: Apache-2.0
 * In: a model's directory.  Out: its tokenizer.  Which file is read is decided
 * here. */
#include <unistd.h>

#include "alloc.h"
#include "tokenizer_bpe.h"
#include "tokenizer_settings.h"

typedef qmoe_status open_function(
    qmi_tokenizer **out, const char *path, qmi_error *err);

static const struct {
    const char *name;
    open_function *open;
    bool has_settings; /* tokenizer_config.json is read, too */
} FILES[] = {
    {"spiece.model", qmi_tokenizer_open_spiece, false},
    {"tokenizer.json", qmi_tokenizer_open_json, true},
};

static qmoe_status open_settings(
    qmi_tokenizer *tokenizer, const char *directory, qmi_error *err)
{
    char *path = qmi_path_join(directory, "tokenizer_config.json", err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    if (access(path, F_OK) == 0)
        status = qmi_tokenizer_read_settings(
            (qmi_bpe_tokenizer *)tokenizer, path, err);
    qmi_free(path);
    return status;
}

qmoe_status qmi_tokenizer_open_directory(
    qmi_tokenizer **out, const char *directory, qmi_error *err)
{
    qmoe_status status = QMOE_OK;
    *out = NULL;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        char *path = qmi_path_join(directory, FILES[i].name, err);
        if (path == NULL)
            return QMOE_E_NOMEM;
        const bool found = access(path, F_OK) == 0;
        if (found)
            status = FILES[i].open(out, path, err);
        qmi_free(path);
        if (!found)
            continue;
        if (status == QMOE_OK && FILES[i].has_settings)
            status = open_settings(*out, directory, err);
        break;
    }
    if (status != QMOE_OK) {
        qmi_tokenizer_close(*out);
        *out = NULL;
    }
    return status;
}
