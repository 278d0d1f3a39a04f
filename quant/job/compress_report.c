/* SPDX-License-Identifier: Apache-2.0
 * In: the finished job's journal.  Out: every matrix and the totals in
 * "qmoe_report.json" (docs/report.md), and the result part of the caller's
 * report.  Experts that an earlier process finished are in the journal like all
 * others, so a resumed run writes the same file.  What is not known is NaN in
 * memory and null in the file, never 0. */
#include "compress_job.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digest.h"
#include "expert_names.h"
#include "text.h"

/* Sums over matrices.  Errors are averaged over matrices, each with the same
 * say; bits, zeros and entropy over weights. */
typedef struct totals {
    uint64_t n_matrices, n_weights, n_bytes, n_zeros;
    int64_t n_tokens, n_counted;
    double input_error, weight_error; /* of the matrices where they are known */
    uint64_t n_input_errors, n_weight_errors;
    double entropy_bits; /* of all weights */
    bool has_entropy;    /* of every matrix */
    uint64_t n_without_tokens, n_singular;
} totals;

/* One matrix, NaN where nothing is known. */
typedef struct matrix {
    double input_error, weight_error, entropy_bits;
    uint64_t n_weights, n_bytes, n_zeros;
    int64_t n_tokens, n_counted, n_borrowed;
    const char *fallback; /* NULL: none */
} matrix;

/* ---- JSON ---- */

/* JSON has no NaN. */
static void put_number(qmi_text *t, const char *key, double value)
{
    char text[32] = "null";
    if (isfinite(value))
        snprintf(text, sizeof text, "%.9g", value);
    qmi_text_string(t, key);
    qmi_text_string(t, ": ");
    qmi_text_string(t, text);
}

static void put_count(qmi_text *t, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, ": %" PRId64, value);
    qmi_text_string(t, key);
    qmi_text_string(t, text);
}

static void put_count_if(
    qmi_text *t, const char *key, bool known, int64_t value)
{
    if (known)
        put_count(t, key, value);
    else
        put_number(t, key, NAN);
}

static void put_string(qmi_text *t, const char *key, const char *value)
{
    qmi_text_string(t, key);
    qmi_text_string(t, value != NULL ? ": \"" : ": null");
    if (value == NULL)
        return;
    qmi_text_json(t, value);
    qmi_text_string(t, "\"");
}

/* NaN where there is nothing to divide by: a mean of no matrix is not 0. */
static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : NAN;
}

/* ---- matrices ---- */

/* What a matrix adds to its stack.  Offsets have one entry more than there are
 * matrices, which is the stack's. */
static uint64_t matrix_bytes(
    const qmi_format *format, const qmi_weight *w, uint64_t length)
{
    uint64_t n = qmi_stack_size(format, 1, w->n_rows, w->n_cols, 0) -
                 qmi_stack_size(format, 0, w->n_rows, w->n_cols, 0);
    if (format->variable)
        n += length *
             qmi_dtype_bits(format->parts[format->variable_part].dtype) / 8;
    return n;
}

/* Why a matrix was rounded although its method is calibrated; NULL: it was
 * not. */
static const char *fallback(
    const qmi_quantiser *quantiser, const qmi_quant_result *q, int64_t n_summed)
{
    if (!quantiser->needs_hessian)
        return NULL;
    if (n_summed == 0)
        return "no tokens";
    return q->fell_back ? "singular" : NULL;
}

static matrix describe(const qmi_stack_recipe *recipe, const qmi_weight *w,
    const qmi_journal_expert *e, int kind)
{
    const qmi_quant_result *q = &e->quality[kind];
    const qmi_format *format = recipe->quantiser->format;
    /* NaN decides here what put_number writes as null. */
    return (matrix){
        .input_error = q->on_inputs ? ratio(q->error, q->energy) : NAN,
        .weight_error = ratio(q->weight_error, q->weight_energy),
        .entropy_bits = format->ternary ? q->entropy_bits : NAN,
        .n_weights = (uint64_t)w->n_rows * (uint64_t)w->n_cols,
        .n_bytes = matrix_bytes(format, w, e->length[kind]),
        .n_zeros = q->n_zeros,
        .n_tokens = e->n_tokens,
        .n_counted = e->n_counted,
        .n_borrowed = e->n_borrowed[kind],
        .fallback =
            fallback(recipe->quantiser, q, e->n_counted + e->n_borrowed[kind]),
    };
}

