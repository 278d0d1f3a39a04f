/* SPDX-License-Identifier: Apache-2.0
 * The table of quantisers: which format each writes, and between which formats
 * a bit budget chooses. */
#include "quantiser.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"

extern const qmi_quantiser qmi_quantiser_ternary_rtn;
extern const qmi_quantiser qmi_quantiser_ternary_gptq;
extern const qmi_quantiser qmi_quantiser_q2_rtn;
extern const qmi_quantiser qmi_quantiser_q2_gptq;
extern const qmi_quantiser qmi_quantiser_pvq_rtn;
extern const qmi_quantiser qmi_quantiser_pvq_gptq;
extern const qmi_quantiser qmi_quantiser_pvq8_rtn;
extern const qmi_quantiser qmi_quantiser_pvq8_gptq;

static const qmi_quantiser *const table[] = {
    &qmi_quantiser_ternary_rtn,
    &qmi_quantiser_ternary_gptq,
    &qmi_quantiser_q2_rtn,
    &qmi_quantiser_q2_gptq,
    &qmi_quantiser_pvq_rtn,
    &qmi_quantiser_pvq_gptq,
    &qmi_quantiser_pvq8_rtn,
    &qmi_quantiser_pvq8_gptq,
};

const qmi_quantiser *qmi_quantiser_at(size_t index)
{
    return index < sizeof table / sizeof *table ? table[index] : NULL;
}

const qmi_quantiser *qmi_quantiser_find(const char *method, const char *format)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i]->method, method) == 0 &&
            strcmp(table[i]->format->name, format) == 0)
            return table[i];
    return NULL;
}

extern const qmi_format qmi_format_pvq, qmi_format_pvq8;
const qmi_format *const qmi_budget_formats[QMI_N_SIZES] = {
    [QMI_SMALL] = &qmi_format_pvq,
    [QMI_LARGE] = &qmi_format_pvq8,
};

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
