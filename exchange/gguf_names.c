/* SPDX-License-Identifier: Apache-2.0
 * In: the sizes of a model.  Out: its tensors with their names and shapes in a
 * checkpoint, each found in the file.  The names of a family are rows of
 * tables; a row applies to models that have what it is of.  Nothing that the
 * file holds may be left over. */
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "gguf_tensors.h"

/* Sizes that shapes are made of. */
enum {
    NONE,
    ONE,
    TOKENS,
    MODEL,
    QUERIES,
    KEYS,
    HEAD,
    DENSE,
    EXPERTS,
    EXPERT,
    SHARED
};

/* When a row applies. */
typedef enum condition {
    ALWAYS,
    OUTPUT,   /* the output has a matrix of its own */
    BIAS,     /* queries, keys and values have one */
    OUT_BIAS, /* so has the output of attention */
    HEAD_NORM,
    WHOLE_NORM,
    NO_EXPERTS,
    ANY_EXPERTS,  /* with the usual names */
    BLOCK_SPARSE, /* with those of Mixtral */
    WITH_SHARED,
} condition;

typedef struct rule {
    condition when;
    const char *gguf, *name; /* '*' in `name`: the number of the expert */
    uint8_t shape[2];        /* C order; NONE second: one dimension */
    uint8_t heads;           /* QUERIES, KEYS: rows may be permuted */
} rule;

static const rule model_rules[] = {
    {ALWAYS, "token_embd.weight", "model.embed_tokens.weight", {TOKENS, MODEL},
        0},
    {ALWAYS, "output_norm.weight", "model.norm.weight", {MODEL}, 0},
    {OUTPUT, "output.weight", "lm_head.weight", {TOKENS, MODEL}, 0},
};

/* After "blk.N." and "model.layers.N.". */
static const rule block_rules[] = {
    {ALWAYS, "attn_norm.weight", "input_layernorm.weight", {MODEL}, 0},
    {ALWAYS, "ffn_norm.weight", "post_attention_layernorm.weight", {MODEL}, 0},
    {ALWAYS, "attn_q.weight", "self_attn.q_proj.weight", {QUERIES, MODEL},
        QUERIES},
    {ALWAYS, "attn_k.weight", "self_attn.k_proj.weight", {KEYS, MODEL}, KEYS},
    {ALWAYS, "attn_v.weight", "self_attn.v_proj.weight", {KEYS, MODEL}, 0},
    {ALWAYS, "attn_output.weight", "self_attn.o_proj.weight", {MODEL, QUERIES},
        0},
    {BIAS, "attn_q.bias", "self_attn.q_proj.bias", {QUERIES}, QUERIES},
    {BIAS, "attn_k.bias", "self_attn.k_proj.bias", {KEYS}, KEYS},
    {BIAS, "attn_v.bias", "self_attn.v_proj.bias", {KEYS}, 0},
    {OUT_BIAS, "attn_output.bias", "self_attn.o_proj.bias", {MODEL}, 0},
    {HEAD_NORM, "attn_q_norm.weight", "self_attn.q_norm.weight", {HEAD}, 0},
    {HEAD_NORM, "attn_k_norm.weight", "self_attn.k_norm.weight", {HEAD}, 0},
    {WHOLE_NORM, "attn_q_norm.weight", "self_attn.q_norm.weight", {QUERIES}, 0},
    {WHOLE_NORM, "attn_k_norm.weight", "self_attn.k_norm.weight", {KEYS}, 0},
    {NO_EXPERTS, "ffn_gate.weight", "mlp.gate_proj.weight", {DENSE, MODEL}, 0},
    {NO_EXPERTS, "ffn_up.weight", "mlp.up_proj.weight", {DENSE, MODEL}, 0},
    {NO_EXPERTS, "ffn_down.weight", "mlp.down_proj.weight", {MODEL, DENSE}, 0},
    {ANY_EXPERTS, "ffn_gate_inp.weight", "mlp.gate.weight", {EXPERTS, MODEL},
        0},
    {ANY_EXPERTS, "ffn_gate", "mlp.experts.*.gate_proj.weight", {EXPERT, MODEL},
        0},
    {ANY_EXPERTS, "ffn_up", "mlp.experts.*.up_proj.weight", {EXPERT, MODEL}, 0},
    {ANY_EXPERTS, "ffn_down", "mlp.experts.*.down_proj.weight", {MODEL, EXPERT},
        0},
    {BLOCK_SPARSE, "ffn_gate_inp.weight", "block_sparse_moe.gate.weight",
        {EXPERTS, MODEL}, 0},
    {BLOCK_SPARSE, "ffn_gate", "block_sparse_moe.experts.*.w1.weight",
        {EXPERT, MODEL}, 0},
    {BLOCK_SPARSE, "ffn_up", "block_sparse_moe.experts.*.w3.weight",
        {EXPERT, MODEL}, 0},
    {BLOCK_SPARSE, "ffn_down", "block_sparse_moe.experts.*.w2.weight",
        {MODEL, EXPERT}, 0},
    {WITH_SHARED, "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight",
        {ONE, MODEL}, 0},
    {WITH_SHARED, "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight",
        {SHARED, MODEL}, 0},
    {WITH_SHARED, "ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight",
        {SHARED, MODEL}, 0},
    {WITH_SHARED, "ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight",
        {MODEL, SHARED}, 0},
};