static void put_size(qmi_text *t, const matrix *m)
{
    put_count(t, ", \"bytes\"", (int64_t)m->n_bytes);
    put_number(t, ", \"bits_per_weight\"",
        ratio(8 * (double)m->n_bytes, (double)m->n_weights));
}

static void put_matrix(const qmi_job *job, qmi_text *t, const qmi_weight *w,
    int64_t expert, const matrix *m)
{
    char name[512], tensor[sizeof name + 8];
    qmi_expert_name(name, sizeof name, w, expert);
    snprintf(tensor, sizeof tensor, "%s.weight", name);
    put_string(t, "    {\"name\"", tensor);
    put_count_if(t, ", \"tokens\"", job->calibrated, m->n_tokens);
    put_count_if(t, ", \"counted\"", job->calibrated, m->n_counted);
    if (job->calibrated && job->borrows)
        put_count(t, ", \"borrowed\"", m->n_borrowed);
    put_size(t, m);
    put_number(t, ", \"input_error\"", m->input_error);
    put_number(t, ", \"weight_error\"", m->weight_error);
    put_number(
        t, ", \"zeros\"", ratio((double)m->n_zeros, (double)m->n_weights));
    put_number(t, ", \"entropy\"", m->entropy_bits);
    put_string(t, ", \"fallback\"", m->fallback);
    qmi_text_string(t, "}");
}

/* ---- totals ---- */

/* Entropy is summed for all matrices or for none: a mean over some would look
 * like one over all. */
static void add_matrix(totals *sum, const matrix *m)
{
    sum->has_entropy =
        isfinite(m->entropy_bits) && (sum->n_matrices == 0 || sum->has_entropy);
    if (isfinite(m->entropy_bits))
        sum->entropy_bits += m->entropy_bits * (double)m->n_weights;
    if (isfinite(m->input_error)) {
        sum->input_error += m->input_error;
        sum->n_input_errors++;
    }
    if (isfinite(m->weight_error)) {
        sum->weight_error += m->weight_error;
        sum->n_weight_errors++;
    }
    sum->n_matrices++;
    sum->n_weights += m->n_weights;
    sum->n_bytes += m->n_bytes;
    sum->n_zeros += m->n_zeros;
    sum->n_tokens += m->n_tokens;
    sum->n_counted += m->n_counted;
    const bool none = m->n_counted + m->n_borrowed == 0;
    sum->n_without_tokens += m->fallback != NULL && none;
    sum->n_singular += m->fallback != NULL && !none;
}

/* The same rules for stacks. */
static void add_totals(totals *sum, const totals *part)
{
    sum->has_entropy =
        part->has_entropy && (sum->n_matrices == 0 || sum->has_entropy);
    sum->entropy_bits += part->entropy_bits;
    sum->input_error += part->input_error;
    sum->n_input_errors += part->n_input_errors;
    sum->weight_error += part->weight_error;
    sum->n_weight_errors += part->n_weight_errors;
    sum->n_matrices += part->n_matrices;
    sum->n_weights += part->n_weights;
    sum->n_bytes += part->n_bytes;
    sum->n_zeros += part->n_zeros;
    sum->n_tokens += part->n_tokens;
    sum->n_counted += part->n_counted;
    sum->n_without_tokens += part->n_without_tokens;
    sum->n_singular += part->n_singular;
}

static double mean_input_error(const totals *s)
{
    return ratio(s->input_error, (double)s->n_input_errors);
}

static double mean_weight_error(const totals *s)
{
    return ratio(s->weight_error, (double)s->n_weight_errors);
}

static double mean_entropy(const totals *s)
{
    return s->has_entropy ? ratio(s->entropy_bits, (double)s->n_weights) : NAN;
}

