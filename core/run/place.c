/* SPDX-License-Identifier: Apache-2.0
 * Devices by number, type or name.  In: a backend's name or "auto", and a word
 * for the device.  Out: one device, or an error that lists what there is.  A
 * word that fits several devices is an error unless it is the whole name of
 * one: the program does not choose silently. */
#include "place.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

qmoe_status qmi_place_describe(qmoe_device_info *out,
    const qmi_backend *backend, int index, qmi_error *err)
{
    QMI_TRY(backend->describe(out, index, err));
    /* Backends of one kind of device do not say it. */
    if (out->type[0] == '\0')
        snprintf(
            out->type, sizeof out->type, "%s", out->is_gpu ? "gpu" : "cpu");
    return QMOE_OK;
}

/* ---- what a word means ---- */

typedef enum meaning { FIRST, NUMBER, TYPE, NAME } meaning;

/* Digits alone are a number, so a device cannot be named by them. */
static meaning meaning_of(const char *word)
{
    if (word == NULL || word[0] == '\0')
        return FIRST;
    if (strspn(word, "0123456789") == strlen(word))
        return NUMBER;
    if (strcasecmp(word, "gpu") == 0 || strcasecmp(word, "cpu") == 0 ||
        strcasecmp(word, "accelerator") == 0)
        return TYPE;
    return NAME;
}

static bool fits(const qmoe_device_info *info, const char *word)
{
    char number[24];
    switch (meaning_of(word)) {
    case FIRST:
        return info->index == 0;
    case NUMBER:
        /* "007" is 7, as a number, and huge ones fit none. */
        word += strspn(word, "0");
        snprintf(number, sizeof number, "%d", info->index);
        return strcmp(number, word[0] != '\0' ? word : "0") == 0;
    case TYPE:
        return strcasecmp(info->type, word) == 0;
    case NAME:
        return strcasestr(info->name, word) != NULL;
    }
    return false;
}

/* ---- one backend ---- */

typedef struct matches {
    int n_devices, n, n_whole; /* n_whole: whose whole name was given */
    qmoe_device_info first, whole;
    char list[512]; /* "0 'name' (gpu), 1 'name' (cpu)", of what matched or
                     * of all when nothing did */
} matches;

static void append(matches *m, const qmoe_device_info *info)
{
    const size_t at = strlen(m->list);
    snprintf(m->list + at, sizeof m->list - at, "%s%d '%.60s' (%s)",
        at != 0 ? ", " : "", info->index, info->name, info->type);
}

/* All devices when none fits, for the message. */
static void list_matches(
    matches *m, const qmi_backend *backend, const char *word, bool all)
{
    qmoe_device_info info;
    for (int i = 0; i < m->n_devices; i++) {
        /* A device that cannot be described has no name to fit. */
        if (qmi_place_describe(&info, backend, i, NULL) != QMOE_OK)
            continue;
        const bool match = fits(&info, word);
        if (match || all)
            append(m, &info);
        if (!match)
            continue;
        if (m->n++ == 0)
            m->first = info;
        /* The whole name, whatever other names contain it. */
        if (meaning_of(word) == NAME && strcasecmp(info.name, word) == 0 &&
            m->n_whole++ == 0)
            m->whole = info;
    }
}

static qmoe_status match(
    matches *m, const qmi_backend *backend, const char *word, qmi_error *err)
{
    char reason[256] = "";
    *m = (matches){0};
    QMI_TRY(backend->probe(&m->n_devices, reason, sizeof reason));
    if (m->n_devices == 0)
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "backend %s is not available: %s", backend->name, reason);
    list_matches(m, backend, word, false);
    if (m->n == 0)
        list_matches(m, backend, word, true);
    return QMOE_OK;
}

