/* SPDX-License-Identifier: Apache-2.0
 * In: generation_config.json, not trusted, which not every checkpoint has.
 * Out: end ids, each once, and sampling parameters in their ranges. */
#include "generation.h"

#include <unistd.h>

#include "alloc.h"
#include "config_reader.h"

/* What is missing or out of range is 0, which asks for nothing: it is a
 * recommendation. */
static float number(const cJSON *json, const char *key, double most)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsNumber(item) || !(item->valuedouble > 0) ||
        item->valuedouble > most)
        return 0;
    return (float)item->valuedouble;
}

static void read_sampling(qmi_sampling *out, const cJSON *json)
{
    enum { MOST = 1000, MOST_TOP_K = 1 << 20 };
    *out = (qmi_sampling){
        .repetition_penalty = number(json, "repetition_penalty", MOST)};
    if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "do_sample")))
        return;
    out->temperature = number(json, "temperature", MOST);
    /* The reference's default of a model that samples. */
    if (out->temperature == 0)
        out->temperature = 1;
    out->top_k = (int)number(json, "top_k", MOST_TOP_K);
    out->top_p = number(json, "top_p", 1);
    out->min_p = number(json, "min_p", 1);
}

static qmoe_status read_file(
    qmi_shape *shape, qmi_sampling *sampling, const char *path, qmi_error *err)
{
    cJSON *json = NULL;
    QMI_TRY(qmi_json_load(&json, path, err));
    qmoe_status status = QMOE_OK;
    if (cJSON_IsObject(json)) {
        const qmi_config_reader reader = {json, path, err};
        status = qmi_config_ends(&reader, shape);
        read_sampling(sampling, json);
    } else {
        status = qmi_fail(err, QMOE_E_FORMAT, "%s: not a JSON object", path);
    }
    cJSON_Delete(json);
    return status;
}

qmoe_status qmi_generation_read(qmi_shape *shape, qmi_sampling *sampling,
    const qmi_checkpoint *checkpoint, qmi_error *err)
{
    char *path =
        qmi_checkpoint_beside(checkpoint, "generation_config.json", err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    if (access(path, F_OK) == 0)
        status = read_file(shape, sampling, path, err);
    qmi_free(path);
    return status;
}
