/* SPDX-License-Identifier: Apache-2.0
 * In: the option's text.  Out: a quantiser for each role that may be compressed.
 * A role that is named twice is a mistake; one that is not named stays as it
 * is. */
#include "dense_choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* A part of the text, not terminated. */
typedef struct span {
    const char *at;
    size_t n;
} span;

static bool is_text(span s, const char *text)
{
    return strlen(text) == s.n && memcmp(text, s.at, s.n) == 0;
}

/* Roles that a matrix of many rows may be compressed in. */
static bool has_choice(int role)
{
    return qmi_model_may_compress((qmoe_role)role, 2);
}

/* ---- bits and formats ---- */

static qmoe_status refuse(span s, qmi_error *err)
{
    char list[128] = "16 leaves them as they are";
    size_t n = strlen(list);
    for (int b = QMI_MAX_DENSE_BITS; b > 0; b--)
        if (qmi_dense_formats[b] != NULL && n < sizeof list)
            n += (size_t)snprintf(list + n, sizeof list - n, ", %d is %s", b,
                qmi_dense_formats[b]->name);
    return qmi_fail(err, QMOE_E_INVALID,
        "matrices beside the experts: '%.*s' is neither a number of bits (%s) "
        "nor a format that can be made",
        (int)(s.n < 40 ? s.n : 40), s.at, list);
}

static const qmi_quantiser *find(const char *format, bool calibrated)
{
    const qmi_quantiser *found = NULL;
    /* Some formats are only rounded to. */
    if (calibrated)
        found = qmi_quantiser_find("gptq", format);
    return found != NULL ? found : qmi_quantiser_find("rtn", format);
}

/* A number of bits stands for a format. */
static qmoe_status read_format(
    const qmi_quantiser **out, span s, bool calibrated, qmi_error *err)
{
    char name[32];
    *out = NULL;
    if (s.n == 0 || s.n >= sizeof name)
        return refuse(s, err);
    memcpy(name, s.at, s.n);
    name[s.n] = '\0';
    if (strcmp(name, "16") == 0)
        return QMOE_OK;
    if (strspn(name, "0123456789") == s.n) {
        const unsigned long bits = strtoul(name, NULL, 10);
        if (bits > QMI_MAX_DENSE_BITS || qmi_dense_formats[bits] == NULL)
            return refuse(s, err);
        *out = find(qmi_dense_formats[bits]->name, calibrated);
        return QMOE_OK;
    }
    *out = find(name, calibrated);
    /* The first shard's header is written before its matrices are coded. */
    if (*out != NULL && (*out)->format->needs_dictionary)
        return qmi_fail(err, QMOE_E_INVALID,
            "matrices beside the experts: format %s is for experts only; its "
            "size depends on the weights",
            name);
    return *out != NULL ? QMOE_OK : refuse(s, err);
}

/* ---- roles ---- */

static qmoe_status find_role(int *out, span s, qmi_error *err)
{
    char list[128] = "";
    size_t n = 0;
    *out = 0;
    for (int role = 0; role < QMOE_ROLE_COUNT; role++) {
        const char *name = qmoe_role_name((qmoe_role)role);
        if (!has_choice(role))
            continue;
        *out = role;
        if (is_text(s, name))
            return QMOE_OK;
        n += (size_t)snprintf(
            list + n, sizeof list - n, "%s%s", n != 0 ? ", " : "", name);
    }
    return qmi_fail(err, QMOE_E_INVALID,
        "matrices beside the experts: '%.*s' is none of %s",
        (int)(s.n < 40 ? s.n : 40), s.at, list);
}

static qmoe_status read_item(
    qmi_dense_choice *out, bool *named, span s, bool calibrated, qmi_error *err)
{
    const char *equals = memchr(s.at, '=', s.n);
    int role;
    if (equals == NULL)
        return qmi_fail(err, QMOE_E_INVALID,
            "matrices beside the experts: '%.*s' is not ROLE=BITS",
            (int)(s.n < 40 ? s.n : 40), s.at);
    const span name = {s.at, (size_t)(equals - s.at)};
    const span format = {equals + 1, s.n - name.n - 1};
    QMI_TRY(find_role(&role, name, err));
    if (named[role])
        return qmi_fail(err, QMOE_E_INVALID,
            "matrices beside the experts: %s is named twice",
            qmoe_role_name((qmoe_role)role));
    named[role] = true;
    return read_format(&out->of[role], format, calibrated, err);
}

qmoe_status qmi_dense_choose(
    qmi_dense_choice *out, const char *text, bool calibrated, qmi_error *err)
{
    bool named[QMOE_ROLE_COUNT] = {false};
    *out = (qmi_dense_choice){{NULL}};
    if (text == NULL)
        return QMOE_OK;
    if (strchr(text, '=') == NULL) {
        const qmi_quantiser *all;
        QMI_TRY(read_format(&all, (span){text, strlen(text)}, calibrated, err));
        for (int role = 0; role < QMOE_ROLE_COUNT; role++)
            if (has_choice(role))
                out->of[role] = all;
        return QMOE_OK;
    }
    for (const char *at = text;; at++) {
        const size_t n = strcspn(at, ",");
        QMI_TRY(read_item(out, named, (span){at, n}, calibrated, err));
        at += n;
        if (*at == '\0')
            return QMOE_OK;
    }
}

/* ---- questions ---- */

const qmi_quantiser *qmi_dense_quantiser(
    const qmi_dense_choice *choice, const qmi_weight *w)
{
    return w->format->dense && qmi_model_may_compress(w->role, w->n_rows)
               ? choice->of[w->role]
               : NULL;
}

bool qmi_dense_any(const qmi_dense_choice *choice)
{
    for (int role = 0; role < QMOE_ROLE_COUNT; role++)
        if (choice->of[role] != NULL)
            return true;
    return false;
}

bool qmi_dense_any_moments(const qmi_dense_choice *choice)
{
    for (int role = 0; role < QMOE_ROLE_COUNT; role++)
        if (choice->of[role] != NULL && choice->of[role]->needs_hessian)
            return true;
    return false;
}

const qmi_quantiser *qmi_dense_main(
    const qmi_dense_choice *choice, const qmoe_model *model)
{
    double n[QMOE_ROLE_COUNT] = {0}, most = 0;
    const qmi_quantiser *main = NULL;
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        const qmi_quantiser *quantiser = qmi_dense_quantiser(choice, w);
        n[w->role] += (double)w->n_rows * (double)w->n_cols;
        if (quantiser == NULL || n[w->role] <= most)
            continue;
        most = n[w->role];
        main = quantiser;
    }
    return main;
}

static bool needs_moments(const void *user, const qmi_weight *w)
{
    const qmi_quantiser *quantiser = qmi_dense_quantiser(user, w);
    return quantiser != NULL && quantiser->needs_hessian;
}

qmi_dense_filter qmi_dense_with_moments(const qmi_dense_choice *choice)
{
    return (qmi_dense_filter){needs_moments, choice};
}

void qmi_dense_describe(
    char text[QMI_DENSE_TEXT], const qmi_dense_choice *choice)
{
    size_t n = 0;
    text[0] = '\0';
    for (int role = 0; role < QMOE_ROLE_COUNT; role++)
        if (choice->of[role] != NULL && n < QMI_DENSE_TEXT)
            n += (size_t)snprintf(text + n, QMI_DENSE_TEXT - n, "%s%s=%s",
                n != 0 ? "," : "", qmoe_role_name((qmoe_role)role),
                choice->of[role]->format->name);
}
