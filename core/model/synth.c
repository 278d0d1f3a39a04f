/* SPDX-License-Identifier: Apache-2.0
 * Reading the specification of a synthetic checkpoint:
 * "synth:NAME?key=value&...".  In: the text a user gave.  Out: a published
 * configuration with fewer experts or blocks, a seed, a tokenizer; or an error
 * that names the key.  Nothing is larger than what was published, so sizes stay
 * within those that are known to fit. */
#include "synth.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char scheme[] = "synth:";

bool qmi_is_synth(const char *directory)
{
    return strncmp(directory, scheme, sizeof scheme - 1) == 0;
}

static void list_name(char *text, size_t capacity, const char *name)
{
    if (text[0] != '\0')
        strncat(text, ", ", capacity - strlen(text) - 1);
    strncat(text, name, capacity - strlen(text) - 1);
}

static void list_names(char *text, size_t capacity)
{
    const qmi_switch_config *c;
    const qmi_decoder_config *d;
    text[0] = '\0';
    for (size_t i = 0; (c = qmi_switch_config_at(i)) != NULL; i++)
        list_name(text, capacity, c->name);
    for (size_t i = 0; (d = qmi_decoder_config_at(i)) != NULL; i++)
        list_name(text, capacity, d->name);
}

static qmoe_status take_name(
    qmi_synth *s, const char *name, size_t n, qmi_error *err)
{
    char text[32], known[512];
    const qmi_switch_config *found = NULL;
    const qmi_decoder_config *decoder = NULL;
    /* A name that does not fit is none of the table. */
    if (n < sizeof text) {
        memcpy(text, name, n);
        text[n] = '\0';
        found = qmi_switch_config_find(text);
        decoder = qmi_decoder_config_find(text);
    }
    if (found != NULL) {
        s->config = *found;
        /* What is made is bf16, whatever was published. */
        s->config.dtype = "bfloat16";
        return QMOE_OK;
    }
    if (decoder != NULL) {
        s->is_decoder = true;
        s->decoder = *decoder;
        return QMOE_OK;
    }
    list_names(known, sizeof known);
    return qmi_fail(err, QMOE_E_INVALID, "%s%.*s: unknown model; known are %s",
        scheme, (int)(n < 64 ? n : 64), name, known);
}

/* Digits only; strtoull would take signs and spaces. */
static bool to_count(uint64_t *out, const char *text, size_t n)
{
    char digits[24], *end;
    if (n == 0 || n >= sizeof digits || !isdigit((unsigned char)text[0]))
        return false;
    memcpy(digits, text, n);
    digits[n] = '\0';
    errno = 0;
    *out = strtoull(digits, &end, 10);
    return errno == 0 && *end == '\0';
}

static qmoe_status fail_value(
    const char *specification, const char *key, uint64_t high, qmi_error *err)
{
    return qmi_fail(err, QMOE_E_INVALID,
        "%.200s: %s must be a whole number from 1 to %llu", specification, key,
        (unsigned long long)high);
}

/* Lowers *value, what the model has, to what the text says. */
static qmoe_status take_part(int64_t *value, const char *key, const char *text,
    size_t n, const char *specification, qmi_error *err)
{
    uint64_t count;
    if (!to_count(&count, text, n) || count < 1 || count > (uint64_t)*value)
        return fail_value(specification, key, (uint64_t)*value, err);
    *value = (int64_t)count;
    return QMOE_OK;
}

/* Blocks beyond the first `n_blocks` are left out, sparse ones among them. */
static void count_sparse(qmi_switch_config *c, int stack)
{
    int64_t step = c->sparse_step[stack];
    int64_t n = c->n_blocks[stack];
    /* As qmi_switch_is_sparse: the second block of each `step`. */
    c->n_sparse[stack] = step <= 1 ? n * step : n / step;
}

static bool is_key(const char *pair, size_t n_key, const char *key)
{
    return strlen(key) == n_key && strncmp(pair, key, n_key) == 0;
}