static void put_totals(const qmi_job *job, qmi_text *t, const totals *s)
{
    put_count(t, "{\"matrices\"", (int64_t)s->n_matrices);
    put_count(t, ", \"weights\"", (int64_t)s->n_weights);
    put_count(t, ", \"bytes\"", (int64_t)s->n_bytes);
    put_number(t, ", \"bits_per_weight\"",
        ratio(8 * (double)s->n_bytes, (double)s->n_weights));
    put_count_if(t, ", \"tokens\"", job->calibrated, s->n_tokens);
    put_count_if(t, ", \"counted\"", job->calibrated, s->n_counted);
    put_number(t, ", \"input_error\"", mean_input_error(s));
    put_number(t, ", \"weight_error\"", mean_weight_error(s));
    put_number(
        t, ", \"zeros\"", ratio((double)s->n_zeros, (double)s->n_weights));
    put_number(t, ", \"entropy\"", mean_entropy(s));
    put_count(t, ", \"without_tokens\"", (int64_t)s->n_without_tokens);
    put_count(t, ", \"singular\"", (int64_t)s->n_singular);
    qmi_text_string(t, "}");
}

/* ---- kinds ---- */

/* By name, since blocks may have different ones. */
static qmoe_kind_report *kind_of(qmoe_compress_report *r, const char *name)
{
    int i = 0;
    while (i < r->n_kinds && strcmp(r->kinds[i].name, name) != 0)
        i++;
    if (i == QMOE_MAX_KINDS)
        return NULL;
    if (i == r->n_kinds)
        snprintf(
            r->kinds[r->n_kinds++].name, sizeof r->kinds[i].name, "%s", name);
    return &r->kinds[i];
}

/* Errors are sums until finish_kinds. */
static void add_kind(
    qmoe_compress_report *r, const qmi_weight *stack, const totals *s)
{
    qmoe_kind_report *k = kind_of(r, qmi_expert_kind_name(stack));
    if (k == NULL)
        return;
    k->n_matrices += s->n_matrices;
    k->n_measured += s->n_input_errors;
    k->input_error += s->input_error;
    k->weight_error += s->weight_error;
}

static void finish_kinds(qmoe_compress_report *r)
{
    for (int i = 0; i < r->n_kinds; i++) {
        qmoe_kind_report *k = &r->kinds[i];
        k->input_error = ratio(k->input_error, (double)k->n_measured);
        k->weight_error = ratio(k->weight_error, (double)k->n_matrices);
    }
}

/* ---- stacks ---- */

/* With a bit budget the mean relative errors that were measured for either
 * format. */
static void put_measured(const qmi_job *job, qmi_text *t, int64_t number)
{
    if (job->choices == NULL) {
        put_string(t, ", \"measured\"", NULL);
        return;
    }
    const qmi_bits_choice *c = &job->choices[number];
    char key[64];
    for (int size = 0; size < QMI_N_SIZES; size++) {
        snprintf(key, sizeof key, "%s\"%s\"",
            size == 0 ? ", \"measured\": {" : ", ",
            qmi_job_candidate(job, size)->format->name);
        put_number(t, key, c->error[size]);
    }
    qmi_text_string(t, "}");
}

static void put_stack(const qmi_job *job, qmi_text *t, int64_t block_number,
    int kind, const qmi_sparse_block *b, totals *all)
{
    const qmi_weight *w = b->stacks.of[kind];
    const qmi_stack_recipe r = qmi_job_stack_recipe(job, b, kind);
    int64_t n = 0;
    const qmi_journal_expert *experts =
        qmi_journal_block(job->journal, block_number, &n);
    /* What is there without matrices. */
    totals sum = {.n_bytes = qmi_stack_size(
                      r.quantiser->format, 0, w->n_rows, w->n_cols, 0)};
    put_string(t, "  {\"name\"", w->name);
    put_string(t, ", \"format\"", r.quantiser->format->name);
    put_string(t, ", \"method\"", r.quantiser->method);
    put_count(t, ", \"rotation\"", r.quant.rotation);
    put_count(t, ", \"experts\"", w->n_mats);
    put_count(t, ", \"rows\"", w->n_rows);
    put_count(t, ", \"columns\"", w->n_cols);
    put_measured(job, t, b->first_stack + kind);
    qmi_text_string(t, ",\n   \"matrices\": [\n");
    for (int64_t e = 0; e < n; e++) {
        const matrix m = describe(&r, w, &experts[e], kind);
        add_matrix(&sum, &m);
        put_matrix(job, t, w, e, &m);
        qmi_text_string(t, e + 1 == n ? "\n" : ",\n");
    }
    qmi_text_string(t, "   ],\n   \"totals\": ");
    put_totals(job, t, &sum);
    qmi_text_string(t, "}");
    add_totals(all, &sum);
    add_kind(job->report, w, &sum);
}

