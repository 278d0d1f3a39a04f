/* SPDX-License-Identifier: Apache-2.0
 * In: what a config.json says, and the tensors of its checkpoint or, when there
 * are none, the published models.  Out: what the model is.  Where the
 * configuration of a published Switch checkpoint contradicts its weights, the
 * weights are right: blocks are counted and told dense from sparse by the
 * tensors that are there.  Every correction is said in a message. */
#include "arch_switch.h"

#include <stdio.h>

static const char *const stack_names[QMI_SWITCH_STACKS] = {
    "encoder", "decoder"};

static bool has(const qmoe_model *model, const char *format, int stack,
    int64_t block, int layer)
{
    char name[128];
    snprintf(name, sizeof name, format, stack_names[stack], (int)block, layer);
    return qmi_model_has_matrix(model, name);
}

/* Every block begins with a norm, dense or sparse. */
static bool has_block(const qmoe_model *model, int stack, int64_t block)
{
    return has(
        model, "%s.block.%d.layer.%d.layer_norm.weight", stack, block, 0);
}

/* The decoder has a layer of cross attention in between. */
static int ffn_layer(int stack)
{
    return stack == QMI_SWITCH_ENCODER ? 1 : 2;
}

static bool has_router(const qmoe_model *model, int stack, int64_t block)
{
    return has(model, "%s.block.%d.layer.%d.mlp.router.classifier.weight",
        stack, block, ffn_layer(stack));
}

static bool has_dense_ffn(const qmoe_model *model, int stack, int64_t block)
{
    return has(model, "%s.block.%d.layer.%d.mlp.wi.weight", stack, block,
        ffn_layer(stack));
}

/* More blocks than the configuration says (switch-c-2048: 12 and 15).  Fewer
 * stay an error: the model would be cut short. */
static void settle_blocks(qmi_switch *s, const qmoe_model *model, int stack)
{
    int64_t *n = &s->n_blocks[stack], found = 0;
    /* Counted from 0 without gaps: a block behind a gap is none. */
    while (found < QMI_SWITCH_MAX_BLOCKS && has_block(model, stack, found))
        found++;
    if (found <= *n)
        return;
    qmi_message(model->hooks,
        "%s: says %d %s blocks, the weights have %d; using %d",
        qmi_checkpoint_config_path(model->checkpoint), (int)*n,
        stack_names[stack], (int)found, (int)found);
    *n = found;
}

/* Whether a step gives exactly the blocks that have routers.  A block with both
 * kinds of feed-forward, or with neither, is evidence for nothing. */
static bool step_fits(
    const qmi_switch *s, const qmoe_model *model, int stack, int64_t step)
{
    /* The other fields stay: only the step is tried. */
    qmi_switch c = *s;
    c.sparse_step[stack] = step;
    for (int64_t i = 0; i < c.n_blocks[stack]; i++) {
        bool sparse = has_router(model, stack, i);
        if (sparse != has_dense_ffn(model, stack, i) &&
            sparse != qmi_switch_is_sparse(&c, stack, i))
            return false;
    }
    return true;
}

static void settle_sparsity(qmi_switch *s, const qmoe_model *model, int stack)
{
    int64_t *step = &s->sparse_step[stack];
    int64_t n_blocks = s->n_blocks[stack];
    if (step_fits(s, model, stack, *step))
        return;
    /* The smallest step that fits; if none does, loading the weights names what
     * is missing. */
    for (int64_t other = 0; other <= n_blocks; other++) {
        if (!step_fits(s, model, stack, other))
            continue;
        qmi_message(model->hooks,
            "%s: %s_sparse_step %d contradicts the weights; using %d",
            qmi_checkpoint_config_path(model->checkpoint), stack_names[stack],
            (int)*step, (int)other);
        *step = other;
        return;
    }
}

/* The largest models have an output layer of their own under another name;
 * their configuration does not say so. */
static void settle_head(qmi_switch *s, const qmoe_model *model)
{
    if (!s->tied_head || qmi_model_has_matrix(model, "lm_head.weight") ||
        !qmi_model_has_matrix(model, "decoder.lm_head.weight"))
        return;
    qmi_message(model->hooks,
        "%s: does not say tie_word_embeddings false, but the weights have "
        "decoder.lm_head.weight; using that",
        qmi_checkpoint_config_path(model->checkpoint));
    s->tied_head = false;
}

void qmi_switch_settle(qmi_switch *s, const qmoe_model *model)
{
    /* Blocks first: the step is judged over the blocks that are there. */
    for (int stack = 0; stack < QMI_SWITCH_STACKS; stack++) {
        settle_blocks(s, model, stack);
        settle_sparsity(s, model, stack);
    }
    settle_head(s, model);
}

/* ---- without weights ---- */

/* What a config.json cannot get wrong without being another model. */
static bool same_shapes(const qmi_switch_config *p, const qmoe_model *m)
{
    const qmi_block *block = &m->blocks[0];
    return p->d_model == m->shape.d_model && p->d_ff == block->ffn.d_ff &&
           p->d_kv == block->attention.d_key &&
           p->n_heads == block->attention.n_heads &&
           p->vocab_size == m->shape.vocab_size &&
           p->n_experts == qmi_model_n_experts(m);
}

static int64_t published_sparse(const qmi_switch_config *p)
{
    return p->n_sparse[QMI_SWITCH_ENCODER] + p->n_sparse[QMI_SWITCH_DECODER];
}

static bool is_tied(const qmoe_model *m)
{
    for (size_t i = 0; i < m->n_weights; i++)
        if (m->weights[i].role == QMOE_ROLE_HEAD)
            return false;
    return true;
}

static bool same_blocks(const qmi_switch_config *p, const qmoe_model *m)
{
    return p->n_blocks[QMI_SWITCH_ENCODER] ==
               qmi_model_block_count(m, QMI_ENCODE) &&
           p->n_blocks[QMI_SWITCH_DECODER] ==
               qmi_model_block_count(m, QMI_DECODE) &&
           published_sparse(p) == qmi_model_sparse_count(m) &&
           p->tied_head == is_tied(m);
}

/* A configuration alone may be wrong in the same ways as the published ones, so
 * the reader is told and chooses. */
void qmi_switch_doubt(const qmoe_model *m, const char *file)
{
    const qmi_switch_config *p;
    for (size_t i = 0; (p = qmi_switch_config_at(i)) != NULL; i++)
        if (same_shapes(p, m) && !same_blocks(p, m))
            qmi_message(m->hooks,
                "%s: no weights to compare it with; assuming %d + %d blocks, "
                "%d sparse, %s.  The weights of switch-%s have %d + %d, %d "
                "sparse, %s; 'qmoe plan synth:%s' plans for those",
                file, (int)qmi_model_block_count(m, QMI_ENCODE),
                (int)qmi_model_block_count(m, QMI_DECODE),
                (int)qmi_model_sparse_count(m),
                is_tied(m) ? "output tied" : "own output layer", p->name,
                (int)p->n_blocks[QMI_SWITCH_ENCODER],
                (int)p->n_blocks[QMI_SWITCH_DECODER], (int)published_sparse(p),
                p->tied_head ? "output tied" : "own output layer", p->name);
}
