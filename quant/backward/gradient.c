/* SPDX-License-Identifier: Apache-2.0
 * In: a model, token sequences, and who wants gradients.  Out: those, told
 * block by block, from the head to the first block.  Memory holds the residual
 * stream before each block and its gradient, and the values of one block for a
 * chunk of tokens. */
#include "gradient.h"

#include "alloc.h"
#include "expert_steps.h"

/* Values of logits at a time. */
enum { HEAD_VALUES = 1 << 24, HEAD_TOKENS = 256 };

/* Of a program that embeds tokens. */
typedef struct side {
    qmi_states end;      /* behind the last block */
    qmi_states gradient; /* of what the part at hand left */
} side;

typedef struct work {
    const qmi_gradient_options *options;
    qmoe_model *model;
    qmi_forward forward;
    qmi_backward backward;
    qmi_tape tapes[QMI_N_PROGRAMS];
    qmi_states *kept; /* [n_blocks], before each */
    side sides[QMI_N_PROGRAMS];
    int32_t block; /* that is revisited */
    float *rows;   /* [QMI_PIECE_TOKENS, d_model] */
    int64_t n_done;
} work;

uint64_t qmi_gradient_state_bytes(const qmoe_model *model, int64_t n_tokens)
{
    /* And the states at hand, those behind the blocks, and the gradient. */
    const uint64_t n = (uint64_t)model->n_blocks + 3;
    return n * (uint64_t)n_tokens * (uint64_t)model->shape.d_model *
           sizeof(float);
}

static qmoe_status report(work *k)
{
    const qmi_gradient_options *o = k->options;
    if (o->progress == NULL)
        return QMOE_OK;
    return o->progress(o->user, k->n_done++, 2 * k->model->n_blocks + 2);
}

static qmoe_status copy_states(
    work *k, const qmi_states *to, const qmi_states *from, qmi_error *err)
{
    for (int64_t i = 0; i < from->n_tokens; i += QMI_PIECE_TOKENS) {
        const int64_t left = from->n_tokens - i;
        const int64_t n = left < QMI_PIECE_TOKENS ? left : QMI_PIECE_TOKENS;
        QMI_TRY(qmi_states_read(from, k->rows, i, n, err));
        QMI_TRY(qmi_states_write(to, k->rows, i, n, err));
    }
    return QMOE_OK;
}

/* Pages of a block's experts, like those of its other weights (forward.c). */
static void release_experts(const work *k, int32_t block)
{
    const qmi_checkpoint *files = k->model->checkpoint;
    const qmi_expert_stacks stacks = qmi_expert_stacks_of(k->model, block);
    if (qmi_checkpoint_is_generated(files))
        return;
    for (int kind = 0; kind < stacks.n; kind++) {
        const qmi_weight *w = stacks.of[kind];
        for (int64_t e = 0;
             w->format->dense && w->fetch == NULL && e < w->n_mats; e++)
            qmi_checkpoint_release(
                files, qmi_weight_dense(w, e), qmi_dense_bytes(w));
    }
}

/* Up to what follows the last block of the program. */
static qmoe_status run_program(work *k, qmi_program program, qmi_error *err)
{
    qmi_forward *f = &k->forward;
    const qmi_states *states = &f->states[program];
    QMI_TRY(qmi_forward_embed(f, program, err));
    for (int32_t b = 0; b < k->model->n_blocks; b++) {
        if (k->model->blocks[b].program != program)
            continue;
        QMI_TRY(report(k));
        QMI_TRY(copy_states(k, &k->kept[b], states, err));
        QMI_TRY(qmi_forward_block(f, b, err));
        release_experts(k, b);
    }
    return copy_states(k, &k->sides[program].end, states, err);
}

static qmoe_status run_forward(work *k, qmi_error *err)
{
    if (qmi_graph_encodes(&k->model->graph)) {
        QMI_TRY(run_program(k, QMI_ENCODE, err));
        QMI_TRY(qmi_forward_finish_encoder(&k->forward, err));
    }
    QMI_TRY(run_program(k, QMI_DECODE, err));
    return qmi_forward_before_head(&k->forward, err);
}

/* ---- the head ---- */

