/* SPDX-License-Identifier: Apache-2.0
 * How quantisers and the formats they write are found and named. */
#include "quantiser.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"

const qmi_quantiser *qmi_quantiser_at(size_t index)
{
    for (size_t i = 0; qmi_quantisers[i] != NULL; i++)
        if (i == index)
            return qmi_quantisers[i];
    return NULL;
}

const qmi_quantiser *qmi_quantiser_find(const char *method, const char *format)
{
    for (size_t i = 0; qmi_quantisers[i] != NULL; i++)
        if (strcmp(qmi_quantisers[i]->method, method) == 0 &&
            strcmp(qmi_quantisers[i]->format->name, format) == 0)
            return qmi_quantisers[i];
    return NULL;
}

bool qmi_quantiser_makes_passes(const qmi_quantiser *quantiser, bool fit_levels)
{
    return quantiser->default_passes != 0 &&
           (fit_levels || !quantiser->passes_fit_levels);
}

/* ---- names of formats ---- */

bool qmi_format_rotates(const qmi_format *format)
{
    return format->rotates;
}

bool qmi_format_has_levels(const qmi_format *format)
{
    return format->ternary;
}

bool qmi_format_has_dictionary(const qmi_format *format)
{
    return format->needs_dictionary;
}

bool qmi_format_weighs_rows(const qmi_format *format)
{
    const qmi_quantiser *q = qmi_quantiser_find("gptq", format->name);
    return q != NULL && q->weighs_rows;
}

const char *qmi_format_names(char *text, size_t capacity, const char *method,
    bool (*has)(const qmi_format *format))
{
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; qmi_formats[i] != NULL; i++) {
        const qmi_format *format = qmi_formats[i];
        if ((method != NULL &&
                qmi_quantiser_find(method, format->name) == NULL) ||
            (has != NULL && !has(format)) || n >= capacity)
            continue;
        n += (size_t)snprintf(
            text + n, capacity - n, "%s%s", n == 0 ? "" : ", ", format->name);
    }
    return text;
}

/* ---- recipes ---- */

void qmi_stack_recipe_set(qmi_weight *stack, const qmi_stack_recipe *recipe)
{
    stack->format = recipe->quantiser->format;
    stack->codebook = recipe->quant.codebook;
    stack->rotation = recipe->quant.rotation;
    stack->rotation_seed = recipe->quant.rotation_seed;
}

void qmi_encoded_free(qmi_encoded *encoded)
{
    for (int i = 0; i < QMI_MAX_PARTS; i++)
        qmi_free(encoded->parts[i]);
    *encoded = (qmi_encoded){0};
}
