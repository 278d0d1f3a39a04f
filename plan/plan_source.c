/* SPDX-License-Identifier: Apache-2.0
 * In: what the user names: a model that can be opened, or one that a
 * configuration describes.  Out: a model to plan for, with weights or without.
 * A configuration alone may be wrong in ways that weights would settle, so
 * doubts become messages. */
#include "plan_source.h"

#include <sys/stat.h>

#include "alloc.h"
#include "arch.h"
#include "context.h"
#include "hints.h"
#include "synth.h"

typedef struct opener {
    qmoe_context *context;
    qmoe_model *model;
    bool from_config;
    qmi_error *err;
} opener;

/* ---- the source ---- */

static qmoe_status sketch_file(opener *p, const char *path)
{
    cJSON *config = NULL;
    qmoe_status status = qmi_json_load(&config, path, p->err);
    /* A file that is no JSON is most likely a weight file: say what is
     * wanted. */
    if (status == QMOE_E_FORMAT)
        return qmi_error_prefix(p->err, status,
            "a plan takes a model's directory or a config.json");
    QMI_TRY(status);
    status = qmi_model_sketch(&p->model, &p->context->hooks, config, path);
    cJSON_Delete(config);
    p->from_config = true;
    if (status == QMOE_OK && p->model->arch->doubt != NULL)
        p->model->arch->doubt(p->model, path);
    return status;
}

/* A synthetic name: its shapes are known without making a weight. */
static qmoe_status sketch_published(opener *p, const char *source)
{
    qmi_synth synth;
    QMI_TRY(qmi_synth_parse(&synth, source, p->err));
    cJSON *config = qmi_synth_config(&synth);
    if (config == NULL)
        return qmi_fail(p->err, QMOE_E_NOMEM, "out of memory: a config");
    qmoe_status status =
        qmi_model_sketch(&p->model, &p->context->hooks, config, source);
    cJSON_Delete(config);
    return status;
}

/* A directory may hold no weights that can be opened: its config.json is
 * enough, unless it says that there are compressed ones. */
static qmoe_status open_directory(opener *p, const char *source)
{
    struct stat info;
    qmoe_status status = qmoe_model_open(&p->model, p->context, source);
    /* Other failures are the model's own, such as a broken file: they are told,
     * not planned around. */
    if (status != QMOE_E_NOT_FOUND && status != QMOE_E_UNSUPPORTED)
        return status;
    char *path = qmi_path_join(source, "config.json", p->err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    if (stat(path, &info) == 0)
        status = sketch_file(p, path);
    if (status == QMOE_OK && qmi_looks_published(source))
        qmi_message(&p->context->hooks,
            "%s: a published compressed model, planned from its config.json; "
            "'qmoe import' converts it",
            source);
    qmi_free(path);
    return status;
}

static qmoe_status open_source(opener *p, const char *source)
{
    struct stat info;
    /* Names first: "synth:..." is no path. */
    if (qmi_is_synth(source))
        return sketch_published(p, source);
    if (stat(source, &info) == 0 && S_ISREG(info.st_mode))
        return sketch_file(p, source);
    return open_directory(p, source);
}

qmoe_status qmi_plan_open(qmoe_model **out, bool *from_config,
    qmoe_context *context, const char *source)
{
    opener p = {.context = context, .err = &context->hooks.error};
    qmoe_status status = open_source(&p, source);
    *out = p.model;
    *from_config = p.from_config;
    return status;
}
