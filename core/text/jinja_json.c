/* SPDX-License-Identifier: Apache-2.0
 * In: JSON text.  Out: values.  cJSON keeps no difference between 1 and 1.0, so
 * the numbers are read from the text again, in the order in which the tree has
 * them. */
#include "jinja_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* cJSON's own limit is 1000. */
enum { MAX_JSON_DEPTH = 100 };

typedef struct reader {
    qmi_jrun *run;
    const char *at; /* after the last number that was read */
    const char *what;
    bool is_data;
    int depth;
} reader;

static const char *after_string(const char *p)
{
    for (p++; *p != '"'; p++)
        p += *p == '\\';
    return p + 1;
}

static qmoe_status read_number(reader *r, qmi_jvalue *out)
{
    const char *p = r->at;
    while (*p != '-' && (*p < '0' || *p > '9'))
        p = *p == '"' ? after_string(p) : p + 1;
    size_t n = strspn(p, "+-.0123456789eE");
    char *end = NULL;
    r->at = p + n;
    if (strcspn(p, ".eE") < n) {
        *out = qmi_jfloat(strtod(p, &end));
        return QMOE_OK;
    }
    errno = 0;
    *out = qmi_jint(strtoll(p, &end, 10));
    if (errno == ERANGE)
        return qmi_fail(r->run->err, QMOE_E_UNSUPPORTED,
            "%s: %s: integers of more than 64 bits are not supported",
            r->run->file, r->what);
    return QMOE_OK;
}

static qmoe_status read_string(
    reader *r, const char *text, const qmi_jstring **out)
{
    size_t start = r->run->n_bytes;
    QMI_TRY(qmi_jwrite_bytes(r->run, text, strlen(text), r->is_data));
    return qmi_jtake_text(r->run, start, out);
}

static qmoe_status read_item(reader *r, const cJSON *item, qmi_jvalue *out);

static qmoe_status read_list(reader *r, const cJSON *array, qmi_jvalue *out)
{
    qmi_jlist *list = NULL;
    const cJSON *item = NULL;
    size_t i = 0;
    QMI_TRY(qmi_jnew_list(
        r->run, QMI_J_PLAIN, (size_t)cJSON_GetArraySize(array), &list));
    cJSON_ArrayForEach(item, array)
        QMI_TRY(read_item(r, item, &list->items[i++]));
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

static qmoe_status read_dict(reader *r, const cJSON *object, qmi_jvalue *out)
{
    qmi_jdict *dict = NULL;
    const cJSON *item = NULL;
    QMI_TRY(qmi_jnew_dict(r->run, (size_t)cJSON_GetArraySize(object), &dict));
    cJSON_ArrayForEach(item, object)
    {
        const qmi_jstring *key = NULL;
        /* Keys are unique (qmi_json_parse), so none is looked for. */
        qmi_jentry *entry = &dict->entries[dict->n];
        QMI_TRY(read_string(r, item->string, &key));
        entry->key = qmi_jof_string(key);
        QMI_TRY(read_item(r, item, &entry->value));
        dict->n++;
    }
    *out = qmi_jof_dict(dict);
    return QMOE_OK;
}

static qmoe_status read_item(reader *r, const cJSON *item, qmi_jvalue *out)
{
    const qmi_jstring *string = NULL;
    if (cJSON_IsNumber(item))
        return read_number(r, out);
    if (cJSON_IsString(item)) {
        QMI_TRY(read_string(r, item->valuestring, &string));
        *out = qmi_jof_string(string);
        return QMOE_OK;
    }
    *out = cJSON_IsNull(item) ? qmi_jnone() : qmi_jbool(cJSON_IsTrue(item));
    if (!cJSON_IsArray(item) && !cJSON_IsObject(item))
        return QMOE_OK;
    if (r->depth == MAX_JSON_DEPTH)
        return qmi_fail(r->run->err, QMOE_E_FORMAT,
            "%s: %s nests more than %d levels deep", r->run->file, r->what,
            MAX_JSON_DEPTH);
    r->depth++;
    QMI_TRY(cJSON_IsArray(item) ? read_list(r, item, out)
                                : read_dict(r, item, out));
    r->depth--;
    return QMOE_OK;
}

qmoe_status qmi_jfrom_json(qmi_jrun *run, qmi_jvalue *out, const char *json,
    bool is_data, const char *what)
{
    cJSON *tree = NULL;
    QMI_TRY(qmi_json_parse(&tree, json, strlen(json), what, run->err));
    reader r = {run, json, what, is_data, 0};
    qmoe_status status = read_item(&r, tree, out);
    cJSON_Delete(tree);
    return status;
}
