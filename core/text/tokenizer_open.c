/* SPDX-License-Identifier: Apache-2.0
 * In: a model's directory.  Out: its tokenizer.  Which file is read is decided
 * here. */
#include <unistd.h>

#include "alloc.h"
#include "tokenizer_bpe.h"
#include "tokenizer_settings.h"

static const struct {
    const char *name;
    qmoe_status (*open)(qmi_tokenizer **out, const char *path, qmi_error *err);
    bool has_settings; /* tokenizer_config.json is read, too */
    /* After that; may be NULL. */
    qmoe_status (*end)(
        qmi_tokenizer *tokenizer, const char *path, qmi_error *err);
} FILES[] = {
    {"spiece.model", qmi_tokenizer_open_spiece, false, NULL},
    {"tokenizer.json", qmi_tokenizer_open_json, true, NULL},
    {"tokenizer.model", qmi_tokenizer_open_piece_bpe, true, NULL},
    {"tiktoken.model", qmi_tokenizer_open_tiktoken, true,
        qmi_tokenizer_end_tiktoken},
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

/* Reads file number i of the table, if it is there. */
static qmoe_status open_file(qmi_tokenizer **out, bool *found, size_t i,
    const char *directory, qmi_error *err)
{
    char *path = qmi_path_join(directory, FILES[i].name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    *found = access(path, F_OK) == 0;
    qmoe_status status = *found ? FILES[i].open(out, path, err) : QMOE_OK;
    if (status == QMOE_OK && *found && FILES[i].has_settings)
        status = open_settings(*out, directory, err);
    if (status == QMOE_OK && *found && FILES[i].end != NULL)
        status = FILES[i].end(*out, path, err);
    qmi_free(path);
    return status;
}

qmoe_status qmi_tokenizer_open_directory(
    qmi_tokenizer **out, const char *directory, qmi_error *err)
{
    qmoe_status status = QMOE_OK;
    bool found = false;
    *out = NULL;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES && !found; i++) {
        status = open_file(out, &found, i, directory, err);
        if (status == QMOE_OK)
            continue;
        qmi_tokenizer_close(*out);
        *out = NULL;
        break;
    }
    return status;
}
