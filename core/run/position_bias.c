/* SPDX-License-Identifier: Apache-2.0
 * T5's relative position bias: buckets of distances, spread over the distances
 * that a batch has.  In: the learned row of each bucket, and the farthest
 * distance.  Out: a table on the device with a column per distance, which
 * attention clamps to.  The table follows the sequences, not the configuration,
 * whose relative_attention_max_distance no weight vouches for. */
#include "position_bias.h"

#include <math.h>

#include "alloc.h"

int64_t qmi_relative_bucket(int64_t relative, bool bidirectional,
    int64_t n_buckets, int64_t max_distance)
{
    int64_t n = n_buckets, offset = 0, distance = -relative;
    /* Half of the buckets for keys behind the query, half for those before
     * it. */
    if (bidirectional) {
        n /= 2;
        if (relative > 0) {
            offset = n;
            distance = relative;
        }
    }
    /* One direction: later keys are masked and share bucket 0. */
    if (distance < 0)
        distance = 0;
    /* One bucket per distance for the near half, logarithmic ones beyond. */
    int64_t exact = n / 2;
    if (distance < exact)
        return offset + distance;
    /* In float, as the reference computes it: a double would put some distances
     * into another bucket. */
    float position = logf((float)distance / (float)exact) /
                     (float)log((double)max_distance / (double)exact) *
                     (float)(n - exact);
    int64_t bucket = exact + (int64_t)position;
    return offset + (bucket < n ? bucket : n - 1);
}

/* Spreads the learned [n_buckets, n_heads] over distances up to `reach`. */
static void spread(float *bias, const float *learned,
    const qmi_table_spec *table, int64_t n_buckets, int64_t n_heads,
    int64_t reach)
{
    /* A column per distance, per head: what attention reads lies together. */
    const int64_t n_distances = 2 * reach + 1;
    for (int64_t d = 0; d < n_distances; d++) {
        int64_t bucket = qmi_relative_bucket(
            d - reach, table->bidirectional, n_buckets, table->max_distance);
        for (int64_t head = 0; head < n_heads; head++)
            bias[head * n_distances + d] = learned[bucket * n_heads + head];
    }
}

static qmoe_status upload_bias(
    qmoe_session *s, qmi_table table, int64_t reach, qmi_error *err)
{
    const qmi_table_spec *spec = &s->model->graph.tables[table];
    const qmi_weight *w = &s->model->weights[spec->weight];
    const int64_t n_buckets = w->n_rows, n_heads = w->n_cols;
    size_t n = (size_t)(n_heads * (2 * reach + 1));
    QMI_TRY(qmi_weight_check(w, 0, err));
    float *learned = qmi_calloc(
        (size_t)(n_buckets * n_heads), sizeof *learned, "the bias", err);
    float *bias = qmi_calloc(n, sizeof *bias, "the bias", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (learned != NULL && bias != NULL) {
        qmi_weight_decode(w, 0, 0, n_buckets, learned);
        spread(bias, learned, spec, n_buckets, n_heads, reach);
        status = qmi_upload(s->stage.backend, s->stage.device,
            &s->stage.tables[table].values, bias, n * sizeof *bias, err);
    }
    qmi_free(learned);
    qmi_free(bias);
    return status;
}

static qmoe_status reach_over(
    qmoe_session *s, qmi_table table, int64_t distance, qmi_error *err)
{
    /* What published models have: made once for them. */
    enum { LEAST = 128 };
    const int64_t most = s->model->graph.tables[table].max_distance;
    int64_t reach = LEAST;
    /* Doubling, so that growing sequences make it anew seldom; past `most` all
     * distances have one bucket. */
    while (reach < distance && reach < most)
        reach *= 2;
    if (reach > most)
        reach = most;
    if (reach <= s->stage.tables[table].reach)
        return QMOE_OK;
    /* A failure leaves no table that could be taken for this one. */
    s->stage.tables[table].reach = 0;
    QMI_TRY(upload_bias(s, table, reach, err));
    s->stage.tables[table].reach = reach;
    return QMOE_OK;
}

qmoe_status qmi_session_reach(qmoe_session *session, qmi_program program,
    int64_t distance, qmi_error *err)
{
    const qmi_graph *graph = &session->model->graph;
    /* Numbers begin with 1 (graph.h). */
    for (size_t i = 1; i <= graph->n_tables; i++)
        if (graph->tables[i].program == program)
            QMI_TRY(reach_over(session, (qmi_table)i, distance, err));
    return QMOE_OK;
}