/* ---- experts of few tokens ---- */

static bool is_rounded(const qmi_journal_expert *e)
{
    int64_t n = e->n_counted;
    for (int kind = 0; kind < e->n_kinds; kind++)
        n += e->n_borrowed[kind];
    return n == 0;
}

static bool has_borrowed(const qmi_journal_expert *e)
{
    return !is_rounded(e) &&
           (e->n_borrowed[QMI_EXPERT_UP] + e->n_borrowed[QMI_EXPERT_DOWN]) != 0;
}

/* "encoder block 1: 2 expert(s) <what>: 3, 7": those of a block that `is` is true
 * of; how many. */
static uint64_t name_experts(const qmi_job *job, const qmi_sparse_block *b,
    int64_t number, bool (*is)(const qmi_journal_expert *e), const char *what)
{
    /* Names as many as fit, so that a message stays one line; the count is
     * exact. */
    char list[256] = "";
    size_t at = 0;
    int64_t count = 0, n = 0;
    const qmi_journal_expert *experts =
        qmi_journal_block(job->journal, number, &n);
    for (int64_t e = 0; e < n; e++) {
        if (!is(&experts[e]))
            continue;
        count++;
        /* ", " and 20 characters of a number and the NUL need 23 bytes. */
        if (at + 24 < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%lld",
                at == 0 ? "" : ", ", (long long)e);
    }
    if (count != 0)
        qmi_message(&job->context->hooks,
            "%s block %d: %lld expert(s) %s: %s%s",
            qmi_program_name(b->block->program), (int)b->block->number,
            (long long)count, what, list, at + 24 < sizeof list ? "" : ", ...");
    return (uint64_t)count;
}

static void name_few(
    const qmi_job *job, const qmi_sparse_block *b, int64_t number)
{
    qmoe_compress_report *r = job->report;
    if (!job->calibrated)
        return;
    r->n_experts_without_tokens += name_experts(job, b, number, is_rounded,
        "got no calibration token and were rounded to nearest");
    r->n_experts_borrowing += name_experts(job, b, number, has_borrowed,
        "got fewer tokens than their matrices have columns and borrowed tokens "
        "of the block");
}

/* ---- matrices beside the experts ---- */

static matrix describe_dense(const qmi_job *job, size_t index)
{
    const qmi_weight *w = &job->model->weights[index];
    const qmi_quant_result *q = &job->dense[index].result;
    return (matrix){
        .input_error = q->on_inputs ? ratio(q->error, q->energy) : NAN,
        .weight_error = ratio(q->weight_error, q->weight_energy),
        .entropy_bits = NAN,
        .n_weights = (uint64_t)w->n_rows * (uint64_t)w->n_cols,
        .n_bytes = qmi_job_stack_bytes(
            qmi_dense_quantiser(&job->dense_choice, w)->format, w),
        .n_zeros = q->n_zeros,
    };
}

/* NULL: several. */
static const qmi_quantiser *only_quantiser(const qmi_dense_choice *choice)
{
    const qmi_quantiser *one = NULL;
    for (int role = 0; role < QMOE_ROLE_COUNT; role++) {
        const qmi_quantiser *q = choice->of[role];
        if (q != NULL && one != NULL && q != one)
            return NULL;
        one = q != NULL ? q : one;
    }
    return one;
}

