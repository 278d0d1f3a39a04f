/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a chat template, rendered with a small conversation. */
#include <string.h>

#include "fuzz.h"
#include "jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const qmi_jinja_variable variables[] = {
        {"messages",
            "[{\"role\": \"system\", \"content\": \"S\\u00e9\"}, {\"role\": "
            "\"user\", \"content\": [{\"type\": \"text\", \"text\": \" "
            "a\\n\"}]}, "
            "{\"role\": \"assistant\", \"content\": null, \"n\": -1.5}]",
            true},
        {"tools", "[{\"a\": {\"b\": [1, \"x\", true]}}]", true},
        {"bos_token", "\"<s>\"", false}, {"n", "3", false}};
    qmi_error err = {0};
    qmi_jinja *jinja = NULL;
    qmi_jinja_text text = {0};
    /* A copy of just these bytes: reading beyond them is seen. */
    char *template = malloc(n_bytes == 0 ? 1 : n_bytes);
    if (template == NULL)
        abort();
    if (n_bytes != 0)
        memcpy(template, data, n_bytes);
    qmoe_status status =
        qmi_jinja_open(&jinja, template, n_bytes, "fuzz", &err);
    free(template);
    if ((status == QMOE_OK) != (jinja != NULL))
        abort();
    if (status == QMOE_OK)
        status = qmi_jinja_render(jinja, &text, variables,
            sizeof variables / sizeof variables[0], 0, &err);
    if ((status == QMOE_OK) != (text.text != NULL) ||
        (status != QMOE_OK && (err.text[0] == '\0' || err.status != status)))
        abort();
    for (size_t i = 0; i < text.n_bytes; i++)
        if (text.literal[i] > 1)
            abort();
    qmi_jinja_text_release(&text);
    qmi_jinja_close(jinja);
    return 0;
}
