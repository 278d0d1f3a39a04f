/* SPDX-License-Identifier: Apache-2.0
 * In: steps of a part of a block, and their inputs on the device while chunks of
 * calibration tokens go through.  Out: a sum of x x^T per input.  An input is a
 * slot until a step writes to it: products that read it before share the sum,
 * which the first of them fills.  Tokens are added in their order, so the sums
 * depend on nothing else. */
#include "dense_moments.h"

#include <math.h>

#include "alloc.h"
#include "expert_steps.h"

/* ---- inputs ---- */

/* The input that the slot holds at this point of the program, a new one if
 * there is none; NULL: too many. */
static qmi_dense_input *input_of(
    qmi_dense_moments *m, qmi_slot slot, qmi_program program)
{
    for (int i = 0; i < m->n; i++) {
        qmi_dense_input *input = &m->inputs[i];
        if (input->slot == slot && input->program == program &&
            !input->is_over && input->n < QMI_MAX_DENSE_SHARED)
            return input;
    }
    if (m->n == QMI_MAX_DENSE_INPUTS)
        return NULL;
    m->inputs[m->n] = (qmi_dense_input){.slot = slot, .program = program};
    return &m->inputs[m->n++];
}

static qmoe_status add_step(qmi_dense_moments *m, const qmoe_model *model,
    const qmi_step *step, qmi_program program, qmi_dense_filter filter,
    qmi_error *err)
{
    if (step->kind == QMI_OP_LINEAR &&
        filter.takes(filter.user, &model->weights[step->weights[0]])) {
        qmi_dense_input *input = input_of(m, step->src, program);
        if (input == NULL)
            return qmi_fail(err, QMOE_E_UNSUPPORTED,
                "block %d has too many inputs of matrices", (int)step->block);
        input->weights[input->n++] = step->weights[0];
    }
    for (int i = 0; i < m->n; i++)
        m->inputs[i].is_over |= m->inputs[i].slot == step->dst;
    return QMOE_OK;
}

static qmoe_status list_inputs(qmi_dense_moments *m, const qmoe_model *model,
    int32_t block, bool is_rest, qmi_dense_filter filter, qmi_error *err)
{
    const qmi_program program = model->blocks[block].program;
    const qmi_steps *steps = &model->graph.programs[program];
    const qmi_steps *cross = &model->graph.programs[QMI_CROSS];
    const qmi_step *experts = qmi_expert_step(model, block);
    size_t first, last;
    if (is_rest && experts == NULL)
        return QMOE_OK;
    if (is_rest)
        qmi_steps_after_experts(model, block, &first, &last);
    else
        qmi_steps_of_block(steps, block, &first, &last);
    if (!is_rest && experts != NULL)
        last = (size_t)(experts - steps->items);
    for (size_t i = first; i < last; i++)
        QMI_TRY(add_step(m, model, &steps->items[i], program, filter, err));
    if (is_rest || program != QMI_DECODE)
        return QMOE_OK;
    qmi_steps_of_block(cross, block, &first, &last);
    for (size_t i = first; i < last; i++)
        QMI_TRY(add_step(m, model, &cross->items[i], QMI_CROSS, filter, err));
    return QMOE_OK;
}

static int64_t width_of(const qmi_dense_input *input, const qmoe_model *model)
{
    return model->weights[input->weights[0]].n_cols;
}

static uint64_t bytes_of(const qmi_dense_moments *m, const qmoe_model *model)
{
    uint64_t n = 0;
    for (int i = 0; i < m->n; i++)
        n += qmi_hessian_bytes(width_of(&m->inputs[i], model));
    return n;
}

/* ---- sums ---- */

/* Rows of tokens from `first` of their set on, in m->rows, which are used up. */
static qmoe_status add_rows(qmi_dense_moments *m, qmi_dense_input *input,
    int64_t first, int64_t n, qmi_error *err)
{
    const int64_t width = input->hessian.n_cols;
    const qmi_program set =
        input->program == QMI_CROSS ? QMI_ENCODE : input->program;
    const float *weight = m->forward->calibration->sets[set].weight + first;
    int64_t n_kept = 0;
    if (qmi_first_non_finite(m->rows, QMI_F32, (size_t)(n * width)) !=
        (size_t)(n * width))
        return qmi_fail(err, QMOE_E_FORMAT, "inputs of '%s' are not finite",
            m->forward->session->model->weights[input->weights[0]].name);
    for (int64_t t = 0; t < n; t++) {
        const float factor = sqrtf(weight[t]);
        if (weight[t] == 0)
            continue;
        for (int64_t c = 0; c < width; c++)
            m->rows[n_kept * width + c] = factor * m->rows[t * width + c];
        n_kept++;
    }
    return qmi_hessian_add(&input->hessian, m->rows, n_kept, err);
}

