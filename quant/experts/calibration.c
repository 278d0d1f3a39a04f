/* SPDX-License-Identifier: Apache-2.0
 * In: calibration texts, drawn from as the model's objective asks for.  Out: the
 * ids of all samples, sequence after sequence, a weight per token, and a hash of
 * them; the same texts and options give the same. */
#include "calibration.h"

#include "alloc.h"
#include "hash.h"

/* Hashes ids and borders, so that two lists that differ only in where samples
 * end differ, too. */
static void hash_sets(qmi_calibration *c)
{
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        const qmi_token_set *set = &c->sets[p];
        if (set->n_sequences == 0)
            continue;
        const uint64_t all[3] = {c->hash,
            qmi_hash64(set->ids, (size_t)set->n_tokens * sizeof *set->ids),
            qmi_hash64(
                set->begin, (set->n_sequences + 1) * sizeof *set->begin)};
        c->hash = qmi_hash64(all, sizeof all);
    }
}

qmoe_status qmi_calibration_load(qmi_calibration *out, const qmoe_model *model,
    const qmi_calibration_options *options, qmi_error *err)
{
    *out = (qmi_calibration){0};
    QMI_TRY(qmi_model_need_tokenizer(model, err));
    qmoe_status status =
        model->shape.objective == QMI_SPAN_CORRUPTION
            ? qmi_calibration_spans(out, model, options, err)
            : qmi_calibration_windows(out, model, options, err);
    if (status != QMOE_OK) {
        qmi_calibration_free(out);
        return status;
    }
    out->n_samples = out->sets[QMI_DECODE].n_sequences;
    hash_sets(out);
    return QMOE_OK;
}

void qmi_calibration_free(qmi_calibration *calibration)
{
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        qmi_free(calibration->sets[p].ids);
        qmi_free(calibration->sets[p].begin);
        qmi_free(calibration->sets[p].weight);
    }
    *calibration = (qmi_calibration){0};
}
