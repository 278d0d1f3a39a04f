/* SPDX-License-Identifier: Apache-2.0
 * Members of a config.json that architectures read alike.  Errors name file and
 * key. */
#ifndef QMI_CONFIG_READER_H
#define QMI_CONFIG_READER_H

#include "json.h"
#include "shape.h"

typedef struct qmi_config_reader {
    const cJSON *json;
    const char *file;
    qmi_error *err;
} qmi_config_reader;

/* 2^24: far above every dimension of published models, so that products of two
 * fit 64 bits. */
enum { QMI_MAX_DIMENSION = 1 << 24 };

/* An integer that must be there, within [low, high]. */
qmoe_status qmi_config_need(const qmi_config_reader *reader, int64_t *out,
    const char *key, int64_t low, int64_t high);
/* *out holds the default, and stays when the member is missing or null. */
qmoe_status qmi_config_may(const qmi_config_reader *reader, int64_t *out,
    const char *key, int64_t low, int64_t high);
qmoe_status qmi_config_flag(
    const qmi_config_reader *reader, bool *out, const char *key);
/* What a norm adds to a mean of squares. */
qmoe_status qmi_config_epsilon(
    const qmi_config_reader *reader, double *out, const char *key);
/* eos_token_id, an id or a list: adds those that the shape, whose vocabulary is
 * known, does not have.  Missing or null: none. */
qmoe_status qmi_config_ends(const qmi_config_reader *reader, qmi_shape *shape);

#endif
