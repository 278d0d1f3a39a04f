/* SPDX-License-Identifier: Apache-2.0
 * What the tool is told of formats: their traits, and those of the quantisers
 * that write them, in one struct (qmoe/quant.h). */
#include "qmoe/quant.h"

#include "quantiser.h"

/* The best quantiser of the index-th format that there is one for. */
static const qmi_quantiser *quantiser_at(size_t index)
{
    for (size_t i = 0; qmi_formats[i] != NULL; i++) {
        const char *name = qmi_formats[i]->name;
        const qmi_quantiser *q = qmi_quantiser_find("gptq", name);
        if (q == NULL)
            q = qmi_quantiser_find("rtn", name);
        if (q != NULL && index-- == 0)
            return q;
    }
    return NULL;
}

bool qmoe_format_describe(qmoe_format_info *out, size_t index)
{
    const qmi_quantiser *q = quantiser_at(index);
    if (q == NULL || out == NULL)
        return false;
    const qmi_format *format = q->format;
    *out = (qmoe_format_info){
        .name = format->name,
        .summary = format->summary,
        .rotates = format->rotates,
        .has_levels = format->ternary,
        .has_dictionary = format->needs_dictionary,
        .in_budget = format == qmi_budget_formats[QMI_SMALL] ||
                     format == qmi_budget_formats[QMI_LARGE],
        .is_variable = format->variable,
        .passes = q->default_passes,
        .passes_fit_levels = q->passes_fit_levels,
    };
    return true;
}