/* Nothing without an option for them. */
static void put_dense(const qmi_job *job, qmi_text *t)
{
    totals all = {0};
    if (!qmi_dense_any(&job->dense_choice))
        return;
    const qmi_quantiser *one = only_quantiser(&job->dense_choice);
    put_string(
        t, ",\n\"dense\": {\"format\"", one != NULL ? one->format->name : NULL);
    put_string(t, ", \"method\"", one != NULL ? one->method : NULL);
    qmi_text_string(t, ",\n \"matrices\": [");
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        const qmi_quantiser *quantiser =
            qmi_dense_quantiser(&job->dense_choice, w);
        if (quantiser == NULL)
            continue;
        const matrix m = describe_dense(job, i);
        put_string(t, all.n_matrices == 0 ? "\n  {\"name\"" : ",\n  {\"name\"",
            w->name);
        put_string(t, ", \"role\"", qmoe_role_name(w->role));
        put_string(t, ", \"format\"", quantiser->format->name);
        put_string(t, ", \"method\"",
            job->dense[i].has_moments ? quantiser->method : "rtn");
        put_count(t, ", \"rows\"", w->n_rows);
        put_count(t, ", \"columns\"", w->n_cols);
        put_size(t, &m);
        put_number(t, ", \"input_error\"", m.input_error);
        put_number(t, ", \"weight_error\"", m.weight_error);
        put_number(
            t, ", \"zeros\"", ratio((double)m.n_zeros, (double)m.n_weights));
        qmi_text_string(t, "}");
        add_matrix(&all, &m);
    }
    qmi_text_string(t, "\n ],\n \"totals\": ");
    put_count(t, "{\"matrices\"", (int64_t)all.n_matrices);
    put_count(t, ", \"weights\"", (int64_t)all.n_weights);
    put_count(t, ", \"bytes\"", (int64_t)all.n_bytes);
    put_number(t, ", \"bits_per_weight\"",
        ratio(8 * (double)all.n_bytes, (double)all.n_weights));
    put_number(t, ", \"input_error\"", mean_input_error(&all));
    put_number(t, ", \"weight_error\"", mean_weight_error(&all));
    qmi_text_string(t, "}}");
    job->report->dense_bytes = all.n_bytes;
    job->report->dense_input_error = mean_input_error(&all);
    job->report->dense_weight_error = mean_weight_error(&all);
}

/* ---- all of it ---- */

static void put_all(const qmi_job *job, qmi_text *t, totals *all)
{
    qmi_sparse_block block;
    qmi_text_string(t, "{\"schema\": 1,\n");
    put_string(t, "\"version\"", qmoe_version());
    qmi_text_string(t,
        job->calibrated ? ", \"calibrated\": true" : ", \"calibrated\": false");
    put_number(t, ",\n\"bits_allowed\"",
        job->choices != NULL ? job->recipe.bits : NAN);
    qmi_text_string(t, ",\n\"stacks\": [\n");
    /* In execution order, which is the order of the journal's blocks. */
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &block); i++) {
        name_few(job, &block, i);
        for (int kind = 0; kind < block.stacks.n; kind++) {
            if (i + kind != 0)
                qmi_text_string(t, ",\n");
            put_stack(job, t, i, kind, &block, all);
        }
    }
    qmi_text_string(t, "\n],\n\"totals\": ");
    put_totals(job, t, all);
    put_dense(job, t);
    qmi_text_string(t, "}\n");
}

qmoe_status qmi_job_write_report(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    qmi_text t = {.err = job->err};
    /* The whole text is made in memory, since the manifest takes a whole
     * file. */
    totals all = {0};
    put_all(job, &t, &all);
    qmoe_status status =
        t.failed ? QMOE_E_NOMEM
                 : qmi_manifest_write_file(job->manifest, &job->output,
                       QMI_REPORT_NAME, t.data, t.n, job->err);
    free(t.data);
    r->zeros = ratio((double)all.n_zeros, (double)all.n_weights);
    r->entropy_bits = mean_entropy(&all);
    r->input_error = mean_input_error(&all);
    r->weight_error = mean_weight_error(&all);
    r->n_singular = all.n_singular;
    finish_kinds(r);
    return status;
}
