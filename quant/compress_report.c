/* SPDX-License-Identifier: Apache-2.0
 * Totals of a finished job, and a line per expert in "qmoe_report.json". */
#include "compress_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"

/* A text file being put together. */
typedef struct text {
    char *data;
    size_t n, capacity;
    qmi_error *err;
} text;

static qmoe_status put(text *t, const char *line, size_t n)
{
    if (t->n + n + 1 > t->capacity) {
        size_t capacity = 2 * t->capacity + n + 4096;
        char *grown =
            qmi_regrow(t->data, t->n, capacity, 1, "the report", t->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        t->data = grown;
        t->capacity = capacity;
    }
    memcpy(t->data + t->n, line, n);
    t->n += n;
    return QMOE_OK;
}

static double relative(const qmi_quant_result *q)
{
    return q->energy > 0 ? q->error / q->energy : 0;
}

static qmoe_status put_expert(
    text *t, int64_t expert, const qmi_journal_expert *e, bool last)
{
    char line[512];
    const qmi_quant_result *wi = &e->quality[QMI_WI];
    const qmi_quant_result *wo = &e->quality[QMI_WO];
    int n = snprintf(line, sizeof line,
        "    {\"expert\": %lld, \"tokens\": %lld, \"counted\": %lld, "
        "\"wi_error\": %.6g, \"wo_error\": %.6g, \"rounded\": %s}%s\n",
        (long long)expert, (long long)e->n_tokens, (long long)e->n_counted,
        relative(wi), relative(wo),
        wi->fell_back || wo->fell_back ? "true" : "false", last ? "" : ",");
    return put(t, line, (size_t)n);
}

/* Adds one block to the totals. */
static void add_block(qmi_job *job, const qmi_sparse_block *b,
    const qmi_journal_expert *experts, int64_t n)
{
    qmoe_compress_report *r = job->report;
    for (int64_t e = 0; e < n; e++) {
        bool without = job->calibrated && experts[e].n_counted == 0;
        r->n_experts_without_tokens += without;
        for (int kind = 0; kind < QMI_N_KINDS; kind++) {
            const qmi_quant_result *q = &experts[e].quality[kind];
            double n_weights = (double)b->stacks[kind]->n_rows *
                               (double)b->stacks[kind]->n_cols;
            r->mean_output_error += relative(q);
            r->zeros += (double)q->n_zeros;
            r->entropy_bits += q->entropy_bits * n_weights;
            r->n_singular += q->fell_back && !without;
        }
    }
}

/* "encoder block 1: experts 3, 7": who was rounded for want of tokens. */
static void name_rounded(qmi_job *job, const qmi_sparse_block *b,
    const qmi_journal_expert *experts, int64_t n)
{
    char list[256] = "";
    size_t at = 0;
    int64_t count = 0;
    for (int64_t e = 0; e < n; e++) {
        if (experts[e].n_counted != 0)
            continue;
        count++;
        if (at + 24 < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%lld",
                at == 0 ? "" : ", ", (long long)e);
    }
    if (job->calibrated && count != 0)
        qmi_message(job->context,
            "%s block %d: %lld expert(s) saw no calibration token and were "
            "rounded to nearest: %s%s",
            b->stack == QMI_ENCODER ? "encoder" : "decoder", (int)b->block,
            (long long)count, list, at + 24 < sizeof list ? "" : ", ...");
}

static qmoe_status put_block(
    qmi_job *job, text *t, int64_t number, const qmi_sparse_block *b)
{
    int64_t n = 0;
    char line[160];
    const qmi_journal_expert *experts =
        qmi_journal_block(job->journal, number, &n);
    add_block(job, b, experts, n);
    name_rounded(job, b, experts, n);
    int length = snprintf(line, sizeof line,
        "%s  {\"stack\": \"%s\", \"block\": %d, \"experts\": [\n",
        number == 0 ? "" : ",\n",
        b->stack == QMI_ENCODER ? "encoder" : "decoder", (int)b->block);
    QMI_TRY(put(t, line, (size_t)length));
    for (int64_t e = 0; e < n; e++)
        QMI_TRY(put_expert(t, e, &experts[e], e + 1 == n));
    return put(t, "  ]}", 4);
}

static qmoe_status put_all(qmi_job *job, text *t)
{
    qmi_sparse_block block;
    QMI_TRY(put(t, "{\"blocks\": [\n", 13));
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &block); i++)
        QMI_TRY(put_block(job, t, i, &block));
    return put(t, "\n]}\n", 4);
}

qmoe_status qmi_job_write_report(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    text t = {.err = job->err};
    qmoe_status status = put_all(job, &t);
    if (status == QMOE_OK)
        status = qmi_output_write(
            &job->output, "qmoe_report.json", t.data, t.n, job->err);
    qmi_free(t.data);
    r->zeros /= (double)r->expert_weights;
    r->entropy_bits /= (double)r->expert_weights;
    r->mean_output_error /= (double)r->n_matrices;
    return status;
}
