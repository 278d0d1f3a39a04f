/* SPDX-License-Identifier: Apache-2.0
 * Where the configuration of a published Switch checkpoint contradicts its
 * weights, the weights are right: blocks are counted and told dense from sparse
 * by the tensors that are there. */
#include "arch_switch_weights.h"

#include <stdio.h>

static const char *const stack_names[QMI_N_STACKS] = {"encoder", "decoder"};

enum { MAX_BLOCKS = 1024 };

static bool has(const qmoe_model *model, const char *format, int stack,
    int64_t block, int layer)
{
    char name[128];
    snprintf(name, sizeof name, format, stack_names[stack], (int)block, layer);
    return qmi_checkpoint_find(model->checkpoint, name) != NULL;
}

static bool has_block(const qmoe_model *model, int stack, int64_t block)
{
    return has(
        model, "%s.block.%d.layer.%d.layer_norm.weight", stack, block, 0);
}

static int ffn_layer(int stack)
{
    return stack == QMI_ENCODER ? 1 : 2;
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
static void settle_blocks(qmoe_model *model, int stack)
{
    int64_t *n = &model->config.n_blocks[stack], found = 0;
    while (found < MAX_BLOCKS && has_block(model, stack, found))
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
static bool step_fits(const qmoe_model *model, int stack, int64_t step)
{
    qmi_config c = model->config;
    c.sparse_step[stack] = step;
    for (int64_t i = 0; i < c.n_blocks[stack]; i++) {
        bool sparse = has_router(model, stack, i);
        if (sparse != has_dense_ffn(model, stack, i) &&
            sparse != qmi_config_is_sparse(&c, stack, i))
            return false;
    }
    return true;
}

static void settle_sparsity(qmoe_model *model, int stack)
{
    int64_t *step = &model->config.sparse_step[stack];
    int64_t n_blocks = model->config.n_blocks[stack];
    if (step_fits(model, stack, *step))
        return;
    for (int64_t other = 0; other <= n_blocks; other++) {
        if (!step_fits(model, stack, other))
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
static void settle_head(qmoe_model *model)
{
    const qmi_checkpoint *files = model->checkpoint;
    if (!model->config.tied_head ||
        qmi_checkpoint_find(files, "lm_head.weight") != NULL ||
        qmi_checkpoint_find(files, "decoder.lm_head.weight") == NULL)
        return;
    qmi_message(model->hooks,
        "%s: does not say tie_word_embeddings false, but the weights have "
        "decoder.lm_head.weight; using that",
        qmi_checkpoint_config_path(files));
    model->config.tied_head = false;
}

void qmi_switch_settle(qmoe_model *model)
{
    for (int stack = 0; stack < QMI_N_STACKS; stack++) {
        settle_blocks(model, stack);
        settle_sparsity(model, stack);
    }
    settle_head(model);
}
