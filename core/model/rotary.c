/* SPDX-License-Identifier: Apache-2.0
 * In: rope_scaling or rope_parameters of a config.json.  Out: frequencies,
 * computed in double and rounded to float once, and the turns of a position.
 * What the file does not say has the defaults of transformers. */
#include "rotary.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

typedef struct reader {
    const cJSON *scaling; /* NULL: none */
    const char *file;
    qmi_error *err;
} reader;

/* A positive number; `value` holds the default, 0 for none. */
static qmoe_status positive(
    const reader *r, double *value, const char *key, bool required)
{
    const bool is_there =
        cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(r->scaling, key));
    QMI_TRY(qmi_json_double(value, r->scaling, key, *value, r->file, r->err));
    if (!is_there && !required)
        return QMOE_OK;
    if (is_there && isfinite(*value) && *value > 0)
        return QMOE_OK;
    return qmi_fail(r->err, QMOE_E_FORMAT, "%s: rope '%s' is %s", r->file, key,
        is_there ? "not a positive number" : "missing");
}

/* Angles per position of the pairs, for a base. */
static double frequency(double base, int64_t pair, int64_t width)
{
    return pow(base, -2.0 * (double)pair / (double)width);
}

static void plain(qmi_rotary_spec *s, float *out, double base)
{
    for (int64_t m = 0; m < s->width / 2; m++)
        out[m] = (float)frequency(base, m, s->width);
}

static qmoe_status linear(qmi_rotary_spec *s, const reader *r)
{
    QMI_TRY(positive(r, &s->factor, "factor", true));
    for (int64_t m = 0; m < s->width / 2; m++)
        s->near[m] = (float)(frequency(s->base, m, s->width) / s->factor);
    return QMOE_OK;
}

static qmoe_status llama3(qmi_rotary_spec *s, const reader *r)
{
    double low = 0, high = 0;
    QMI_TRY(positive(r, &s->factor, "factor", true));
    QMI_TRY(positive(r, &low, "low_freq_factor", true));
    QMI_TRY(positive(r, &high, "high_freq_factor", true));
    if (high <= low)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: rope 'high_freq_factor' is not above 'low_freq_factor'",
            r->file);
    const double length = (double)s->original_positions;
    for (int64_t m = 0; m < s->width / 2; m++) {
        const double f = frequency(s->base, m, s->width);
        /* Turns of the pair within the original length. */
        const double turns = length * f / (2 * pi);
        double t = (turns - low) / (high - low);
        t = t < 0 ? 0 : t > 1 ? 1 : t;
        s->near[m] = (float)((1 - t) * f / s->factor + t * f);
    }
    return QMOE_OK;
}

/* ---- yarn (arXiv 2309.00071) ---- */

/* The pair that turns so many times within the original length. */
static double pair_of(const qmi_rotary_spec *s, double turns)
{
    return (double)s->width *
           log((double)s->original_positions / (2 * pi * turns)) /
           (2 * log(s->base));
}

static double yarn_scale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

static qmoe_status yarn_attention(qmi_rotary_spec *s, const reader *r)
{
    double given = 0, m = 0, m_all = 0;
    QMI_TRY(positive(r, &given, "attention_factor", false));
    QMI_TRY(qmi_json_double(&m, r->scaling, "mscale", 0, r->file, r->err));
    QMI_TRY(qmi_json_double(
        &m_all, r->scaling, "mscale_all_dim", 0, r->file, r->err));
    if (given != 0)
        s->scale = (float)given;
    else if (m != 0 && m_all != 0)
        s->scale =
            (float)(yarn_scale(s->factor, m) / yarn_scale(s->factor, m_all));
    else
        s->scale = (float)yarn_scale(s->factor, 1);
    if (isfinite(s->scale) && s->scale > 0)
        return QMOE_OK;
    return qmi_fail(r->err, QMOE_E_FORMAT,
        "%s: rope 'mscale' and 'mscale_all_dim' give no positive scale",
        r->file);
}

static qmoe_status yarn(qmi_rotary_spec *s, const reader *r)
{
    double fast = 32, slow = 1;
    bool truncates = true;
    s->factor = (double)s->max_positions / (double)s->original_positions;
    QMI_TRY(positive(r, &s->factor, "factor", false));
    QMI_TRY(positive(r, &fast, "beta_fast", false));
    QMI_TRY(positive(r, &slow, "beta_slow", false));
    QMI_TRY(qmi_json_bool(
        &truncates, r->scaling, "truncate", true, r->file, r->err));
    QMI_TRY(yarn_attention(s, r));
    double low = pair_of(s, fast), high = pair_of(s, slow);
    if (truncates) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(s->width - 1));
    /* No division by zero. */
    if (low == high)
        high += 0.001;
    for (int64_t m = 0; m < s->width / 2; m++) {
        const double f = frequency(s->base, m, s->width);
        const double t = fmin(fmax(((double)m - low) / (high - low), 0), 1);
        s->near[m] = (float)(f * (1 - t) + f / s->factor * t);
    }
    return QMOE_OK;
}

/* ---- longrope ---- */

static qmoe_status divide(
    const qmi_rotary_spec *s, float *out, const reader *r, const char *key)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(r->scaling, key);
    const cJSON *item = NULL;
    int64_t m = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != s->width / 2)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: rope '%s' is not a list of %d numbers", r->file, key,
            (int)(s->width / 2));
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0))
            return qmi_fail(r->err, QMOE_E_FORMAT,
                "%s: rope '%s' has a factor that is not positive", r->file,
                key);
        out[m] = (float)(frequency(s->base, m, s->width) / item->valuedouble);
        m++;
    }
    return QMOE_OK;
}