typedef struct head_work {
    const qmi_step *step;
    const qmi_weight *weight;
    float *x, *d_x, *logits; /* of a piece */
    int32_t *targets;        /* [n_tokens] of all */
    int64_t n;               /* tokens of a piece */
} head_work;

/* The next token; none at the end of a sequence. */
static void set_targets(int32_t *targets, const qmi_token_set *set)
{
    for (size_t s = 0; s < set->n_sequences; s++)
        for (int64_t t = set->begin[s]; t < set->begin[s + 1]; t++)
            targets[t] = t + 1 < set->begin[s + 1] ? set->ids[t + 1] : -1;
}

static qmoe_status head_piece(work *k, const head_work *h,
    qmi_gradient_loss *loss, int64_t first, int64_t n, qmi_error *err)
{
    const qmi_gradient_sink *sink = &k->options->sink;
    const qmi_matrix_rows rows = qmi_all_rows(h->weight, 0);
    const float alpha = h->step->u.linear.alpha;
    const int64_t width = h->weight->n_cols, n_logits = n * h->weight->n_rows;
    QMI_TRY(
        qmi_states_read(&k->forward.states[QMI_DECODE], h->x, first, n, err));
    QMI_TRY(qmi_backward_multiply(&k->backward, h->logits, h->x, n, rows, err));
    for (int64_t i = 0; i < n_logits; i++)
        h->logits[i] *= alpha;
    loss->sum += qmi_backward_cross_entropy(
        h->logits, h->targets + first, n, h->weight->n_rows);
    for (int64_t t = first; t < first + n; t++)
        loss->n += h->targets[t] >= 0;
    if (sink->rows != NULL)
        QMI_TRY(sink->rows(sink->user, h->weight, 0, h->logits, n, err));
    for (int64_t i = 0; i < n * width; i++)
        h->d_x[i] = 0;
    QMI_TRY(qmi_backward_linear(
        &k->backward, h->d_x, h->logits, n, alpha, rows, err));
    return qmi_states_write(
        &k->sides[QMI_DECODE].gradient, h->d_x, first, n, err);
}

static qmoe_status head_pieces(
    work *k, const head_work *h, qmi_gradient_loss *loss, qmi_error *err)
{
    const int64_t n_tokens = k->sides[QMI_DECODE].gradient.n_tokens;
    for (int64_t i = 0; i < n_tokens; i += h->n) {
        const int64_t left = n_tokens - i;
        QMI_TRY(head_piece(k, h, loss, i, left < h->n ? left : h->n, err));
    }
    return QMOE_OK;
}

static qmoe_status run_head(work *k, qmi_gradient_loss *loss, qmi_error *err)
{
    static const char what[] = "gradients of the head";
    const qmi_token_set *set = &k->forward.calibration->sets[QMI_DECODE];
    head_work h = {.step = qmi_head_step(k->model)};
    if (h.step->kind != QMI_OP_LINEAR || h.step->n_weights != 1 ||
        h.step->u.linear.act != QMI_ACT_NONE)
        return qmi_fail(
            err, QMOE_E_UNSUPPORTED, "gradients through this model's head");
    h.weight = &k->model->weights[h.step->weights[0]];
    h.n = HEAD_VALUES / h.weight->n_rows;
    h.n = h.n < 1 ? 1 : h.n > HEAD_TOKENS ? HEAD_TOKENS : h.n;
    const size_t wide = (size_t)(h.n * h.weight->n_cols);
    h.x = qmi_calloc(2 * wide, sizeof *h.x, what, err);
    h.logits = qmi_calloc(
        (size_t)(h.n * h.weight->n_rows), sizeof *h.logits, what, err);
    h.targets = qmi_calloc((size_t)set->n_tokens, sizeof *h.targets, what, err);
    qmoe_status status = QMOE_E_NOMEM;
    if (h.x != NULL && h.logits != NULL && h.targets != NULL) {
        h.d_x = h.x + wide;
        set_targets(h.targets, set);
        status = head_pieces(k, &h, loss, err);
    }
    qmi_free(h.targets);
    qmi_free(h.logits);
    qmi_free(h.x);
    return status;
}

/* ---- back ---- */

/* What a part leaves, and so where its gradient is given. */
static qmi_slot result_of(const work *k, qmi_program program)
{
    if (k->block != QMI_AFTER_BLOCKS)
        return k->model->graph.residual;
    return program == QMI_DECODE ? qmi_head_step(k->model)->src
                                 : k->model->graph.programs[program].output;
}