typedef struct lister {
    const qmi_gguf_model *model;
    qmi_gguf_source *source;
    qmi_gguf_entries *out;
    qmi_dtype dtype;
} lister;

/* ---- rows of the tables ---- */

static int64_t size_of(const qmi_gguf_model *m, uint8_t size)
{
    switch (size) {
    case TOKENS:
        return m->n_tokens;
    case MODEL:
        return m->d_model;
    case QUERIES:
        return m->n_heads * m->head_dim;
    case KEYS:
        return m->n_kv_heads * m->head_dim;
    case HEAD:
        return m->head_dim;
    case DENSE:
        return m->d_ff;
    case EXPERTS:
        return m->n_experts;
    case EXPERT:
        return m->d_expert;
    case SHARED:
        return m->d_shared;
    default:
        return 1;
    }
}

static bool applies(const qmi_gguf_model *m, condition when)
{
    const qmi_gguf_family *f = m->family;
    switch (when) {
    case OUTPUT:
        return !m->is_tied;
    case BIAS:
        return m->has_bias;
    case OUT_BIAS:
        return m->has_bias && f->may_be_bias;
    case HEAD_NORM:
        return f->norm == QMI_GGUF_HEAD_NORM;
    case WHOLE_NORM:
        return f->norm == QMI_GGUF_WHOLE_NORM;
    case NO_EXPERTS:
        return !f->has_experts;
    case ANY_EXPERTS:
        return f->has_experts && !f->has_block_sparse_moe;
    case BLOCK_SPARSE:
        return f->has_block_sparse_moe;
    case WITH_SHARED:
        return f->has_shared_expert;
    default:
        return true;
    }
}

/* ---- one entry ---- */

/* Whether the shapes are equal but for dimensions of 1 in front. */
static bool is_shape(const qmi_gguf_source *s, const qmi_tensor *t,
    const int64_t *shape, int rank)
{
    int64_t own[QMI_MAX_RANK];
    int skipped = 0, ones = 0;
    qmi_gguf_source_shape(s, t, own);
    while (skipped < t->rank - 1 && own[skipped] == 1)
        skipped++;
    while (ones < rank - 1 && shape[ones] == 1)
        ones++;
    return t->rank - skipped == rank - ones &&
           memcmp(own + skipped, shape + ones,
               (size_t)(rank - ones) * sizeof *own) == 0;
}

static qmoe_status require(
    const lister *l, const char *name, const qmi_tensor **out)
{
    *out = qmi_gguf_source_find(l->source, name);
    if (*out == NULL)
        return qmi_fail(l->source->err, QMOE_E_FORMAT,
            "%s: tensor '%s' is missing", qmi_gguf_source_path(l->source),
            name);
    return QMOE_OK;
}

