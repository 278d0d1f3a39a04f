/* SPDX-License-Identifier: Apache-2.0
 * The table of quantisers: a line for each pair of method and format, so that
 * choosing one is a look-up. */
#include "quantiser.h"

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
            strcmp(table[i]->format, format) == 0)
            return table[i];
    return NULL;
}

void qmi_stack_recipe_set(qmi_weight *stack, const qmi_stack_recipe *recipe)
{
    stack->format = qmi_format_find(recipe->quantiser->format);
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
