/* SPDX-License-Identifier: Apache-2.0
 * In: a compressed model and a layout.  Out: a directory of that layout.  What
 * both layouts share is here: checks, config.json without our part of it, the
 * small files, the order of the steps.  The output is marked as qmoe's before
 * its first file, so a run that is killed can be told from a foreign
 * directory. */
#include "export_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "journal.h"
#include "json.h"
#include "side_files.h"

/* "<weight>.<part>": the tensors that a layout writes in its own way. */
bool qmi_export_is_part(const qmi_export *e, const char *tensor)
{
    for (size_t i = 0; i < e->model->n_weights; i++) {
        const qmi_weight *w = &e->model->weights[i];
        size_t n = strlen(w->name);
        if (!w->format->dense && strncmp(tensor, w->name, n) == 0 &&
            tensor[n] == '.')
            return true;
    }
    return false;
}

qmoe_status qmi_export_config(qmi_export *e, const char *dtype)
{
    /* Most ways to fail here are a lack of memory in cJSON, which says nothing
     * itself. */
    qmoe_status status = QMOE_E_NOMEM;
    char *text = NULL;
    cJSON *config =
        cJSON_Duplicate(qmi_checkpoint_config(e->model->checkpoint), true);
    if (config == NULL)
        goto cleanup;
    /* Readers of the export must not take it for a compressed model. */
    cJSON_DeleteItemFromObjectCaseSensitive(config, "quantization_config");
    if (dtype != NULL) {
        cJSON_DeleteItemFromObjectCaseSensitive(config, "torch_dtype");
        /* Its other name, that of transformers 5, which reads both. */
        cJSON_DeleteItemFromObjectCaseSensitive(config, "dtype");
        if (cJSON_AddStringToObject(config, "torch_dtype", dtype) == NULL)
            goto cleanup;
    }
    qmi_json_print_as_read(config);
    text = cJSON_Print(config);
    if (text == NULL)
        goto cleanup;
    status =
        qmi_output_write(&e->output, "config.json", text, strlen(text), e->err);
cleanup:
    if (status == QMOE_E_NOMEM)
        status = qmi_fail(e->err, status, "out of memory: config.json");
    cJSON_free(text);
    cJSON_Delete(config);
    return status;
}

static qmoe_status run(qmi_export *e, const char *source, const char *output)
{
    const qmi_output_source from = {source, false};
    const qmi_output_options options = {
        .overwrite = e->options.overwrite, .sources = &from, .n_sources = 1};
    /* Before the source is opened: an enum from outside may hold any number. */
    if (e->options.layout != QMOE_LAYOUT_HF &&
        e->options.layout != QMOE_LAYOUT_PUBLISHED)
        return qmi_fail(e->err, QMOE_E_INVALID, "unknown layout");
    /* true: digests are compared, so that nothing damaged is exported. */
    QMI_TRY(qmi_model_open(&e->model, e->hooks, source, true));
    if (e->model->quantization == NULL)
        return qmi_fail(e->err, QMOE_E_UNSUPPORTED,
            "%s: is not compressed; there is nothing to export", source);
    for (size_t i = 0; i < e->model->n_weights; i++)
        if (!e->model->weights[i].format->dense) {
            /* Progress counts compressed bytes: they are most of the work. */
            e->total += qmi_weight_bytes(&e->model->weights[i]);
            e->report->n_matrices += (uint64_t)e->model->weights[i].n_mats;
        }
    QMI_TRY(qmi_output_open(&e->output, output, &options, e->err));
    QMI_TRY(qmi_journal_mark(&e->output, "export", e->err));
    QMI_TRY(e->options.layout == QMOE_LAYOUT_PUBLISHED ? qmi_export_published(e)
                                                       : qmi_export_hf(e));
    QMI_TRY(qmi_copy_side_files(
        &e->output, NULL, e->model->checkpoint, NULL, e->err));
    return qmi_output_commit(&e->output, e->err);
}

qmoe_status qmoe_export(qmoe_context *context, qmoe_export_report *report,
    const char *source, const char *output, const qmoe_export_options *options)
{
    if (report != NULL)
        *report = (qmoe_export_report){0};
    qmi_hooks *hooks = qmi_hooks_of(context);
    QMI_TRY(qmi_call_begin(
        hooks, __func__, report == NULL || source == NULL || output == NULL));
    qmi_export e = {.hooks = hooks, .report = report, .err = &hooks->error};
    qmi_copy_options(&e.options, sizeof e.options, options);
    const double begin = qmi_seconds();
    qmoe_status status = run(&e, source, output);
    qmi_output_close(&e.output);
    qmoe_model_close(e.model);
    report->seconds = qmi_seconds() - begin;
    return qmi_call_end(hooks, status);
}