static qmoe_status add(lister *l, const qmi_gguf_entry *entry)
{
    qmi_gguf_entries *out = l->out;
    if (out->n == out->capacity) {
        size_t capacity = 2 * out->capacity + 64;
        void *grown = qmi_regrow(out->list, out->n, capacity, sizeof *out->list,
            "the tensor list", l->source->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        out->list = grown;
        out->capacity = capacity;
    }
    const qmi_tensor *t = entry->tensor;
    const qmi_gguf_type *type = qmi_gguf_type_of(l->source->files[t->file], t);
    out->list[out->n] = *entry;
    out->list[out->n].dtype = l->dtype;
    if (l->dtype == QMI_DTYPE_COUNT)
        out->list[out->n].dtype = type->decode != NULL ? QMI_F32 : type->dtype;
    out->n++;
    qmi_gguf_source_use(l->source, t);
    return QMOE_OK;
}

/* The name with a number in place of '*'. */
static void make_name(qmi_gguf_entry *e, const char *prefix, int64_t block,
    const char *pattern, int64_t expert)
{
    const char *star = strchr(pattern, '*');
    char front[64] = "";
    if (block >= 0)
        snprintf(front, sizeof front, "%s%lld.", prefix, (long long)block);
    if (star == NULL)
        snprintf(e->name, sizeof e->name, "%s%s", front, pattern);
    else
        snprintf(e->name, sizeof e->name, "%s%.*s%lld%s", front,
            (int)(star - pattern), pattern, (long long)expert, star + 1);
}

/* An entry without its tensor. */
static qmi_gguf_entry entry_of(
    const lister *l, const rule *r, int64_t block, int64_t expert)
{
    const qmi_gguf_model *m = l->model;
    qmi_gguf_entry e = {.rank = r->shape[1] == NONE ? 1 : 2};
    e.shape[0] = size_of(m, r->shape[0]);
    e.shape[1] = size_of(m, r->shape[1]);
    if (m->family->is_permuted && r->heads != 0)
        e.n_heads = r->heads == QUERIES ? m->n_heads : m->n_kv_heads;
    make_name(&e, "model.layers.", block, r->name, expert);
    return e;
}

static qmoe_status fail_shape(const lister *l, const char *name)
{
    return qmi_fail(l->source->err, QMOE_E_FORMAT,
        "%s: tensor '%s' does not have the shape of the model",
        qmi_gguf_source_path(l->source), name);
}

static qmoe_status add_plain(lister *l, const rule *r, int64_t block)
{
    char name[64];
    qmi_gguf_entry e = entry_of(l, r, block, 0);
    if (block < 0)
        snprintf(name, sizeof name, "%s", r->gguf);
    else
        snprintf(name, sizeof name, "blk.%lld.%s", (long long)block, r->gguf);
    QMI_TRY(require(l, name, &e.tensor));
    if (!is_shape(l->source, e.tensor, e.shape, e.rank))
        return fail_shape(l, name);
    return add(l, &e);
}

/* How a file holds the matrices of a rule. */
typedef struct storage {
    char name[64];
    int64_t n_shared; /* matrices of an expert in the tensor; 0: one tensor for
                         each expert, as older files have them */
    int64_t part;     /* which of them */
} storage;

static bool is_there(const lister *l, storage *out, const rule *r,
    int64_t block, const char *end)
{
    snprintf(out->name, sizeof out->name, "blk.%lld.%s%s", (long long)block,
        r->gguf, end);
    return qmi_gguf_source_find(l->source, out->name) != NULL;
}

/* Gate and up may be in one tensor, where the gate of an expert comes first. */
static void find_storage(
    const lister *l, storage *out, const rule *r, int64_t block)
{
    const bool is_gate = strcmp(r->gguf, "ffn_gate") == 0;
    const rule both = {.gguf = "ffn_gate_up"};
    *out = (storage){.n_shared = 0};
    if (is_there(l, out, r, block, ".0.weight"))
        return;
    out->n_shared = 1;
    if (is_there(l, out, r, block, "_exps.weight"))
        return;
    if ((is_gate || strcmp(r->gguf, "ffn_up") == 0) &&
        is_there(l, out, &both, block, "_exps.weight")) {
        out->n_shared = 2;
        out->part = !is_gate;
        return;
    }
    /* The name that is usual, for the error. */
    is_there(l, out, r, block, "_exps.weight");
}

static qmoe_status add_experts(lister *l, const rule *r, int64_t block)
{
    storage s;
    const int64_t n = l->model->n_experts;
    find_storage(l, &s, r, block);
    for (int64_t expert = 0; expert < n; expert++) {
        qmi_gguf_entry e = entry_of(l, r, block, expert);
        const int64_t all[3] = {n, s.n_shared * e.shape[0], e.shape[1]};
        if (s.n_shared == 0)
            snprintf(s.name, sizeof s.name, "blk.%lld.%s.%lld.weight",
                (long long)block, r->gguf, (long long)expert);
        QMI_TRY(require(l, s.name, &e.tensor));
        e.slice = s.n_shared * expert + s.part;
        if (s.n_shared != 0 ? !is_shape(l->source, e.tensor, all, 3)
                            : !is_shape(l->source, e.tensor, e.shape, e.rank))
            return fail_shape(l, s.name);
        QMI_TRY(add(l, &e));
    }
    return QMOE_OK;
}

static qmoe_status add_rules(
    lister *l, const rule *rules, size_t n, int64_t block)
{
    for (size_t i = 0; i < n; i++) {
        if (!applies(l->model, rules[i].when))
            continue;
        QMI_TRY(strchr(rules[i].name, '*') != NULL
                    ? add_experts(l, &rules[i], block)
                    : add_plain(l, &rules[i], block));
    }
    return QMOE_OK;
}

qmoe_status qmi_gguf_list(qmi_gguf_entries *out, const qmi_gguf_model *model,
    qmi_gguf_source *source, qmi_dtype dtype)
{
    lister l = {.model = model, .source = source, .out = out, .dtype = dtype};
    *out = (qmi_gguf_entries){0};
    QMI_TRY(add_rules(
        &l, model_rules, sizeof model_rules / sizeof *model_rules, -1));
    for (int64_t block = 0; block < model->n_blocks; block++)
        QMI_TRY(add_rules(
            &l, block_rules, sizeof block_rules / sizeof *block_rules, block));
    return qmi_gguf_source_check_used(source);
}

int64_t qmi_gguf_entry_elements(const qmi_gguf_entry *entry)
{
    return entry->shape[0] * (entry->rank == 2 ? entry->shape[1] : 1);
}
