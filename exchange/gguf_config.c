/* SPDX-License-Identifier: Apache-2.0
 * In: a model as a GGUF file describes it.  Out: config.json with the keys of
 * its family.  Rotary frequencies are stored as what they came from: a type of
 * scaling with its factors, or a tensor of divisors, from which the rule of
 * Llama 3 is found again. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "gguf_model.h"

/* ---- rotary frequencies ---- */

/* What config.json says of them; a member that is 0 is left out. */
typedef struct scaling {
    const char *type; /* NULL: nothing is scaled */
    double factor, low_factor, high_factor, beta_fast, beta_slow;
    int64_t n_positions; /* before it was scaled */
} scaling;

static qmoe_status read_yarn(scaling *out, const qmi_gguf_source *s)
{
    out->type = "yarn";
    out->beta_fast = 32;
    out->beta_slow = 1;
    QMI_TRY(
        qmi_gguf_source_require_int(s, "*.rope.scaling.original_context_length",
            1, INT32_MAX, &out->n_positions));
    QMI_TRY(qmi_gguf_source_real(
        s, "*.rope.scaling.yarn_beta_fast", &out->beta_fast));
    return qmi_gguf_source_real(
        s, "*.rope.scaling.yarn_beta_slow", &out->beta_slow);
}

static qmoe_status read_type(
    scaling *out, const qmi_gguf_source *s, const char *type)
{
    /* A factor without a type is one of linear scaling. */
    const bool is_linear =
        type == NULL ? out->factor != 1 : strcmp(type, "linear") == 0;
    if (is_linear)
        out->type = "linear";
    else if (type != NULL && strcmp(type, "yarn") == 0)
        return read_yarn(out, s);
    else if (type != NULL && strcmp(type, "none") != 0)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: key '%s.rope.scaling.type': '%.40s' is not supported",
            qmi_gguf_source_path(s), s->arch, type);
    return QMOE_OK;
}

static qmoe_status scaling_by_type(scaling *out, const qmi_gguf_source *s)
{
    char *type = NULL;
    out->factor = 1;
    QMI_TRY(qmi_gguf_source_real(s, "*.rope.scaling.factor", &out->factor));
    if (out->factor <= 0)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: key '%s.rope.scaling.factor' is out of range",
            qmi_gguf_source_path(s), s->arch);
    QMI_TRY(qmi_gguf_source_text(s, "*.rope.scaling.type", &type));
    qmoe_status status = read_type(out, s, type);
    qmi_free(type);
    return status;
}

/* The parameters that the models of Llama 3 have beside the factor. */
enum { LLAMA3_LOW = 1, LLAMA3_HIGH = 4, LLAMA3_POSITIONS = 8192 };

/* What the rule divides a frequency by: 1 for short waves, the factor for long
 * ones, a blend between. */
static double llama3_divisor(double frequency, double factor)
{
    const double wave = 2 * 3.14159265358979323846 / frequency;
    const double turns = LLAMA3_POSITIONS / wave;
    if (turns < LLAMA3_LOW)
        return factor;
    if (turns > LLAMA3_HIGH)
        return 1;
    const double t = (turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW);
    return 1 / ((1 - t) / factor + t);
}

static double divisor_at(const qmi_tensor *t, int64_t i)
{
    float divisor;
    memcpy(&divisor, t->data + 4 * i, sizeof divisor);
    return (double)divisor;
}

/* The tensor holds a divisor per pair of elements; the largest is the factor,
 * and all must be what the rule gives. */
static qmoe_status scaling_by_divisors(scaling *out, const qmi_gguf_model *m,
    qmi_gguf_source *s, const qmi_tensor *t)
{
    const int64_t n = m->head_dim / 2;
    double factor = 1;
    bool fits = t->dtype == QMI_F32 && t->rank == 1 && t->shape[0] == n;
    if (fits)
        QMI_TRY(qmi_tensor_file_fetch(
            s->files[t->file], t->data, t->n_bytes, s->err));
    for (int64_t i = 0; fits && i < n; i++)
        factor = fmax(factor, divisor_at(t, i));
    for (int64_t i = 0; fits && i < n; i++) {
        const double frequency =
            pow(m->theta, -2 * (double)i / (double)m->head_dim);
        fits = fabs(divisor_at(t, i) / llama3_divisor(frequency, factor) - 1) <
               1e-3;
    }
    if (!fits || !isfinite(factor))
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: tensor 'rope_freqs.weight' does not follow the rule of Llama "
            "3 with factors %d, %d and %d positions",
            qmi_gguf_source_path(s), LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_POSITIONS);
    qmi_gguf_source_use(s, t);
    /* Divided by 1, frequencies are those without scaling. */
    if (factor == 1)
        return QMOE_OK;
    *out = (scaling){.type = "llama3",
        .factor = factor,
        .low_factor = LLAMA3_LOW,
        .high_factor = LLAMA3_HIGH,
        .n_positions = LLAMA3_POSITIONS};
    return QMOE_OK;
}

