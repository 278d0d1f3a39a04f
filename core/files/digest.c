/* SPDX-License-Identifier: Apache-2.0
 * In: an open checkpoint.  Out: whether it is the one that was written.
 * config.json holds a digest of itself, of every small file, and of the header
 * of every shard, which in turn holds the checksums of the tensors: opening a
 * model compares all but the last (docs/format.md, section 2.1).  A model from
 * before there were digests has none and passes. */
#include "digest.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "hash.h"

/* 16 hexadecimal digits of XXH3-64.  Small files are tokenizers and
 * settings. */
enum { DIGITS = 16, MAX_SMALL_BYTES = 256 << 20 };

const char *const qmi_tokenizer_files[QMI_N_TOKENIZER_FILES] = {"spiece.model",
    "tokenizer.json", "tokenizer.model", "tiktoken.model", "qwen.tiktoken",
    "tokenizer_config.json"};

static const cJSON *quantization(const cJSON *config)
{
    return cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
}

const cJSON *qmi_digest_files(const cJSON *config)
{
    const cJSON *files =
        cJSON_GetObjectItemCaseSensitive(quantization(config), "files");
    return cJSON_IsObject(files) ? files : NULL;
}

bool qmi_digest_is_shard(const cJSON *entry)
{
    return cJSON_GetObjectItemCaseSensitive(entry, "header_xxh3") != NULL;
}

/* ---- config.json ---- */

/* Without digests there are no entries of this kind either. */
static bool vouches_for_small_files(const cJSON *config)
{
    const cJSON *entry = NULL;
    cJSON_ArrayForEach(entry, qmi_digest_files(config))
    {
        if (cJSON_GetObjectItemCaseSensitive(entry, "xxh3") != NULL)
            return true;
    }
    return false;
}

/* The digest counts its own digits as zeros. */
static qmoe_status compare(char *text, size_t n_bytes, const char *path,
    const char *digest, qmi_error *err)
{
    char hex[DIGITS + 1];
    char *digits = memmem(text, n_bytes, digest, DIGITS);
    bool twice = false;
    /* The digits could also stand elsewhere in the text: then it is not clear
     * which ones to count as zeros, and the file is refused. */
    if (digits != NULL) {
        memset(digits, '0', DIGITS);
        twice = memmem(text, n_bytes, digest, DIGITS) != NULL;
    }
    qmi_hash_hex(hex, qmi_hash64(text, n_bytes));
    if (digits != NULL && !twice && strcmp(hex, digest) == 0)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_CHECKSUM,
        "%s: checksum %s, but its " QMI_DIGEST_KEY " is %s", path, hex, digest);
}

static bool is_hex(const char *text)
{
    return text != NULL && strlen(text) == DIGITS &&
           strspn(text, "0123456789abcdef") == DIGITS;
}

qmoe_status qmi_digest_check_config(
    bool *has_digest, const char *path, const cJSON *config, qmi_error *err)
{
    const cJSON *item =
        cJSON_GetObjectItemCaseSensitive(quantization(config), QMI_DIGEST_KEY);
    const char *digest = cJSON_GetStringValue(item);
    char *text = NULL;
    size_t n_bytes = 0;
    /* A digest that was removed while its entries stayed is a broken file, not
     * an old one. */
    *has_digest = item != NULL || vouches_for_small_files(config);
    if (!*has_digest)
        return QMOE_OK;
    if (!is_hex(digest))
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: quantization_config." QMI_DIGEST_KEY
            " is not a string of %d hexadecimal digits",
            path, DIGITS);
    QMI_TRY(qmi_read_file(&text, &n_bytes, path, MAX_SMALL_BYTES, err));
    qmoe_status status = compare(text, n_bytes, path, digest, err);
    qmi_free(text);
    return status;
}

/* ---- other files ---- */

/* What an entry says about size and hash; `key` is where the hash stands. */
static qmoe_status read_entry(uint64_t *n_bytes, const char **hex,
    const cJSON *entry, const char *key, const char *config_path,
    qmi_error *err)
{
    int64_t number = 0;
    QMI_TRY(qmi_json_int(&number, entry, "bytes", true, 0, 0, (int64_t)1 << 53,
        config_path, err));
    *n_bytes = (uint64_t)number;
    /* A missing hash is compared as "(none)", which no hash is. */
    return qmi_json_string(hex, entry, key, "(none)", config_path, err);
}