static qmoe_status longrope(qmi_rotary_spec *s, const reader *r)
{
    double given = 0;
    s->factor = (double)s->max_positions / (double)s->original_positions;
    QMI_TRY(positive(r, &s->factor, "factor", false));
    QMI_TRY(positive(r, &given, "attention_factor", false));
    QMI_TRY(divide(s, s->near, r, "short_factor"));
    QMI_TRY(divide(s, s->far, r, "long_factor"));
    s->scale = 1;
    if (given != 0)
        s->scale = (float)given;
    else if (s->factor > 1)
        s->scale = (float)sqrt(
            1 + log(s->factor) / log((double)s->original_positions));
    return QMOE_OK;
}

/* ---- the whole ---- */

static qmoe_status read_type(qmi_rotary_spec *s, const reader *r)
{
    static const struct {
        const char *name;
        qmi_rope_type type;
    } types[] = {
        {"default", QMI_ROPE_DEFAULT},
        {"linear", QMI_ROPE_LINEAR},
        {"dynamic", QMI_ROPE_DYNAMIC},
        {"llama3", QMI_ROPE_LLAMA3},
        {"yarn", QMI_ROPE_YARN},
        {"longrope", QMI_ROPE_LONGROPE},
    };
    const char *name = NULL;
    QMI_TRY(
        qmi_json_string(&name, r->scaling, "rope_type", NULL, r->file, r->err));
    /* The older spelling. */
    if (name == NULL)
        QMI_TRY(qmi_json_string(
            &name, r->scaling, "type", "default", r->file, r->err));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(name, types[i].name) == 0) {
            s->type = types[i].type;
            return QMOE_OK;
        }
    return qmi_fail(r->err, QMOE_E_UNSUPPORTED, "%s: unknown rope type '%s'",
        r->file, name);
}

static qmoe_status fill(qmi_rotary_spec *s, const reader *r)
{
    plain(s, s->near, s->base);
    switch (s->type) {
    case QMI_ROPE_LINEAR:
        return linear(s, r);
    case QMI_ROPE_DYNAMIC:
        /* One pair has nothing to stretch: width - 2 divides. */
        if (s->width == 2)
            return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
                "%s: rope type 'dynamic' with heads of width 2", r->file);
        return positive(r, &s->factor, "factor", true);
    case QMI_ROPE_LLAMA3:
        return llama3(s, r);
    case QMI_ROPE_YARN:
        return yarn(s, r);
    case QMI_ROPE_LONGROPE:
        return longrope(s, r);
    case QMI_ROPE_DEFAULT:
        break;
    }
    return QMOE_OK;
}

qmoe_status qmi_rotary_configure(qmi_rotary_spec *out, const cJSON *config,
    int64_t width, double default_base, int64_t max_positions, const char *file,
    qmi_error *err)
{
    const cJSON *all =
        cJSON_GetObjectItemCaseSensitive(config, "rope_parameters");
    const cJSON *some =
        cJSON_GetObjectItemCaseSensitive(config, "rope_scaling");
    reader r = {
        .scaling = cJSON_IsObject(all) ? all : some, .file = file, .err = err};
    if (width < 2 || width > QMI_MAX_ROTARY || width % 2 != 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "%s: %lld rotated values of a head, not an even number up to %d",
            file, (long long)width, QMI_MAX_ROTARY);
    *out = (qmi_rotary_spec){.width = width,
        .base = default_base,
        .factor = 1,
        .scale = 1,
        .max_positions = max_positions,
        .original_positions = max_positions};
    /* Newer files have the base among the parameters. */
    const reader top = {.scaling = config, .file = file, .err = err};
    QMI_TRY(positive(&top, &out->base, "rope_theta", false));
    if (!cJSON_IsObject(r.scaling))
        r.scaling = NULL;
    QMI_TRY(positive(&r, &out->base, "rope_theta", false));
    /* Its logarithm divides. */
    if (out->base <= 1)
        return qmi_fail(
            err, QMOE_E_FORMAT, "%s: 'rope_theta' is not above 1", file);
    /* Beside the others, or among them. */
    static const char original[] = "original_max_position_embeddings";
    const cJSON *const places[] = {config, r.scaling};
    for (int i = 0; i < 2; i++)
        QMI_TRY(qmi_json_int(&out->original_positions, places[i], original,
            false, out->original_positions, 1, INT32_MAX, file, err));
    QMI_TRY(read_type(out, &r));
    return fill(out, &r);
}

static void turn(float *turns, const qmi_rotary_spec *s,
    const float *frequencies, int64_t position)
{
    const int64_t n_pairs = s->width / 2;
    for (int64_t m = 0; m < n_pairs; m++) {
        const float angle = (float)position * frequencies[m];
        turns[m] = (float)cos((double)angle) * s->scale;
        turns[n_pairs + m] = (float)sin((double)angle) * s->scale;
    }
}

void qmi_rotary_turn(
    float *turns, const qmi_rotary_spec *spec, int64_t position, int64_t length)
{
    float grown[QMI_MAX_ROTARY / 2];
    const float *frequencies = spec->near;
    if (spec->type == QMI_ROPE_LONGROPE && length > spec->original_positions)
        frequencies = spec->far;
    if (spec->type == QMI_ROPE_DYNAMIC && length > spec->max_positions) {
        const double width = (double)spec->width;
        const double stretch =
            spec->factor * (double)length / (double)spec->max_positions -
            (spec->factor - 1);
        for (int64_t m = 0; m < spec->width / 2; m++)
            grown[m] = (float)frequency(
                spec->base * pow(stretch, width / (width - 2)), m, spec->width);
        frequencies = grown;
    }
    turn(turns, spec, frequencies, position);
}
