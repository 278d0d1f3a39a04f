/* SPDX-License-Identifier: Apache-2.0
 * Totals of a finished job, and a line per expert in "qmoe_report.json". */
#include "compress_job.h"

#include <stdio.h>
#include <stdlib.h>

#include "digest.h"
#include "text.h"

static double relative(const qmi_quant_result *q)
{
    return q->energy > 0 ? q->error / q->energy : 0;
}

static void put_expert(
    qmi_text *t, int64_t expert, const qmi_journal_expert *e, bool last)
{
    char line[512];
    const qmi_quant_result *wi = &e->quality[QMI_WI];
    const qmi_quant_result *wo = &e->quality[QMI_WO];
    snprintf(line, sizeof line,
        "    {\"expert\": %lld, \"tokens\": %lld, \"counted\": %lld, "
        "\"wi_error\": %.6g, \"wo_error\": %.6g, \"rounded\": %s}%s\n",
        (long long)expert, (long long)e->n_tokens, (long long)e->n_counted,
        relative(wi), relative(wo),
        wi->fell_back || wo->fell_back ? "true" : "false", last ? "" : ",");
    qmi_text_string(t, line);
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

/* The formats of a block's stacks, and with a bit budget the sums of relative
 * errors that were measured for either. */
static void put_formats(
    qmi_job *job, qmi_text *t, int64_t number, const qmi_sparse_block *b)
{
    static const char *const kinds[QMI_N_KINDS] = {"wi", "wo"};
    char line[256];
    for (int kind = 0; kind < QMI_N_KINDS; kind++) {
        const qmi_stack_recipe r =
            qmi_job_stack_recipe(job, number, kind, b->stacks[kind]);
        snprintf(line, sizeof line,
            ",\n   \"%s\": {\"format\": \"%s\", \"rotation\": %d", kinds[kind],
            r.quantiser->format, (int)r.quant.rotation);
        qmi_text_string(t, line);
        if (job->choices != NULL) {
            const qmi_bits_choice *c =
                &job->choices[number * QMI_N_KINDS + kind];
            snprintf(line, sizeof line,
                ", \"measured\": {\"%s\": %.6g, \"%s\": %.6g}",
                qmi_job_candidate(job, QMI_SMALL)->format, c->error[QMI_SMALL],
                qmi_job_candidate(job, QMI_LARGE)->format, c->error[QMI_LARGE]);
            qmi_text_string(t, line);
        }
        qmi_text_string(t, "}");
    }
}

static void put_block(
    qmi_job *job, qmi_text *t, int64_t number, const qmi_sparse_block *b)
{
    int64_t n = 0;
    char line[160];
    const qmi_journal_expert *experts =
        qmi_journal_block(job->journal, number, &n);
    add_block(job, b, experts, n);
    name_rounded(job, b, experts, n);
    snprintf(line, sizeof line, "%s  {\"stack\": \"%s\", \"block\": %d",
        number == 0 ? "" : ",\n",
        b->stack == QMI_ENCODER ? "encoder" : "decoder", (int)b->block);
    qmi_text_string(t, line);
    put_formats(job, t, number, b);
    qmi_text_string(t, ",\n   \"experts\": [\n");
    for (int64_t e = 0; e < n; e++)
        put_expert(t, e, &experts[e], e + 1 == n);
    qmi_text_string(t, "  ]}");
}

static void put_all(qmi_job *job, qmi_text *t)
{
    const qmoe_compress_report *r = job->report;
    qmi_sparse_block block;
    char line[160];
    snprintf(line, sizeof line, "{\"bits_per_expert_weight\": %.6g,\n",
        8 * (double)r->expert_bytes / (double)r->expert_weights);
    qmi_text_string(t, line);
    if (job->choices != NULL) {
        snprintf(
            line, sizeof line, "\"bits_allowed\": %.6g,\n", job->recipe.bits);
        qmi_text_string(t, line);
    }
    qmi_text_string(t, "\"blocks\": [\n");
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &block); i++)
        put_block(job, t, i, &block);
    qmi_text_string(t, "\n]}\n");
}

qmoe_status qmi_job_write_report(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    qmi_text t = {.err = job->err};
    put_all(job, &t);
    qmoe_status status =
        t.failed ? QMOE_E_NOMEM
                 : qmi_manifest_write_file(job->manifest, &job->output,
                       QMI_REPORT_NAME, t.data, t.n, job->err);
    free(t.data);
    r->zeros /= (double)r->expert_weights;
    r->entropy_bits /= (double)r->expert_weights;
    r->mean_output_error /= (double)r->n_matrices;
    return status;
}
