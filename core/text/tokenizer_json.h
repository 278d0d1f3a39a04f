/* SPDX-License-Identifier: Apache-2.0
 * The parts of a tokenizer.json.  Each reader gets the value of its key (NULL:
 * there is none) and fills its part of the tokenizer.  E_FORMAT; E_UNSUPPORTED
 * naming what we do not compute. */
#ifndef QMI_TOKENIZER_JSON_H
#define QMI_TOKENIZER_JSON_H

#include "json.h"
#include "tokenizer_bpe.h"

/* What a reader of a part knows. */
typedef struct qmi_json_part {
    qmi_bpe_tokenizer *t;
    const char *file;
    qmi_error *err;
} qmi_json_part;

/* tokenizer_json_steps.c */
qmoe_status qmi_json_normalizer(const qmi_json_part *p, const cJSON *json);
/* Also decides whether symbols are bytes. */
qmoe_status qmi_json_pre_tokenizer(const qmi_json_part *p, const cJSON *json);
/* tokenizer_json_ends.c */
qmoe_status qmi_json_decoder(const qmi_json_part *p, const cJSON *json);
/* After the tokens. */
qmoe_status qmi_json_post_processor(const qmi_json_part *p, const cJSON *json);
/* tokenizer_json_model.c */
qmoe_status qmi_json_model(const qmi_json_part *p, const cJSON *json);

/* An object of `added_tokens`, or of added_tokens_decoder. */
qmoe_status qmi_json_added_token(
    qmi_added_token *out, const qmi_json_part *p, const cJSON *json);

/* The value of "type"; NULL: there is none. */
const char *qmi_json_type(const cJSON *json);
/* Refuses `what` (a normalizer ...) of this type. */
qmoe_status qmi_json_refuse(
    const qmi_json_part *p, const char *what, const cJSON *json);
/* Calls `read` for `json`, or if it is a Sequence for each member of its array
 * `key`, at most three deep. */
typedef qmoe_status qmi_json_step(const qmi_json_part *p, const cJSON *json);
qmoe_status qmi_json_sequence(const qmi_json_part *p, const cJSON *json,
    const char *key, qmi_json_step *read);

#endif
