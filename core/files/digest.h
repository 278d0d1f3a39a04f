/* SPDX-License-Identifier: Apache-2.0
 * The digests of a compressed directory (docs/format.md, section 2.1):
 * config.json vouches for itself and for every other file. */
#ifndef QMI_DIGEST_H
#define QMI_DIGEST_H

#include "checkpoint.h"

/* The report of the compression: vouched for, but not read by models. */
#define QMI_REPORT_NAME "qmoe_report.json"
#define QMI_DIGEST_KEY "config_xxh3"

/* config.json at `path`, with the content `config`, against its digest.
 * *has_digest false: it was written before there were digests (or is not
 * compressed), nothing was checked.  E_CHECKSUM, E_FORMAT. */
qmoe_status qmi_digest_check_config(
    bool *has_digest, const char *path, const cJSON *config, qmi_error *err);
/* quantization_config.files; NULL when there is none. */
const cJSON *qmi_digest_files(const cJSON *config);
bool qmi_digest_is_shard(const cJSON *entry);
/* The file that an entry of `files` names, not a shard's, by size and content.
 * E_CHECKSUM; E_FORMAT: it is missing, or the entry is no good. */
qmoe_status qmi_digest_check_small(const char *directory,
    const char *config_path, const cJSON *entry, qmi_error *err);
/* Size and header of an open shard.  E_CHECKSUM; E_FORMAT: it has no entry. */
qmoe_status qmi_digest_check_shard(const qmi_tensor_file *shard,
    const char *config_path, const cJSON *files, qmi_error *err);
/* The tokenizer's files: what a model reads beside config.json and shards. */
enum { QMI_N_TOKENIZER_FILES = 6 };
extern const char *const qmi_tokenizer_files[QMI_N_TOKENIZER_FILES];
/* A file that models read must have an entry when it is there.  E_FORMAT. */
qmoe_status qmi_digest_check_foreign(const char *directory, const cJSON *files,
    const char *name, qmi_error *err);
/* All of that for an open checkpoint but the report, if it has digests: what
 * decides a result, except the data of tensors. */
qmoe_status qmi_digest_check(const qmi_checkpoint *checkpoint, qmi_error *err);

#endif
