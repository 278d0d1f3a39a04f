/* SPDX-License-Identifier: Apache-2.0
 * Trials of formats. */
#include "expert_trial.h"

#include "alloc.h"
#include "expert_tokens.h"
#include "hessian.h"
#include "parallel.h"

static qmoe_status try_size(const qmi_weight *stack, const float *wide,
    const qmi_hessian *hessian, const qmi_stack_recipe *recipe,
    double *relative, bool *measured, qmi_error *err)
{
    qmi_encoded encoded = {0};
    qmi_quant_result result = {0};
    QMI_TRY(recipe->quantiser->run(&encoded, &result, wide, stack->n_rows,
        stack->n_cols, hessian, &recipe->quant, err));
    qmi_encoded_free(&encoded);
    *relative = result.energy > 0 ? result.error / result.energy : 0;
    *measured = hessian != NULL && hessian->n_tokens != 0 && !result.fell_back;
    return QMOE_OK;
}

static qmoe_status try_sizes(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, const qmi_hessian *hessian,
    const qmi_stack_recipe recipes[QMI_N_SIZES], qmi_expert_trial *trial)
{
    float *wide = NULL;
    QMI_TRY(qmi_expert_weights(&wide, p, w, kind, expert));
    qmoe_status status = QMOE_OK;
    for (int size = 0; status == QMOE_OK && size < QMI_N_SIZES; size++)
        status = try_size(p->stacks[kind], wide, hessian, &recipes[size],
            &trial->error[kind][size], &trial->measured[kind], &w->error);
    qmi_free(wide);
    return qmi_expert_blame(p, w, kind, expert, status);
}

static qmoe_status measure_expert(const qmi_expert_pass *p,
    qmi_expert_worker *w, int64_t expert,
    const qmi_stack_recipe recipes[QMI_N_KINDS][QMI_N_SIZES],
    qmi_expert_trial *trial)
{
    for (int kind = 0; kind < QMI_N_KINDS; kind++) {
        if (p->forward == NULL) {
            QMI_TRY(try_sizes(p, w, kind, expert, NULL, recipes[kind], trial));
            continue;
        }
        qmi_hessian hessian;
        QMI_TRY(
            qmi_hessian_create(&hessian, p->stacks[kind]->n_cols, &w->error));
        qmoe_status status = qmi_expert_moments(p, w, kind, expert, &hessian);
        if (status == QMOE_OK)
            status =
                try_sizes(p, w, kind, expert, &hessian, recipes[kind], trial);
        qmi_hessian_destroy(&hessian);
        QMI_TRY(status);
    }
    return QMOE_OK;
}

static qmoe_status try_expert(const qmi_expert_pass *p, qmi_expert_worker *w,
    int64_t expert, const qmi_stack_recipe recipes[QMI_N_KINDS][QMI_N_SIZES],
    qmi_expert_trial *trial)
{
    *trial = (qmi_expert_trial){0};
    QMI_TRY(qmi_expert_fetch(p, expert, &w->error));
    qmoe_status status = measure_expert(p, w, expert, recipes, trial);
    qmi_expert_release(p, expert);
    return status;
}

qmoe_status qmi_expert_pass_try(qmi_expert_pass *pass, qmi_expert_trial *trials,
    const int64_t *experts, int64_t n,
    const qmi_stack_recipe recipes[QMI_N_KINDS][QMI_N_SIZES], qmi_error *err)
{
    qmi_expert_group group;
    QMI_TRY(qmi_expert_group_open(&group, n, err));
    QMI_PARALLEL_FOR(pass->n_workers)
    for (int64_t i = 0; i < n; i++) {
        qmi_expert_worker *w = &pass->workers[qmi_thread()];
        qmi_expert_group_set(
            &group, i, w, try_expert(pass, w, experts[i], recipes, &trials[i]));
    }
    qmoe_status status = qmi_expert_group_status(&group, n, err);
    qmi_expert_group_close(&group);
    return status;
}

/* All tokens of an expert through the original. */
static qmoe_status pass_through(
    const qmi_expert_pass *p, qmi_expert_worker *w, int64_t expert)
{
    QMI_TRY(qmi_expert_fetch(p, expert, &w->error));
    qmoe_status status = qmi_expert_apply(
        p, w, p->stacks[QMI_WI], p->stacks[QMI_WO], expert, expert);
    qmi_expert_release(p, expert);
    return status;
}

qmoe_status qmi_expert_pass_through(
    qmi_expert_pass *pass, int64_t first, int64_t n, qmi_error *err)
{
    if (pass->forward == NULL)
        return QMOE_OK;
    qmi_expert_group group;
    QMI_TRY(qmi_expert_group_open(&group, n, err));
    QMI_PARALLEL_FOR(pass->n_workers)
    for (int64_t i = 0; i < n; i++) {
        qmi_expert_worker *w = &pass->workers[qmi_thread()];
        qmi_expert_group_set(&group, i, w, pass_through(pass, w, first + i));
    }
    qmoe_status status = qmi_expert_group_status(&group, n, err);
    qmi_expert_group_close(&group);
    return status;
}
