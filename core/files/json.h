/* SPDX-License-Identifier: Apache-2.0
 * Checked access to untrusted JSON, on top of cJSON. */
#ifndef QMI_JSON_H
#define QMI_JSON_H

#include <cjson/cJSON.h>

#include "error.h"

/* Parses `n_bytes` of text as one JSON value with nothing but white space
 * after it; valid UTF-8 and unique object keys are required.  `file` names
 * the source in errors.  Release with cJSON_Delete. */
qmoe_status qmi_json_parse(cJSON **out, const char *text, size_t n_bytes,
    const char *file, qmi_error *err);
qmoe_status qmi_json_load(cJSON **out, const char *path, qmi_error *err);

/* Before a tree from qmi_json_parse, or a copy, is printed, and of no other use
 * afterwards: cJSON would print 0.0 as 0, and readers tell the two apart. */
void qmi_json_print_as_read(cJSON *tree);

/* Object member as an integer in [low, high].  Missing (or null): `fallback`
 * when `required` is false, else E_FORMAT.  Not an integer or out of range:
 * E_FORMAT naming file and key. */
qmoe_status qmi_json_int(int64_t *out, const cJSON *object, const char *key,
    bool required, int64_t fallback, int64_t low, int64_t high,
    const char *file, qmi_error *err);
qmoe_status qmi_json_double(double *out, const cJSON *object, const char *key,
    double fallback, const char *file, qmi_error *err);
qmoe_status qmi_json_bool(bool *out, const cJSON *object, const char *key,
    bool fallback, const char *file, qmi_error *err);
/* *out is owned by `object`; `fallback` (may be NULL) when missing. */
qmoe_status qmi_json_string(const char **out, const cJSON *object,
    const char *key, const char *fallback, const char *file, qmi_error *err);

/* A JSON number as a non-negative integer below 2^53; false otherwise. */
bool qmi_json_to_u64(uint64_t *out, const cJSON *number);

/* A place in JSON text, for input too large to be trusted with a tree.  The
 * text must be valid UTF-8. */
typedef struct qmi_json_cursor {
    const char *at, *end;
} qmi_json_cursor;

/* Each skips white space first.  take: steps over `c` if it is next.
 * take_string: the string there, released with cJSON_Delete; NULL when there
 * is none or it breaks RFC 8259 or holds an escaped NUL.  take_u64: as
 * qmi_json_to_u64; false also when there is no number. */
bool qmi_json_take(qmi_json_cursor *cursor, char c);
cJSON *qmi_json_take_string(qmi_json_cursor *cursor);
bool qmi_json_take_u64(qmi_json_cursor *cursor, uint64_t *out);
bool qmi_json_at_end(qmi_json_cursor *cursor);

/* How many bytes are well-formed UTF-8 (RFC 3629), up to the first that is
 * not. */
size_t qmi_utf8_prefix(const void *text, size_t n_bytes);
/* True when all bytes are. */
bool qmi_utf8_valid(const void *text, size_t n_bytes);

#endif