/* The input lies on the device until the next step. */
static qmoe_status add_slot(
    qmi_dense_moments *m, qmi_dense_input *input, int64_t n, qmi_error *err)
{
    const qmi_forward *f = m->forward;
    const qmi_stage *stage = &f->session->stage;
    const qmi_program set =
        input->program == QMI_CROSS ? QMI_ENCODE : input->program;
    const int64_t first = f->calibration->sets[set].begin[f->first_sequence];
    const uint64_t row_bytes = (uint64_t)input->hessian.n_cols * sizeof(float);
    for (int64_t i = 0; i < n; i += QMI_PIECE_TOKENS) {
        const int64_t rows =
            n - i < QMI_PIECE_TOKENS ? n - i : QMI_PIECE_TOKENS;
        const qmi_view view = {.buffer = stage->slots[input->slot].buffer,
            .offset = (uint64_t)i * row_bytes};
        QMI_TRY(stage->backend->buffer_read(
            stage->device, m->rows, view, (uint64_t)rows * row_bytes, err));
        QMI_TRY(add_rows(m, input, first + i, rows, err));
    }
    return QMOE_OK;
}

static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    qmi_dense_moments *m = user;
    (void)session;
    for (int i = 0; step->kind == QMI_OP_LINEAR && i < m->n; i++)
        if (m->inputs[i].weights[0] == step->weights[0])
            return add_slot(m, &m->inputs[i], pass->n_tokens, err);
    return QMOE_OK;
}

/* ---- creation ---- */

static qmoe_status make_room(qmi_dense_moments *m, qmi_error *err)
{
    const qmoe_model *model = m->forward->session->model;
    int64_t widest = 1;
    for (int i = 0; i < m->n; i++) {
        const int64_t width = width_of(&m->inputs[i], model);
        QMI_TRY(qmi_hessian_create(&m->inputs[i].hessian, width, err));
        widest = width > widest ? width : widest;
    }
    m->rows = qmi_calloc((size_t)(QMI_PIECE_TOKENS * widest), sizeof *m->rows,
        "inputs of matrices", err);
    return m->rows != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

qmoe_status qmi_dense_moments_create(qmi_dense_moments *out,
    const qmi_forward *forward, int32_t block, bool is_rest,
    qmi_dense_filter filter, qmi_error *err)
{
    *out = (qmi_dense_moments){
        .forward = forward, .probe = {.after = after_step, .user = out}};
    QMI_TRY(
        list_inputs(out, forward->session->model, block, is_rest, filter, err));
    return make_room(out, err);
}

static void list_head(
    qmi_dense_moments *m, const qmoe_model *model, qmi_dense_filter filter)
{
    const qmi_step *head = qmi_head_step(model);
    if (!filter.takes(filter.user, &model->weights[head->weights[0]]))
        return;
    m->inputs[m->n++] = (qmi_dense_input){.slot = head->src,
        .program = QMI_DECODE,
        .n = 1,
        .weights = {head->weights[0]}};
}

qmoe_status qmi_dense_moments_of_head(qmi_dense_moments *out,
    const qmi_forward *forward, qmi_dense_filter filter, qmi_error *err)
{
    const qmi_states *states = &forward->states[QMI_DECODE];
    *out = (qmi_dense_moments){.forward = forward};
    list_head(out, forward->session->model, filter);
    QMI_TRY(make_room(out, err));
    for (int64_t i = 0; out->n != 0 && i < states->n_tokens;
         i += QMI_PIECE_TOKENS) {
        const int64_t left = states->n_tokens - i;
        const int64_t n = left < QMI_PIECE_TOKENS ? left : QMI_PIECE_TOKENS;
        QMI_TRY(qmi_states_read(states, out->rows, i, n, err));
        QMI_TRY(add_rows(out, &out->inputs[0], i, n, err));
    }
    return QMOE_OK;
}

qmoe_status qmi_dense_moments_finish(qmi_dense_moments *moments, qmi_error *err)
{
    for (int i = 0; i < moments->n; i++)
        QMI_TRY(qmi_hessian_finish(&moments->inputs[i].hessian, err));
    return QMOE_OK;
}

void qmi_dense_moments_destroy(qmi_dense_moments *moments)
{
    for (int i = 0; i < moments->n; i++)
        qmi_hessian_destroy(&moments->inputs[i].hessian);
    qmi_free(moments->rows);
    *moments = (qmi_dense_moments){0};
}

uint64_t qmi_dense_moments_bytes(
    const qmoe_model *model, qmi_dense_filter filter)
{
    qmi_error ignored = {0};
    qmi_dense_moments m = {0};
    list_head(&m, model, filter);
    uint64_t most = bytes_of(&m, model);
    for (int32_t block = 0; block < model->n_blocks; block++)
        for (int rest = 0; rest < 2; rest++) {
            m = (qmi_dense_moments){0};
            /* Too many inputs are an error when they are summed. */
            if (list_inputs(&m, model, block, rest != 0, filter, &ignored) ==
                    QMOE_OK &&
                bytes_of(&m, model) > most)
                most = bytes_of(&m, model);
        }
    return most;
}
