/* SPDX-License-Identifier: Apache-2.0
 * In: JSON of a model's directory, not trusted, and what a member may be.  Out:
 * its value, or an error that names file and key. */
#include "config_reader.h"

#include <float.h>

qmoe_status qmi_config_need(const qmi_config_reader *reader, int64_t *out,
    const char *key, int64_t low, int64_t high)
{
    return qmi_json_int(
        out, reader->json, key, true, 0, low, high, reader->file, reader->err);
}

qmoe_status qmi_config_may(const qmi_config_reader *reader, int64_t *out,
    const char *key, int64_t low, int64_t high)
{
    return qmi_json_int(out, reader->json, key, false, *out, low, high,
        reader->file, reader->err);
}

qmoe_status qmi_config_flag(
    const qmi_config_reader *reader, bool *out, const char *key)
{
    return qmi_json_bool(
        out, reader->json, key, *out, reader->file, reader->err);
}

qmoe_status qmi_config_epsilon(
    const qmi_config_reader *reader, double *out, const char *key)
{
    QMI_TRY(qmi_json_double(
        out, reader->json, key, *out, reader->file, reader->err));
    /* Under a root in float32: positive and normal there, or a row of zeros is
     * divided by zero, and not above the 1 that a normalised row has itself. */
    if (*out >= (double)FLT_MIN && *out <= 1)
        return QMOE_OK;
    return qmi_fail(reader->err, QMOE_E_FORMAT, "%s: %s is %g, not in %g..1",
        reader->file, key, *out, (double)FLT_MIN);
}

static qmoe_status add_end(
    const qmi_config_reader *reader, qmi_shape *shape, const cJSON *id)
{
    uint64_t value;
    if (!qmi_json_to_u64(&value, id) || value >= (uint64_t)shape->vocab_size)
        return qmi_fail(reader->err, QMOE_E_FORMAT,
            "%s: eos_token_id is not an id of the vocabulary", reader->file);
    if (qmi_shape_is_end(shape, (int32_t)value))
        return QMOE_OK;
    if (shape->n_end_ids == QMI_MAX_END_IDS)
        return qmi_fail(reader->err, QMOE_E_UNSUPPORTED,
            "%s: with those of eos_token_id the model has more than %d end ids",
            reader->file, QMI_MAX_END_IDS);
    shape->end_ids[shape->n_end_ids++] = (int32_t)value;
    return QMOE_OK;
}

qmoe_status qmi_config_ends(const qmi_config_reader *reader, qmi_shape *shape)
{
    const cJSON *end =
        cJSON_GetObjectItemCaseSensitive(reader->json, "eos_token_id");
    const cJSON *id = NULL;
    if (end == NULL || cJSON_IsNull(end))
        return QMOE_OK;
    if (!cJSON_IsArray(end))
        return add_end(reader, shape, end);
    cJSON_ArrayForEach(id, end) QMI_TRY(add_end(reader, shape, id));
    return QMOE_OK;
}