static qmoe_status hash_small(
    char hex[DIGITS + 1], uint64_t *n_bytes, const char *path, qmi_error *err)
{
    char *text = NULL;
    size_t n = 0;
    qmoe_status status = qmi_read_file(&text, &n, path, MAX_SMALL_BYTES, err);
    if (status == QMOE_E_NOT_FOUND)
        /* Missing is damage here, not absence: the model says that it had
         * one. */
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: missing, but config.json records it", path);
    QMI_TRY(status);
    qmi_hash_hex(hex, qmi_hash64(text, n));
    *n_bytes = n;
    qmi_free(text);
    return QMOE_OK;
}

qmoe_status qmi_digest_check_small(const char *directory,
    const char *config_path, const cJSON *entry, qmi_error *err)
{
    const char *expected = NULL;
    uint64_t n_expected = 0, n_bytes = 0;
    char hex[DIGITS + 1];
    /* The name comes from config.json and becomes part of a path. */
    if (!qmi_is_plain_name(entry->string))
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: quantization_config.files: '%.200s' is not a plain file name",
            config_path, entry->string);
    QMI_TRY(
        read_entry(&n_expected, &expected, entry, "xxh3", config_path, err));
    char *path = qmi_path_join(directory, entry->string, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = hash_small(hex, &n_bytes, path, err);
    if (status == QMOE_OK &&
        (n_bytes != n_expected || strcmp(hex, expected) != 0))
        status = qmi_fail(err, QMOE_E_CHECKSUM,
            "%s: checksum %s and %" PRIu64
            " bytes, but config.json records %s and %" PRIu64,
            path, hex, n_bytes, expected, n_expected);
    qmi_free(path);
    return status;
}

qmoe_status qmi_digest_check_shard(const qmi_tensor_file *shard,
    const char *config_path, const cJSON *files, qmi_error *err)
{
    const char *path = qmi_tensor_file_path(shard);
    const char *name = qmi_last_component(path);
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(files, name);
    const char *expected = NULL;
    uint64_t n_bytes = 0;
    char hex[DIGITS + 1];
    if (!cJSON_IsObject(entry))
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: quantization_config.files has no '%.200s'", config_path, name);
    QMI_TRY(read_entry(
        &n_bytes, &expected, entry, "header_xxh3", config_path, err));
    qmi_hash_hex(hex, qmi_tensor_file_header_hash(shard));
    if (n_bytes == qmi_tensor_file_bytes(shard) && strcmp(expected, hex) == 0)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_CHECKSUM,
        "%s: header checksum %s and %" PRIu64
        " bytes, but config.json records %s and %" PRIu64,
        path, hex, qmi_tensor_file_bytes(shard), expected, n_bytes);
}

/* A tokenizer that config.json does not know would change what the model
 * reads. */
qmoe_status qmi_digest_check_foreign(
    const char *directory, const cJSON *files, const char *name, qmi_error *err)
{
    if (cJSON_GetObjectItemCaseSensitive(files, name) != NULL)
        return QMOE_OK;
    char *path = qmi_path_join(directory, name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    if (access(path, F_OK) == 0)
        status = qmi_fail(err, QMOE_E_FORMAT,
            "%s: config.json does not record it; it does not belong to the "
            "model",
            path);
    qmi_free(path);
    return status;
}

/* ---- all of it ---- */

qmoe_status qmi_digest_check(const qmi_checkpoint *checkpoint, qmi_error *err)
{
    const char *directory = qmi_checkpoint_directory(checkpoint);
    const char *path = qmi_checkpoint_config_path(checkpoint);
    const cJSON *config = qmi_checkpoint_config(checkpoint);
    const cJSON *files = qmi_digest_files(config), *entry = NULL;
    bool has_digest = false;
    QMI_TRY(qmi_digest_check_config(&has_digest, path, config, err));
    if (!has_digest)
        return QMOE_OK;
    cJSON_ArrayForEach(entry, files)
    {
        if (!qmi_digest_is_shard(entry) &&
            strcmp(entry->string, QMI_REPORT_NAME) != 0)
            QMI_TRY(qmi_digest_check_small(directory, path, entry, err));
    }
    for (int i = 0; i < QMI_N_TOKENIZER_FILES; i++)
        QMI_TRY(qmi_digest_check_foreign(
            directory, files, qmi_tokenizer_files[i], err));
    for (size_t i = 0; i < qmi_checkpoint_file_count(checkpoint); i++)
        QMI_TRY(qmi_digest_check_shard(
            qmi_checkpoint_file(checkpoint, i), path, files, err));
    return QMOE_OK;
}
