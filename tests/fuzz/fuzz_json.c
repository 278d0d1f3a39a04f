/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as JSON: as a tree, and by the cursor that walks large headers.
 * Both must take the same strings. */
#include <string.h>

#include "fuzz.h"
#include "json.h"

static void check_string(const cJSON *tree, const char *text, size_t n_bytes)
{
    qmi_json_cursor cursor = {text, text + n_bytes};
    cJSON *string = qmi_json_take_string(&cursor);
    if (cJSON_IsString(tree) &&
        (string == NULL || strcmp(string->valuestring, tree->valuestring) != 0))
        abort();
    cJSON_Delete(string);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    qmi_error err = {.text = ""};
    cJSON *tree = NULL;
    /* A copy of just these bytes: reading beyond them is seen. */
    char *text = malloc(n_bytes == 0 ? 1 : n_bytes);
    if (text == NULL)
        abort();
    if (n_bytes != 0)
        memcpy(text, data, n_bytes);
    qmoe_status status = qmi_json_parse(&tree, text, n_bytes, "fuzz", &err);
    if ((status == QMOE_OK) != (tree != NULL) ||
        (status != QMOE_OK && err.text[0] == '\0'))
        abort();
    if (qmi_utf8_valid(text, n_bytes)) {
        uint64_t number = 0;
        qmi_json_cursor cursor = {text, text + n_bytes};
        check_string(tree, text, n_bytes);
        qmi_json_take_u64(&cursor, &number);
        qmi_json_take(&cursor, '{');
        qmi_json_at_end(&cursor);
    }
    cJSON_Delete(tree);
    free(text);
    return 0;
}