/* The count that a key lowers; NULL: the model has no such key. */
static int64_t *part_of(qmi_synth *s, const char *pair, size_t n_key)
{
    const struct {
        const char *key;
        bool is_decoder;
        int64_t *value;
    } parts[] = {
        {"experts", false, &s->config.n_experts},
        {"encoder_blocks", false, &s->config.n_blocks[QMI_SWITCH_ENCODER]},
        {"decoder_blocks", false, &s->config.n_blocks[QMI_SWITCH_DECODER]},
        {"experts", true, &s->decoder.n_experts},
        {"blocks", true, &s->decoder.n_blocks},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].is_decoder == s->is_decoder &&
            is_key(pair, n_key, parts[i].key))
            return parts[i].value;
    return NULL;
}

static qmoe_status take_pair(qmi_synth *s, const char *pair, size_t n,
    const char *specification, qmi_error *err)
{
    /* A key without '=' has an empty value, which no key takes. */
    const char *equals = memchr(pair, '=', n);
    size_t n_key = equals != NULL ? (size_t)(equals - pair) : n;
    const char *value = equals != NULL ? equals + 1 : pair + n;
    size_t n_value = (size_t)(pair + n - value);
    int64_t *part = part_of(s, pair, n_key);
    if (part != NULL) {
        char key[24];
        snprintf(key, sizeof key, "%.*s", (int)n_key, pair);
        return take_part(part, key, value, n_value, specification, err);
    }
    if (is_key(pair, n_key, "seed")) {
        if (!to_count(&s->seed, value, n_value))
            return qmi_fail(err, QMOE_E_INVALID,
                "%.200s: seed must be a whole number", specification);
        return QMOE_OK;
    }
    if (is_key(pair, n_key, "tokenizer")) {
        if (n_value == 0 || n_value >= sizeof s->tokenizer)
            return qmi_fail(err, QMOE_E_INVALID,
                "%.200s: tokenizer must be a directory of at most %zu bytes",
                specification, sizeof s->tokenizer - 1);
        memcpy(s->tokenizer, value, n_value);
        return QMOE_OK;
    }
    return qmi_fail(err, QMOE_E_INVALID,
        "%.200s: unknown key '%.*s'; keys are seed, experts, %s, tokenizer",
        specification, (int)(n_key < 64 ? n_key : 64), pair,
        s->is_decoder ? "blocks" : "encoder_blocks, decoder_blocks");
}

qmoe_status qmi_synth_parse(
    qmi_synth *out, const char *specification, qmi_error *err)
{
    *out = (qmi_synth){0};
    const char *name = specification + sizeof scheme - 1;
    size_t n = strcspn(name, "?");
    QMI_TRY(take_name(out, name, n, err));
    /* A key may come again; a size can then not grow. */
    for (const char *at = name + n; *at != '\0';) {
        at++; /* '?' or '&' */
        n = strcspn(at, "&");
        QMI_TRY(take_pair(out, at, n, specification, err));
        at += n;
    }
    /* After all keys: both counts follow from the blocks that are left. */
    for (int stack = 0; stack < QMI_SWITCH_STACKS; stack++)
        count_sparse(&out->config, stack);
    return QMOE_OK;
}

cJSON *qmi_synth_config(const qmi_synth *synth)
{
    return synth->is_decoder ? qmi_decoder_config_json(&synth->decoder)
                             : qmi_switch_config_json(&synth->config);
}

/* From here on a synthetic model is a checkpoint like any other: a
 * configuration and a file of tensors. */
static qmoe_status open_specification(
    qmi_checkpoint **out, const char *specification, qmi_error *err)
{
    qmi_synth synth;
    QMI_TRY(qmi_synth_parse(&synth, specification, err));
    qmi_tensor_file *file = NULL;
    cJSON *config = qmi_synth_config(&synth);
    if (config == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: a configuration");
    qmoe_status status = qmi_synth_open(&file, &synth, specification, err);
    if (status != QMOE_OK) {
        cJSON_Delete(config);
        return status;
    }
    /* Beside the specification there is no file, so no tokenizer is found. */
    const char *beside =
        synth.tokenizer[0] != '\0' ? synth.tokenizer : specification;
    /* Takes the configuration and the file over, also when it fails. */
    return qmi_checkpoint_assemble(
        out, specification, beside, config, file, err);
}

qmoe_status qmi_source_open(
    qmi_checkpoint **out, const char *source, qmi_error *err)
{
    *out = NULL;
    return qmi_is_synth(source) ? open_specification(out, source, err)
                                : qmi_checkpoint_open(out, source, err);
}