static qmoe_status read_scaling(
    scaling *out, const qmi_gguf_model *m, qmi_gguf_source *s)
{
    const qmi_tensor *t = qmi_gguf_source_find(s, "rope_freqs.weight");
    *out = (scaling){.type = NULL};
    QMI_TRY(scaling_by_type(out, s));
    if (t == NULL)
        return QMOE_OK;
    if (out->type != NULL)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: rotary frequencies are scaled by a type and by tensor "
            "'rope_freqs.weight'",
            qmi_gguf_source_path(s));
    return scaling_by_divisors(out, m, s, t);
}

/* ---- writing ---- */

static void put_positive(qmi_json_writer *w, const char *key, double value)
{
    if (value > 0)
        qmi_json_put_real(w, key, value);
}

static void put_scaling(qmi_json_writer *w, const scaling *r)
{
    if (r->type == NULL) {
        qmi_json_put_raw(w, "rope_scaling", "null");
        return;
    }
    qmi_json_open(w, "rope_scaling", '{');
    qmi_json_put_string(w, "rope_type", r->type);
    put_positive(w, "factor", r->factor);
    put_positive(w, "low_freq_factor", r->low_factor);
    put_positive(w, "high_freq_factor", r->high_factor);
    put_positive(w, "beta_fast", r->beta_fast);
    put_positive(w, "beta_slow", r->beta_slow);
    put_positive(w, "original_max_position_embeddings", (double)r->n_positions);
    qmi_json_close(w, '}');
}

static void put_experts(qmi_json_writer *w, const qmi_gguf_model *m)
{
    const qmi_gguf_family *f = m->family;
    qmi_json_put_count(w, f->experts_key, m->n_experts);
    qmi_json_put_count(w, "num_experts_per_tok", m->top_k);
    if (f->expert_width_key != NULL) {
        qmi_json_put_count(w, f->expert_width_key, m->d_expert);
        /* Every block has experts. */
        qmi_json_put_count(w, "decoder_sparse_step", 1);
        qmi_json_put_raw(w, "mlp_only_layers", "[]");
    }
    if (f->has_shared_expert)
        qmi_json_put_count(w, "shared_expert_intermediate_size", m->d_shared);
    if (f->norm_topk >= 0)
        qmi_json_put_bool(w, "norm_topk_prob", f->norm_topk != 0);
}

static void put_sizes(qmi_json_writer *w, const qmi_gguf_model *m)
{
    const qmi_gguf_family *f = m->family;
    qmi_json_open_flat(w, "architectures", '[');
    qmi_json_put_string(w, NULL, f->model_class);
    qmi_json_close(w, ']');
    qmi_json_put_string(w, "model_type", f->model_type);
    qmi_json_put_count(w, "vocab_size", m->n_tokens);
    qmi_json_put_count(w, "hidden_size", m->d_model);
    qmi_json_put_count(w, "intermediate_size", m->d_ff);
    qmi_json_put_count(w, "num_hidden_layers", m->n_blocks);
    qmi_json_put_count(w, "num_attention_heads", m->n_heads);
    qmi_json_put_count(w, "num_key_value_heads", m->n_kv_heads);
    if (f->has_head_dim)
        qmi_json_put_count(w, "head_dim", m->head_dim);
    qmi_json_put_string(w, "hidden_act", "silu");
    qmi_json_put_count(w, "max_position_embeddings", m->n_positions);
    qmi_json_put_real(w, "rms_norm_eps", m->epsilon);
    qmi_json_put_bool(w, "tie_word_embeddings", m->is_tied);
    /* Families with a bias everywhere have no such key. */
    if (!f->has_bias)
        qmi_json_put_bool(w, "attention_bias", m->has_bias);
}

/* clip_qkv, in the family that has it. */
static qmoe_status put_clip(
    qmi_json_writer *w, const qmi_gguf_model *m, const qmi_gguf_source *s)
{
    double clip = 0;
    QMI_TRY(qmi_gguf_source_real(s, "*.attention.clamp_kqv", &clip));
    if (clip < 0 || (clip > 0 && !m->family->has_clip))
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: key '%s.attention.clamp_kqv' has a value that is not "
            "supported",
            qmi_gguf_source_path(s), s->arch);
    if (clip > 0)
        qmi_json_put_real(w, "clip_qkv", clip);
    else if (m->family->has_clip)
        qmi_json_put_raw(w, "clip_qkv", "null");
    return QMOE_OK;
}

qmoe_status qmi_gguf_config(
    qmi_json_writer *w, const qmi_gguf_model *model, qmi_gguf_source *source)
{
    scaling rope;
    QMI_TRY(read_scaling(&rope, model, source));
    put_sizes(w, model);
    if (model->n_experts != 0)
        put_experts(w, model);
    QMI_TRY(put_clip(w, model, source));
    qmi_json_put_real(w, "rope_theta", model->theta);
    put_scaling(w, &rope);
    return QMOE_OK;
}