static qmoe_status reverse_steps(
    work *k, qmi_reverse *r, const qmi_revisit *chunk, qmi_error *err)
{
    const int64_t n = chunk->pass->n_tokens;
    const qmi_states *gradient = &k->sides[chunk->program].gradient;
    float *given = qmi_reverse_slot(r, result_of(k, chunk->program), err);
    if (given == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(qmi_states_read(gradient, given, chunk->first_token, n, err));
    QMI_TRY(qmi_reverse_run(r, chunk->first, chunk->last, err));
    const float *left = qmi_reverse_slot(r, k->model->graph.residual, err);
    if (left == NULL)
        return QMOE_E_NOMEM;
    return qmi_states_write(gradient, left, chunk->first_token, n, err);
}

/* From the keys and values of a decoder block to the encoder's output, which
 * all decoder blocks read. */
static qmoe_status reverse_cross(
    work *k, qmi_reverse *cross, const qmi_revisit *chunk, qmi_error *err)
{
    const qmi_graph *graph = &k->model->graph;
    const qmi_states *gradient = &k->sides[QMI_ENCODE].gradient;
    const int64_t n = cross->pass->n_tokens, width = k->model->shape.d_model;
    size_t first, last;
    qmi_steps_of_block(&graph->programs[QMI_CROSS], k->block, &first, &last);
    QMI_TRY(qmi_reverse_run(cross, first, last, err));
    const float *more =
        qmi_reverse_slot(cross, graph->programs[QMI_ENCODE].output, err);
    if (more == NULL)
        return QMOE_E_NOMEM;
    for (int64_t i = 0; i < n; i += QMI_PIECE_TOKENS) {
        const int64_t at = chunk->first_encoder_token + i;
        const int64_t m = n - i < QMI_PIECE_TOKENS ? n - i : QMI_PIECE_TOKENS;
        QMI_TRY(qmi_states_read(gradient, k->rows, at, m, err));
        for (int64_t j = 0; j < m * width; j++)
            k->rows[j] += more[i * width + j];
        QMI_TRY(qmi_states_write(gradient, k->rows, at, m, err));
    }
    return QMOE_OK;
}

static qmoe_status begin_reverse(work *k, qmi_reverse *out, qmi_program program,
    const qmi_pass *pass, qmi_error *err)
{
    return qmi_reverse_begin(out, &k->backward, k->forward.session,
        &k->tapes[program], &k->options->sink, pass, err);
}

static qmoe_status reverse_chunk(
    work *k, const qmi_revisit *chunk, qmi_error *err)
{
    const qmi_pass encoder = {
        .program = QMI_CROSS, .n_tokens = k->forward.session->n_encoded};
    const bool crosses = chunk->program == QMI_DECODE &&
                         k->model->graph.programs[QMI_CROSS].n != 0;
    qmi_reverse r, cross;
    QMI_TRY(begin_reverse(k, &r, chunk->program, chunk->pass, err));
    qmoe_status status = QMOE_OK;
    if (crosses)
        status = begin_reverse(k, &cross, QMI_CROSS, &encoder, err);
    if (crosses && status == QMOE_OK)
        r.cross = &cross;
    if (status == QMOE_OK)
        status = reverse_steps(k, &r, chunk, err);
    if (r.cross != NULL) {
        if (status == QMOE_OK)
            status = reverse_cross(k, &cross, chunk, err);
        qmi_reverse_end(&cross);
    }
    qmi_reverse_end(&r);
    return status;
}

static qmoe_status visit(void *user, const qmi_revisit *chunk, qmi_error *err)
{
    work *k = user;
    qmi_tape *tape = &k->tapes[chunk->program];
    const int64_t n = chunk->pass->n_tokens;
    float *input = qmi_tape_add_input(
        tape, k->model->graph.residual, chunk->first, n, err);
    qmoe_status status = QMOE_E_NOMEM;
    if (input != NULL)
        status = qmi_states_read(&k->forward.states[chunk->program], input,
            chunk->first_token, n, err);
    if (status == QMOE_OK)
        status = reverse_chunk(k, chunk, err);
    qmi_tape_clear(tape);
    qmi_tape_clear(&k->tapes[QMI_CROSS]);
    return status;
}

/* A block, or what comes behind those of the program. */
static qmoe_status revisit(
    work *k, qmi_program program, int32_t block, qmi_error *err)
{
    qmi_forward *f = &k->forward;
    const qmi_states *from =
        block == QMI_AFTER_BLOCKS ? &k->sides[program].end : &k->kept[block];
    k->block = block;
    QMI_TRY(report(k));
    QMI_TRY(copy_states(k, &f->states[program], from, err));
    qmi_probe_attach(f->session, &k->tapes[program].probe);
    qmi_probe_attach(f->session, &k->tapes[QMI_CROSS].probe);
    const qmoe_status status =
        qmi_forward_revisit(f, program, block, visit, k, err);
    qmi_probe_detach(f->session, &k->tapes[QMI_CROSS].probe);
    qmi_probe_detach(f->session, &k->tapes[program].probe);
    if (block >= 0)
        release_experts(k, block);
    return status;
}

static qmoe_status reverse_program(work *k, qmi_program program, qmi_error *err)
{
    QMI_TRY(revisit(k, program, QMI_AFTER_BLOCKS, err));
    for (int32_t b = k->model->n_blocks; b-- > 0;)
        if (k->model->blocks[b].program == program)
            QMI_TRY(revisit(k, program, b, err));
    return QMOE_OK;
}

static qmoe_status run(work *k, qmi_gradient_loss *loss, qmi_error *err)
{
    QMI_TRY(run_forward(k, err));
    QMI_TRY(run_head(k, loss, err));
    QMI_TRY(reverse_program(k, QMI_DECODE, err));
    return qmi_graph_encodes(&k->model->graph)
               ? reverse_program(k, QMI_ENCODE, err)
               : QMOE_OK;
}

/* ---- creation ---- */

static qmoe_status create(work *k, const qmi_calibration *text, qmi_error *err)
{
    const qmi_gradient_options *o = k->options;
    const qmoe_model *m = k->model;
    const int64_t width = m->shape.d_model;
    QMI_TRY(qmi_forward_create_whole(
        &k->forward, k->model, text, o->work_dir, o->place, err));
    QMI_TRY(qmi_backward_open(&k->backward, o->n_threads, err));
    k->rows = qmi_calloc(
        (size_t)(QMI_PIECE_TOKENS * width), sizeof *k->rows, "states", err);
    k->kept = qmi_calloc((size_t)m->n_blocks, sizeof *k->kept, "states", err);
    if (k->rows == NULL || k->kept == NULL)
        return QMOE_E_NOMEM;
    for (int32_t b = 0; b < m->n_blocks; b++)
        QMI_TRY(qmi_states_create(&k->kept[b],
            text->sets[m->blocks[b].program].n_tokens, width, o->work_dir,
            err));
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        side *s = &k->sides[p];
        const int64_t n = text->sets[p].n_tokens;
        if (n == 0)
            continue;
        QMI_TRY(qmi_states_create(&s->end, n, width, o->work_dir, err));
        QMI_TRY(qmi_states_create(&s->gradient, n, width, o->work_dir, err));
    }
    return QMOE_OK;
}

static void destroy(work *k)
{
    for (int32_t b = 0; k->kept != NULL && b < k->model->n_blocks; b++)
        qmi_states_destroy(&k->kept[b]);
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        qmi_states_destroy(&k->sides[p].end);
        qmi_states_destroy(&k->sides[p].gradient);
        qmi_tape_end(&k->tapes[p]);
    }
    qmi_free(k->kept);
    qmi_free(k->rows);
    qmi_backward_close(&k->backward);
    qmi_forward_destroy(&k->forward);
}

qmoe_status qmi_gradient_run(qmi_gradient_loss *loss, qmoe_model *model,
    const qmi_calibration *text, const qmi_gradient_options *options,
    qmi_error *err)
{
    *loss = (qmi_gradient_loss){0};
    work k = {.options = options, .model = model};
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        qmi_tape_begin(&k.tapes[p], &model->graph, (qmi_program)p);
    qmoe_status status = create(&k, text, err);
    if (status == QMOE_OK)
        status = run(&k, loss, err);
    destroy(&k);
    return status;
}
