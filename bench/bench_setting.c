/* SPDX-License-Identifier: Apache-2.0
 * Timing of one setting (bench_setting.h).  In: contenders, which take the same
 * product in their own formats.  Out: seconds per call of each round.  Every
 * contender is checked on its first and last matrix before it is timed; rounds
 * go through all contenders, so that a disturbance hits all of them alike. */
#include "bench_setting.h"

#include <inttypes.h>
#include <string.h>

#include "cancel.h"

qmi_op qmi_bench_product(const qmi_bench_place *place,
    const qmi_bench_contender *contender, int64_t mat, int64_t n_tokens)
{
    /* A baseline has inputs of a type of its own. */
    const bool is_baseline = contender->is_baseline;
    return (qmi_op){
        .kind = QMI_OP_LINEAR,
        .u.linear =
            {
                .dst = {place->dst, 0},
                .src = {is_baseline ? place->src_bf16 : place->src, 0},
                .weight = contender->weight,
                .mat = mat,
                .n_tokens = n_tokens,
                .alpha = 1.0f,
            },
    };
}

/* Calls between two waits; 0: none in between. */
static int64_t calls_of_pass(
    const qmi_bench_place *p, const qmi_bench_contender *c, bool hot)
{
    const int64_t n_mats = c->weight->host->n_mats;
    if (!p->in_passes)
        return 0;
    if (hot)
        return QMI_BENCH_PASS_CALLS;
    /* Whole passes over the stack, so that every pass is as cold as the
     * others. */
    return n_mats < QMI_BENCH_PASS_CALLS
               ? QMI_BENCH_PASS_CALLS / n_mats * n_mats
               : n_mats;
}

/* n_calls products, finished on return. */
static qmoe_status call(const qmi_bench_place *p, qmi_bench_contender *c,
    int64_t n_calls, int64_t n_tokens, bool hot, qmi_error *err)
{
    const int64_t pass = calls_of_pass(p, c, hot);
    /* A sample begins where the others did. */
    if (p->in_passes)
        c->next_mat = 0;
    for (int64_t i = 0; i < n_calls; i++) {
        if (pass != 0 && i != 0 && i % pass == 0)
            QMI_TRY(p->backend->sync(p->device, err));
        /* Long samples must not keep a user waiting. */
        QMI_TRY(qmi_check_cancel(err));
        const qmi_op op =
            qmi_bench_product(p, c, hot ? 0 : c->next_mat, n_tokens);
        QMI_TRY(c->variant->run(p->device, &op, err));
        c->next_mat = (c->next_mat + 1) % c->weight->host->n_mats;
    }
    return p->backend->sync(p->device, err);
}

static qmoe_status check_mat(const qmi_bench_place *p,
    const qmi_bench_contender *c, int64_t mat, int64_t n_tokens, qmi_error *err)
{
    const qmi_weight *w = c->weight->host;
    const uint64_t n = (uint64_t)(n_tokens * w->n_rows) * sizeof(float);
    const qmi_op op = qmi_bench_product(p, c, mat, n_tokens);
    const qmi_view dst = {p->dst, 0};
    /* NaN, so that what a kernel leaves out is seen. */
    memset(p->result, 0xff, n);
    QMI_TRY(p->backend->buffer_write(p->device, dst, p->result, n, err));
    QMI_TRY(c->variant->run(p->device, &op, err));
    QMI_TRY(p->backend->buffer_read(p->device, p->result, dst, n, err));
    if (qmi_bench_expected_agrees(c->expected, p->result, n_tokens,
            qmi_inputs_of(p->backend, c->variant)))
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INTERNAL,
        "%s, variant %s: wrong result of %s %" PRId64 "x%" PRId64
        " with %" PRId64 " token(s); nothing wrong is timed",
        p->backend->name, c->variant->name, w->format->name, w->n_rows,
        w->n_cols, n_tokens);
}

/* Doubling until a quarter of a sample is reached: from there the clock is
 * exact enough to scale up.  These calls warm up, too. */
static qmoe_status find_n_calls(const qmi_bench_place *p,
    qmi_bench_contender *c, int64_t n_tokens, bool hot, qmi_error *err)
{
    double seconds = 0;
    for (c->n_calls = 1;; c->n_calls *= 2) {
        const double begin = qmi_bench_now(p->thread_time);
        QMI_TRY(call(p, c, c->n_calls, n_tokens, hot, err));
        seconds = qmi_bench_now(p->thread_time) - begin;
        if (seconds >= p->sample_seconds / 4)
            break;
    }
    const double wanted = p->sample_seconds / seconds;
    c->n_calls = (int64_t)((double)c->n_calls * wanted) + 1;
    if (p->in_passes && !hot) {
        /* Whole passes: each matrix as often as the others. */
        const int64_t round = c->weight->host->n_mats;
        c->n_calls = (c->n_calls + round - 1) / round * round;
    }
    return QMOE_OK;
}

qmoe_status qmi_bench_run_setting(const qmi_bench_place *place,
    qmi_bench_contender *contenders, size_t n_contenders, int64_t n_tokens,
    bool hot, qmi_error *err)
{
    for (size_t i = 0; i < n_contenders; i++) {
        qmi_bench_contender *c = &contenders[i];
        const int64_t last = c->weight->host->n_mats - 1;
        QMI_TRY(check_mat(place, c, 0, n_tokens, err));
        /* The last one, too: offsets grow with the number of the matrix. */
        QMI_TRY(check_mat(place, c, last, n_tokens, err));
        QMI_TRY(find_n_calls(place, c, n_tokens, hot, err));
    }
    for (int round = 0; round < place->n_rounds; round++)
        for (size_t i = 0; i < n_contenders; i++) {
            qmi_bench_contender *c = &contenders[i];
            const double begin = qmi_bench_now(place->thread_time);
            QMI_TRY(call(place, c, c->n_calls, n_tokens, hot, err));
            c->samples[round] = (qmi_bench_now(place->thread_time) - begin) /
                                (double)c->n_calls;
        }
    return QMOE_OK;
}
