/* SPDX-License-Identifier: Apache-2.0
 * In: the text of a template, then variables as JSON.  Out: text with a mask.
 * The tree is read-only once made; everything of one rendering lives in its
 * run. */
#include "jinja.h"

#include <string.h>

#include "alloc.h"
#include "jinja_eval.h"
#include "jinja_json.h"
#include "json.h"

enum {
    MAX_TEMPLATE_BYTES = 1 << 20,
    MAX_TREE_BYTES = 64 * 1000 * 1000,
    MAX_RUN_BYTES = 256 * 1000 * 1000
};

struct qmi_jinja {
    char *file;
    qmi_jarena arena;
    qmi_jnode *body;
};

void qmi_jinja_close(qmi_jinja *jinja)
{
    if (jinja == NULL)
        return;
    qmi_jarena_release(&jinja->arena);
    qmi_free(jinja->file);
    qmi_free(jinja);
}

/* The error is needed for its status even where the caller wants none. */
static qmoe_status parse(
    qmi_jinja *jinja, const char *text, size_t n_bytes, qmi_error *err)
{
    qmi_error own = {0};
    qmi_jsource source = {.file = jinja->file,
        .err = err == NULL ? &own : err,
        .arena = &jinja->arena};
    if (n_bytes > MAX_TEMPLATE_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: the template is longer than %d bytes", jinja->file,
            MAX_TEMPLATE_BYTES);
    if (!qmi_utf8_valid(text, n_bytes))
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: the template is not valid UTF-8", jinja->file);
    if (qmi_jlex(&source, text, n_bytes) && qmi_jparse(&source, &jinja->body))
        return QMOE_OK;
    return source.err->status;
}

qmoe_status qmi_jinja_open(qmi_jinja **out, const char *text, size_t n_bytes,
    const char *file, qmi_error *err)
{
    *out = NULL;
    qmi_jinja *jinja = qmi_calloc(1, sizeof *jinja, "a template", err);
    if (jinja == NULL)
        return QMOE_E_NOMEM;
    jinja->arena.max_bytes = MAX_TREE_BYTES;
    jinja->file = qmi_strdup(file, err);
    qmoe_status status =
        jinja->file == NULL ? QMOE_E_NOMEM : parse(jinja, text, n_bytes, err);
    if (status != QMOE_OK)
        qmi_jinja_close(jinja);
    else
        *out = jinja;
    return status;
}

void qmi_jinja_text_release(qmi_jinja_text *text)
{
    qmi_free(text->text);
    qmi_free(text->literal);
    *text = (qmi_jinja_text){0};
}

static qmoe_status set_variable(
    qmi_jrun *run, const qmi_jinja_variable *variable)
{
    qmi_jvalue value = {0};
    const qmi_jstring *name = NULL;
    const char *what = variable->name == NULL ? "variables" : variable->name;
    qmoe_status status =
        qmi_jfrom_json(run, &value, variable->json, variable->is_data, what);
    /* JSON that breaks a rule is the caller's, not the template's. */
    if (status == QMOE_E_FORMAT)
        status = run->err->status = QMOE_E_INVALID;
    QMI_TRY(status);
    if (variable->name != NULL) {
        QMI_TRY(qmi_jmake_string(run, variable->name, &name));
        return qmi_jset(run, name, value);
    }
    if (value.kind != QMI_J_DICT)
        return qmi_fail(
            run->err, QMOE_E_INVALID, "%s: not a JSON object", what);
    for (size_t i = 0; i < value.as.dict->n; i++) {
        const qmi_jentry *entry = &value.as.dict->entries[i];
        QMI_TRY(qmi_jset(run, entry->key.as.string, entry->value));
    }
    return QMOE_OK;
}

static qmoe_status render(qmi_jrun *run, const qmi_jinja *jinja,
    const qmi_jinja_variable *variables, size_t n_variables)
{
    QMI_TRY(qmi_jpush_scope(run, NULL));
    for (size_t i = 0; i < n_variables; i++)
        QMI_TRY(set_variable(run, &variables[i]));
    /* What a template sets does not change what the caller gave. */
    QMI_TRY(qmi_jpush_scope(run, run->scope));
    QMI_TRY(qmi_jexecute(run, jinja->body));
    return qmi_jwrite_bytes(run, "", 1, false);
}

qmoe_status qmi_jinja_render(const qmi_jinja *jinja, qmi_jinja_text *out,
    const qmi_jinja_variable *variables, size_t n_variables, int64_t now,
    qmi_error *err)
{
    qmi_error own = {0};
    qmi_jrun run = {
        .file = jinja->file, .err = err == NULL ? &own : err, .now = now};
    *out = (qmi_jinja_text){0};
    run.arena.max_bytes = MAX_RUN_BYTES;
    qmoe_status status = render(&run, jinja, variables, n_variables);
    qmi_jarena_release(&run.arena);
    if (status == QMOE_OK) {
        *out = (qmi_jinja_text){run.text, run.mask, run.n_bytes - 1};
        return QMOE_OK;
    }
    qmi_free(run.text);
    qmi_free(run.mask);
    return status;
}
