/* SPDX-License-Identifier: Apache-2.0
 * Backward of a block's experts (backward_ops.h).  In: the experts' input, the
 * routes, and the gradient of the result.  Out: additions to the gradients of
 * the input and of the routes' weights; the gradient of each product's result,
 * for who wants it.  Experts come one after the other, in order, with the rows
 * of their tokens gathered; what lies between an expert's products is made
 * again. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "backward_ops.h"
#include "reference.h"

/* Rows of an expert's tokens; as many as the expert has that has most. */
typedef struct work {
    int32_t *route;         /* [most], of each row: t * top_k + j */
    float *x, *d_x, *d_y;   /* [most, d_model] */
    float *up, *gate, *d_h; /* [most, d_ff] */
    float *d_up, *d_gate;   /* the same */
    int64_t n;              /* of the expert at hand */
} work;

static int64_t count_of(const qmi_backward_experts *o, int64_t expert)
{
    int64_t n = 0;
    for (int64_t r = 0; r < o->n_tokens * o->top_k; r++)
        n += o->expert[r] == expert;
    return n;
}

static void gather(const qmi_backward_experts *o, work *k, int64_t expert)
{
    const int64_t d = o->down->n_rows;
    k->n = 0;
    for (int64_t r = 0; r < o->n_tokens * o->top_k; r++) {
        if (o->expert[r] != expert)
            continue;
        const int64_t t = r / o->top_k;
        memcpy(k->x + k->n * d, o->src + t * d, (size_t)d * sizeof(float));
        memcpy(k->d_y + k->n * d, o->d_dst + t * d, (size_t)d * sizeof(float));
        k->route[k->n++] = (int32_t)r;
    }
}

/* In: up and gate x; the gradient d_h of the hidden values, of a weight of 1.
 * Out: those of both products, and the weight's own. */
static void hidden(const qmi_backward_experts *o, const work *k, int64_t row)
{
    const int64_t n = o->up->n_rows, at = row * n;
    const int32_t r = k->route[row];
    double along = 0;
    for (int64_t i = at; i < at + n; i++) {
        const double up = k->up[i], d_h = k->d_h[i];
        const double x = o->gate != NULL ? k->gate[i] : up;
        const double slope = qmi_act_slope(o->act, x);
        const double act = qmi_reference_act(o->act, x);
        along += d_h * (o->gate != NULL ? act * up : act);
        if (o->gate != NULL)
            k->d_gate[i] = (float)(o->weight[r] * d_h * up * slope);
        k->d_up[i] =
            (float)(o->weight[r] * d_h * (o->gate != NULL ? act : slope));
    }
    o->d_weight[r] += (float)along;
}

static qmoe_status tell(const qmi_backward_experts *o, const qmi_weight *w,
    int64_t expert, const float *d_y, int64_t n, qmi_error *err)
{
    return o->rows != NULL ? o->rows(o->user, w, expert, d_y, n, err) : QMOE_OK;
}

/* The products of the expert, forward and back; k->d_x, of zeros, gets the
 * gradient of its input. */
static qmoe_status run_expert(qmi_backward *b, const qmi_backward_experts *o,
    const work *k, int64_t expert, qmi_error *err)
{
    const qmi_matrix_rows up = qmi_all_rows(o->up, expert);
    const qmi_matrix_rows down = qmi_all_rows(o->down, expert);
    const int64_t d = o->down->n_rows;
    QMI_TRY(qmi_backward_multiply(b, k->up, k->x, k->n, up, err));
    if (o->gate != NULL)
        QMI_TRY(qmi_backward_multiply(
            b, k->gate, k->x, k->n, qmi_all_rows(o->gate, expert), err));
    memset(k->d_h, 0, (size_t)(k->n * o->up->n_rows) * sizeof(float));
    QMI_TRY(qmi_backward_linear(b, k->d_h, k->d_y, k->n, 1, down, err));
    for (int64_t row = 0; row < k->n; row++) {
        hidden(o, k, row);
        for (int64_t c = 0; c < d; c++)
            k->d_y[row * d + c] *= o->weight[k->route[row]];
    }
    QMI_TRY(tell(o, o->down, expert, k->d_y, k->n, err));
    QMI_TRY(tell(o, o->up, expert, k->d_up, k->n, err));
    QMI_TRY(qmi_backward_linear(b, k->d_x, k->d_up, k->n, 1, up, err));
    if (o->gate == NULL)
        return QMOE_OK;
    QMI_TRY(tell(o, o->gate, expert, k->d_gate, k->n, err));
    return qmi_backward_linear(
        b, k->d_x, k->d_gate, k->n, 1, qmi_all_rows(o->gate, expert), err);
}

static qmoe_status visit_expert(qmi_backward *b, const qmi_backward_experts *o,
    work *k, int64_t expert, qmi_error *err)
{
    const int64_t d = o->down->n_rows;
    gather(o, k, expert);
    if (k->n == 0)
        return QMOE_OK;
    memset(k->d_x, 0, (size_t)(k->n * d) * sizeof(float));
    QMI_TRY(run_expert(b, o, k, expert, err));
    for (int64_t row = 0; row < k->n; row++) {
        float *d_src = o->d_src + k->route[row] / o->top_k * d;
        for (int64_t c = 0; c < d; c++)
            d_src[c] += k->d_x[row * d + c];
    }
    return QMOE_OK;
}

/* A dropped token passes its input (ops.h). */
static void pass_dropped(const qmi_backward_experts *o)
{
    const int64_t d = o->down->n_rows;
    for (int64_t r = 0; r < o->n_tokens * o->top_k; r++) {
        const int64_t at = r / o->top_k * d;
        double along = 0;
        if (o->expert[r] >= 0)
            continue;
        for (int64_t c = at; c < at + d; c++) {
            o->d_src[c] += o->weight[r] * o->d_dst[c];
            along += (double)o->d_dst[c] * o->src[c];
        }
        o->d_weight[r] += (float)along;
    }
}

static void free_work(work *k)
{
    qmi_free(k->route);
    qmi_free(k->x);
    qmi_free(k->up);
}

static qmoe_status make_work(
    work *k, const qmi_backward_experts *o, qmi_error *err)
{
    static const char what[] = "tokens of an expert";
    int64_t most = 1;
    for (int64_t e = 0; e < o->up->n_mats; e++) {
        const int64_t n = count_of(o, e);
        most = n > most ? n : most;
    }
    const size_t wide = (size_t)(most * o->down->n_rows);
    const size_t inner = (size_t)(most * o->up->n_rows);
    *k = (work){
        .route = qmi_calloc((size_t)most, sizeof *k->route, what, err),
        .x = qmi_calloc(3 * wide, sizeof *k->x, what, err),
        .up = qmi_calloc(5 * inner, sizeof *k->up, what, err),
    };
    if (k->route == NULL || k->x == NULL || k->up == NULL)
        return QMOE_E_NOMEM;
    k->d_x = k->x + wide;
    k->d_y = k->d_x + wide;
    k->gate = k->up + inner;
    k->d_h = k->gate + inner;
    k->d_up = k->d_h + inner;
    k->d_gate = k->d_up + inner;
    return QMOE_OK;
}

qmoe_status qmi_backward_experts_run(
    qmi_backward *backward, const qmi_backward_experts *o, qmi_error *err)
{
    work k;
    qmoe_status status = make_work(&k, o, err);
    for (int64_t e = 0; status == QMOE_OK && e < o->up->n_mats; e++)
        status = visit_expert(backward, o, &k, e, err);
    if (status == QMOE_OK)
        pass_dropped(o);
    free_work(&k);
    return status;
}
