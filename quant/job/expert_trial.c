/* SPDX-License-Identifier: Apache-2.0
 * In: an expert as it is and recipes of both sizes.  Out: the relative errors
 * of each, without the codes.  The tokens then go on through the original: a
 * block is judged without the errors of the blocks before it.  The bits depend
 * neither on threads nor on groups, as in expert_pass.c. */
#include "expert_trial.h"

#include "alloc.h"
#include "expert_tokens.h"
#include "hessian.h"

static qmoe_status try_size(const qmi_weight *stack, const float *wide,
    const qmi_hessian *hessian, const qmi_stack_recipe *recipe,
    double *relative, bool *measured, qmi_error *err)
{
    qmi_encoded encoded = {0};
    qmi_quant_result result = {0};
    QMI_TRY(recipe->quantiser->run(&encoded, &result, wide, stack->n_rows,
        stack->n_cols, hessian, &recipe->quant, err));
    /* Only the errors are wanted. */
    qmi_encoded_free(&encoded);
    *relative = result.energy > 0 ? result.error / result.energy : 0;
    /* Both sizes give the same answer: it depends on the moments alone. */
    *measured = hessian != NULL && hessian->n_tokens != 0 && !result.fell_back;
    return QMOE_OK;
}

/* Both formats take the same f32 matrix and the same moments, which therefore
 * are not expendable here. */
static qmoe_status try_sizes(qmi_expert_pass *p, qmi_expert_worker *w, int kind,
    int64_t expert, const qmi_hessian *hessian,
    const qmi_stack_recipe recipes[QMI_N_SIZES], qmi_expert_trial *trial)
{
    float *wide = NULL;
    QMI_TRY(qmi_expert_weights(&wide, p, w, kind, expert));
    qmoe_status status = QMOE_OK;
    for (int size = 0; status == QMOE_OK && size < QMI_N_SIZES; size++)
        status = try_size(p->stacks.of[kind], wide, hessian, &recipes[size],
            &trial->error[kind][size], &trial->measured[kind], &w->error);
    qmi_free(wide);
    if (status == QMOE_OK)
        /* Progress counts the matrix once, not once per format; its error is no
         * result. */
        qmi_expert_count_matrix(p, w, kind, &(qmi_quant_result){0});
    return qmi_expert_blame(p, w, kind, expert, status);
}

/* As compress_input of expert_pass.c, with several recipes for each matrix. */
static qmoe_status measure_input(qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert,
    const qmi_stack_recipe (*recipes)[QMI_N_SIZES], qmi_expert_trial *trial)
{
    const int last = qmi_expert_last_kind(&p->stacks, input);
    qmi_hessian hessian;
    QMI_TRY(
        qmi_hessian_create(&hessian, p->stacks.of[last]->n_cols, &w->error));
    int64_t n_counted;
    qmoe_status status =
        qmi_expert_moments(p, w, input, expert, &hessian, &n_counted);
    for (int kind = 0; status == QMOE_OK && kind <= last; kind++)
        if (qmi_expert_input_of(kind) == input)
            status =
                try_sizes(p, w, kind, expert, &hessian, recipes[kind], trial);
    qmi_hessian_destroy(&hessian);
    return status;
}

static qmoe_status measure_expert(qmi_expert_pass *p, qmi_expert_worker *w,
    int64_t expert, const qmi_stack_recipe (*recipes)[QMI_N_SIZES],
    qmi_expert_trial *trial)
{
    if (p->forward != NULL) {
        for (int input = 0; input < QMI_N_EXPERT_INPUTS; input++)
            QMI_TRY(measure_input(
                p, w, (qmi_expert_input)input, expert, recipes, trial));
        return QMOE_OK;
    }
    for (int kind = 0; kind < p->stacks.n; kind++)
        QMI_TRY(try_sizes(p, w, kind, expert, NULL, recipes[kind], trial));
    return QMOE_OK;
}

static qmoe_status try_expert(qmi_expert_pass *p, qmi_expert_worker *w,
    int64_t expert, const qmi_stack_recipe (*recipes)[QMI_N_SIZES],
    qmi_expert_trial *trial)
{
    /* The caller's array is not zeroed. */
    *trial = (qmi_expert_trial){.n_kinds = p->stacks.n};
    QMI_TRY(qmi_expert_fetch(p, expert, &w->error));
    qmoe_status status = measure_expert(p, w, expert, recipes, trial);
    qmi_expert_release(p, expert);
    return status;
}

typedef struct request {
    qmi_expert_pass *pass;
    qmi_expert_trial *trials;
    const int64_t *experts;
    const qmi_stack_recipe (*recipes)[QMI_N_SIZES];
} request;

static qmoe_status try_item(void *user, qmi_expert_worker *w, int64_t item)
{
    const request *r = user;
    QMI_TRY(
        try_expert(r->pass, w, r->experts[item], r->recipes, &r->trials[item]));
    qmi_expert_count(r->pass, &(qmi_expert_tally){.n_experts = 1});
    return QMOE_OK;
}

/* Trials do not move tokens on: the block's tokens wait for
 * qmi_expert_pass_through. */
qmoe_status qmi_expert_pass_try(qmi_expert_pass *pass, qmi_expert_trial *trials,
    const int64_t *experts, int64_t n,
    const qmi_stack_recipe (*recipes)[QMI_N_SIZES], qmi_error *err)
{
    request r = {pass, trials, experts, recipes};
    const qmi_expert_loop loop = {
        .pass = pass, .n = n, .visit = try_item, .user = &r};
    return qmi_expert_loop_run(&loop, err);
}

/* All tokens of an expert through the original. */
static qmoe_status pass_through(
    qmi_expert_pass *p, int64_t expert, qmi_error *err)
{
    qmi_weight stacks[QMI_MAX_EXPERT_MATRICES];
    if (p->watch != NULL)
        QMI_TRY(p->watch(p->watcher));
    for (int kind = 0; kind < p->stacks.n; kind++)
        stacks[kind] = *p->stacks.of[kind];
    /* Fetched once more if the expert was tried: keeping all of a block would
     * need the memory of a stack. */
    QMI_TRY(qmi_expert_fetch(p, expert, err));
    if (expert + 1 < p->stacks.of[0]->n_mats)
        qmi_expert_announce(p, expert + 1);
    qmoe_status status = qmi_expert_apply(p, stacks, expert, expert, err);
    qmi_expert_release(p, expert);
    return status;
}

qmoe_status qmi_expert_pass_through(
    qmi_expert_pass *pass, int64_t first, int64_t n, qmi_error *err)
{
    for (int64_t i = 0; pass->forward != NULL && i < n; i++) {
        QMI_TRY(pass_through(pass, first + i, err));
        qmi_expert_count(pass, &(qmi_expert_tally){.n_experts = 1});
    }
    return QMOE_OK;
}