static qmoe_status choose(qmi_place *out, const matches *m,
    const qmi_backend *backend, const char *word, qmi_error *err)
{
    /* Without a word the first is meant. */
    const char *named = word != NULL ? word : "0";
    *out = (qmi_place){.backend = backend, .info = m->first};
    if (m->n == 1)
        return QMOE_OK;
    if (m->n_whole == 1) {
        out->info = m->whole;
        return QMOE_OK;
    }
    *out = (qmi_place){0};
    if (m->n == 0)
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "backend %s has no device %s; it has %s", backend->name, named,
            m->list);
    return qmi_fail(err, QMOE_E_INVALID,
        "backend %s has several devices '%s', choose one by its number: %s",
        backend->name, named, m->list);
}

/* ---- auto ---- */

static qmoe_status choose_auto(
    qmi_place *out, qmoe_context *context, const char *word, qmi_error *err)
{
    /* In the order of preference; the reference is for checks and must be
     * named. */
    static const char *const order[] = {"cuda", "opencl", "cpu"};
    char known[600] = "";
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const qmi_backend *backend = NULL;
        /* Why a backend is not there matters only if nothing else is. */
        qmi_error ignored = {0};
        /* Its list of what there is goes into the message below. */
        matches m;
        if (qmi_registry_find(
                context->registry, &backend, order[i], &ignored) != QMOE_OK ||
            match(&m, backend, word, &ignored) != QMOE_OK)
            continue;
        /* OpenCL on a processor is a choice to be made by name. */
        const bool weak = strcmp(order[i], "opencl") == 0 && !m.first.is_gpu &&
                          meaning_of(word) != NAME;
        if (m.n != 0 && !weak) {
            QMI_TRY(choose(out, &m, backend, word, err));
            qmi_message(
                &context->hooks, "backend auto: using %s", backend->name);
            return QMOE_OK;
        }
        const size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s: %.170s",
            at != 0 ? "; " : "", order[i], m.list);
    }
    return qmi_fail(err, QMOE_E_NO_BACKEND,
        "no backend has a device %s; there are %s", word != NULL ? word : "0",
        known);
}

qmoe_status qmoe_find_device(qmoe_context *context, qmoe_device_info *out,
    const char *backend, const char *device)
{
    qmi_place place;
    if (out != NULL)
        *out = (qmoe_device_info){0};
    QMI_TRY(qmi_call_begin(qmi_hooks_of(context), __func__, out == NULL));
    qmoe_status status =
        qmi_place_find(&place, context, backend, device, &context->hooks.error);
    /* All zeros after a failure. */
    *out = place.info;
    return qmi_call_end(&context->hooks, status);
}

qmoe_status qmi_place_find(qmi_place *out, qmoe_context *context,
    const char *backend, const char *device, qmi_error *err)
{
    const qmi_backend *found = NULL;
    matches m;
    *out = (qmi_place){0};
    if (backend == NULL || strcmp(backend, "auto") == 0)
        return choose_auto(out, context, device, err);
    QMI_TRY(qmi_registry_find(context->registry, &found, backend, err));
    QMI_TRY(match(&m, found, device, err));
    return choose(out, &m, found, device, err);
}

qmoe_status qmi_place_choose(qmi_place *out, qmoe_context *context,
    const char *backend, int device, const char *device_name, qmi_error *err)
{
    char number[24];
    *out = (qmi_place){0};
    if (device < 0)
        return qmi_fail(err, QMOE_E_INVALID, "device %d is negative", device);
    if (device_name != NULL)
        return qmi_place_find(out, context, backend, device_name, err);
    snprintf(number, sizeof number, "%d", device);
    return qmi_place_find(out, context, backend, number, err);
}

/* A bound without effect would let a user believe in one. */
qmoe_status qmi_place_check_bounds(const qmi_place *place,
    uint64_t expert_cache_bytes, uint64_t memory_bytes, qmi_error *err)
{
    const qmi_backend *backend = place->backend;
    if (memory_bytes != 0 && !backend->bounds_memory)
        return qmi_fail(err, QMOE_E_INVALID,
            "a bound on device memory has no effect on backend %s, which has "
            "the host's",
            backend->name);
    if (expert_cache_bytes != 0 && !backend->bounds_experts)
        return qmi_fail(err, QMOE_E_INVALID,
            "a bound on the expert cache has no effect on backend %s: only "
            "backend cpu uses experts from the host's",
            backend->name);
    return QMOE_OK;
}
