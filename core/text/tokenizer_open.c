/* SPDX-License-Identifier: Apache-2.0
 * In: a model's directory.  Out: its tokenizer.  Which file is read is decided
 * here. */
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "tokenizer_bpe.h"
#include "tokenizer_settings.h"

static const struct {
    const char *name;
    qmoe_status (*open)(qmi_tokenizer **out, const char *path, qmi_error *err);
    const qmi_tiktoken_family *family; /* instead of `open` */
    bool has_settings;                 /* tokenizer_config.json is read, too */
} FILES[] = {
    {"spiece.model", qmi_tokenizer_open_spiece, NULL, false},
    {"tokenizer.json", qmi_tokenizer_open_json, NULL, true},
    {"tokenizer.model", qmi_tokenizer_open_piece_bpe, NULL, true},
    {"tokenizer.model", NULL, &qmi_tiktoken_llama, true},
    {"tiktoken.model", NULL, &qmi_tiktoken_kimi, true},
    {"qwen.tiktoken", NULL, &qmi_tiktoken_qwen, true},
};

/* Whether row i of the table is for this file: two kinds share a name. */
static bool is_file(size_t i, const char *path)
{
    if (access(path, F_OK) != 0)
        return false;
    return strcmp(FILES[i].name, "tokenizer.model") != 0 ||
           qmi_is_tiktoken(path) == (FILES[i].family != NULL);
}

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
    const qmi_tiktoken_family *family = FILES[i].family;
    qmoe_status status = QMOE_OK;
    *found = is_file(i, path);
    if (*found)
        status = family != NULL
                     ? qmi_tokenizer_open_tiktoken(out, family, path, err)
                     : FILES[i].open(out, path, err);
    if (status == QMOE_OK && *found && FILES[i].has_settings)
        status = open_settings(*out, directory, err);
    if (status == QMOE_OK && *found && family != NULL)
        status = qmi_tokenizer_end_tiktoken(*out, family, path, err);
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
