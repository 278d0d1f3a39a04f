/* SPDX-License-Identifier: Apache-2.0
 * Runs one variant on one problem: places all operands between guards in one
 * poisoned buffer, runs, reads everything back and judges every byte. */
#include "check.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Bytes before and after every operand; the end of the buffer has more, for
 * kernels that run over by whole tiles. */
enum { GUARD_BYTES = 256, END_GUARD_BYTES = 4096 };

/* All ones is a NaN: an output left alone or accumulated into shows.  The
 * second poison is a tiny number: a result that hides behind NaN rules shows,
 * and so does one that depends on what was there. */
static const int poisons[N_PASSES] = {0xff, 0x2a};
static const int thread_counts[N_PASSES] = {1, 3};

/* ---- verdicts ---- */

static const char *const check_texts[CHECK_COUNT] = {
#define X(name, text) text,
    CHECK_MAP(X)
#undef X
};

void verdict_fail(verdict *v, unsigned check, const char *format, ...)
{
    if (v->failed & check)
        return;
    char detail[320];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    char name[64];
    check_names(name, sizeof name, check);
    size_t used = strlen(v->text);
    snprintf(v->text + used, sizeof v->text - used, "%s%s: %s",
        used != 0 ? "; " : "", name, detail);
    v->failed |= check;
}

void check_names(char *text, size_t capacity, unsigned failed)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < CHECK_COUNT; i++) {
        if (!(failed >> i & 1) || used >= capacity)
            continue;
        int n = snprintf(text + used, capacity - used, "%s%s",
            used != 0 ? ", " : "", check_texts[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

/* ---- placement ---- */

static size_t operand_size(const operand *o)
{
    return (size_t)(o->n_rows * o->n_cols) * 4;
}

/* Offsets: 64-byte aligned in the first pass, only 4-byte aligned (as ops.h
 * promises) and different for every operand in the second. */
static void lay_out(placement *pl, const problem *p, int pass)
{
    size_t at = 0;
    for (size_t i = 0; i < p->n_operands; i++) {
        at = (at + GUARD_BYTES + 63) / 64 * 64;
        pl->at[i] = at + (pass != 0 ? 4 * (i * 5 % 15 + 1) : 0);
        at = pl->at[i] + operand_size(&p->operands[i]);
    }
    pl->n_bytes = at + END_GUARD_BYTES;
}

static void fill(placement *pl, const problem *p, int pass)
{
    memset(pl->before, poisons[pass], pl->n_bytes);
    for (size_t i = 0; i < p->n_operands; i++) {
        const operand *o = &p->operands[i];
        if (o->data.bytes != NULL)
            memcpy(pl->before + pl->at[i], o->data.bytes, operand_size(o));
    }
}

static void set_view(qmi_op *op, int64_t place, qmi_view view)
{
    if (place != NO_VIEW)
        memcpy((char *)op + place, &view, sizeof view);
}

qmoe_status placement_open(placement *out, const qmi_backend *backend,
    qmi_device *device, const problem *p, gen_weight *const *weights, int pass,
    qmi_error *err)
{
    *out = (placement){.backend = backend, .device = device, .op = p->body};
    lay_out(out, p, pass);
    out->before = check_calloc(out->n_bytes, 1);
    fill(out, p, pass);
    QMI_TRY(backend->buffer_alloc(&out->buffer, device, out->n_bytes, err));
    for (size_t i = 0; i < p->n_operands; i++) {
        const qmi_view view = {out->buffer, out->at[i]};
        set_view(&out->op, p->operands[i].view_at[0], view);
        set_view(&out->op, p->operands[i].view_at[1], view);
    }
    for (size_t i = 0; i < p->n_weights; i++) {
        const gen_weight *w = weights != NULL ? weights[i] : p->weights[i];
        const qmi_bound_weight *bound = &out->weights[i];
        QMI_TRY(backend->weight_bind(&out->weights[i], device, &w->host, err));
        out->n_weights++;
        memcpy((char *)&out->op + p->weight_at[i], &bound, sizeof bound);
    }
    return QMOE_OK;
}

qmoe_status placement_write(placement *pl, qmi_error *err)
{
    const qmi_view whole = {pl->buffer, 0};
    return pl->backend->buffer_write(
        pl->device, whole, pl->before, pl->n_bytes, err);
}

void placement_close(placement *pl)
{
    for (size_t i = 0; i < pl->n_weights; i++)
        pl->backend->weight_unbind(pl->device, &pl->weights[i]);
    if (pl->buffer != NULL)
        pl->backend->buffer_free(pl->device, pl->buffer);
    free(pl->before);
    *pl = (placement){0};
}

/* ---- judging one pass ---- */

/* First byte in [begin, end) that differs; `end` if none. */
static size_t first_difference(
    const uint8_t *a, const uint8_t *b, size_t begin, size_t end)
{
    while (begin < end && a[begin] == b[begin])
        begin++;
    return begin;
}

static void judge_guard(const placement *pl, const problem *p,
    const uint8_t *after, size_t next, size_t begin, size_t end, verdict *v)
{
    size_t i = first_difference(pl->before, after, begin, end);
    if (i == end)
        return;
    if (next > 0 && i - begin < GUARD_BYTES)
        verdict_fail(v, CHECK_GUARD, "byte %zu after the end of %s written",
            i - begin, p->operands[next - 1].name);
    else
        verdict_fail(v, CHECK_GUARD, "byte %zu before %s written", end - i,
            next < p->n_operands ? p->operands[next].name : "the end");
}

static void judge_bytes(
    const placement *pl, const problem *p, const uint8_t *after, verdict *v)
{
    size_t end = 0;
    for (size_t i = 0; i < p->n_operands; i++) {
        const operand *o = &p->operands[i];
        judge_guard(pl, p, after, i, end, pl->at[i], v);
        end = pl->at[i] + operand_size(o);
        if (o->is_output)
            continue;
        size_t at = first_difference(pl->before, after, pl->at[i], end);
        if (at != end)
            verdict_fail(v, CHECK_INPUT, "%s modified at byte %zu", o->name,
                at - pl->at[i]);
    }
    judge_guard(pl, p, after, p->n_operands, end, pl->n_bytes, v);
    for (size_t i = 0; i < p->n_weights; i++)
        if (weight_hash(p->weights[i]) != p->weight_hash[i])
            verdict_fail(v, CHECK_INPUT, "the weight's host data modified");
}

bool value_in_bound(float got, float want, double bound)
{
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got))
        return want == got;
    return fabs((double)got - (double)want) <= bound;
}

void note_error(verdict *v, float got, float want, double bound)
{
    double share = fabs((double)got - (double)want) / bound;
    if (isfinite(got) && isfinite(want) && share > v->worst)
        v->worst = share;
}

/* Bits, as conversions and copies must keep them; NaN payloads may change. */
static bool same_bits(float got, float want)
{
    return memcmp(&got, &want, sizeof got) == 0 || (isnan(got) && isnan(want));
}

void judge_operand(const operand *o, const void *got, verdict *v)
{
    int64_t n = o->n_rows * o->n_cols, n_bad = 0, first = 0;
    for (int64_t i = 0; i < n; i++) {
        bool good;
        if (o->is_integer)
            good = ((const int32_t *)got)[i] == o->want.ints[i];
        else if (o->bound == NULL)
            good = same_bits(((const float *)got)[i], o->want.floats[i]);
        else
            good = value_in_bound(
                ((const float *)got)[i], o->want.floats[i], o->bound[i]);
        if (o->bound != NULL)
            note_error(
                v, ((const float *)got)[i], o->want.floats[i], o->bound[i]);
        if (!good && n_bad++ == 0)
            first = i;
    }
    if (n_bad == 0)
        return;
    int64_t row = first / o->n_cols, col = first % o->n_cols;
    if (o->is_integer)
        verdict_fail(v, CHECK_VALUE,
            "%s[%" PRId64 ", %" PRId64 "] is %" PRId32 ", must be %" PRId32
            " (%" PRId64 " of %" PRId64 " elements wrong)",
            o->name, row, col, ((const int32_t *)got)[first],
            o->want.ints[first], n_bad, n);
    else
        verdict_fail(v, CHECK_VALUE,
            "%s[%" PRId64 ", %" PRId64 "] is %.9g, must be %.9g within %.3g "
            "(%" PRId64 " of %" PRId64 " elements wrong)",
            o->name, row, col, (double)((const float *)got)[first],
            (double)o->want.floats[first],
            o->bound != NULL ? o->bound[first] : 0.0, n_bad, n);
}

static void judge_values(
    const placement *pl, const problem *p, const uint8_t *after, verdict *v)
{
    /* Copies: `after` keeps the device's odd alignment. */
    void *got[MAX_OPERANDS] = {0};
    for (size_t i = 0; i < p->n_operands; i++) {
        size_t size = operand_size(&p->operands[i]);
        got[i] = check_calloc(size, 1);
        memcpy(got[i], after + pl->at[i], size);
    }
    if (p->op->judge != NULL)
        p->op->judge(p, (const void *const *)got, v);
    else
        for (size_t i = 0; i < p->n_operands; i++)
            if (p->operands[i].is_output)
                judge_operand(&p->operands[i], got[i], v);
    for (size_t i = 0; i < p->n_operands; i++)
        free(got[i]);
}

/* ---- passes ---- */

typedef struct pass_result {
    placement at;
    uint8_t *after; /* NULL: did not get that far */
    bool ran;       /* every status was OK */
} pass_result;

static const qmi_variant *find_variant(
    const qmi_backend *backend, qmi_device *device, qmi_op_kind kind, size_t i)
{
    size_t n = 0;
    const qmi_variant *variants = backend->variants(device, kind, &n);
    return i < n ? &variants[i] : NULL;
}

static qmoe_status run_and_read(pass_result *r, const qmi_variant *variant,
    const char **step, qmi_error *err)
{
    placement *pl = &r->at;
    *step = "write";
    QMI_TRY(placement_write(pl, err));
    *step = "run";
    qmoe_status status = variant->run(pl->device, &pl->op, err);
    if (status == QMOE_OK) {
        *step = "sync";
        status = pl->backend->sync(pl->device, err);
    }
    r->ran = status == QMOE_OK;
    r->after = check_calloc(pl->n_bytes, 1);
    const qmi_view whole = {pl->buffer, 0};
    qmoe_status read_status = pl->backend->buffer_read(
        pl->device, r->after, whole, pl->n_bytes, r->ran ? err : NULL);
    if (read_status == QMOE_OK)
        return status;
    *step = r->ran ? "read" : *step;
    free(r->after);
    r->after = NULL;
    r->ran = false;
    return status != QMOE_OK ? status : read_status;
}

/* Broken weights may be refused when bound, run or synced. */
static void judge_refusal(qmoe_status status, const qmi_error *err, verdict *v)
{
    if (status == QMOE_OK)
        verdict_fail(v, CHECK_STATUS, "a broken weight is not refused");
    else if (status != QMOE_E_FORMAT)
        verdict_fail(v, CHECK_STATUS, "a broken weight gives %s (%s)",
            qmoe_status_name(status), err->text);
}

/* A backend that reads a weight when it is bound must see it for the first
 * time: what was whole when the case was made may have been broken since. */
static qmoe_status place_unchecked(placement *out, const qmi_backend *backend,
    qmi_device *device, const problem *p, int pass, qmi_error *err)
{
    for (size_t i = 0; i < p->n_weights; i++)
        weight_forget_checks(p->weights[i]);
    return placement_open(out, backend, device, p, NULL, pass, err);
}

/* Bounds are made for one way to take inputs, and take long: for variants that
 * support the case alone. */
static void fit_bounds(
    problem *p, const qmi_backend *backend, const qmi_variant *variant)
{
    const qmi_inputs inputs = qmi_inputs_of(backend, variant);
    if (inputs == p->inputs)
        return;
    p->inputs = inputs;
    if (p->op->bound != NULL && !p->c->corrupt)
        p->op->bound(p);
}

static void run_pass(pass_result *r, verdict *v, problem *p,
    const qmi_backend *backend, qmi_device *device, size_t i_variant, int pass)
{
    qmi_error err = {0};
    const char *step = "place";
    qmoe_status status =
        place_unchecked(&r->at, backend, device, p, pass, &err);
    if (status == QMOE_E_UNSUPPORTED) {
        v->skipped = true;
        return;
    }
    if (status == QMOE_OK) {
        const qmi_variant *variant =
            find_variant(backend, device, p->body.kind, i_variant);
        if (variant == NULL) {
            verdict_fail(v, CHECK_STATUS, "variant gone in pass %d", pass + 1);
            return;
        }
        if (!variant->supports(device, &r->at.op)) {
            v->skipped = true;
            return;
        }
        fit_bounds(p, backend, variant);
        status = run_and_read(r, variant, &step, &err);
    }
    if (p->c->corrupt)
        judge_refusal(status, &err, v);
    else if (status != QMOE_OK)
        verdict_fail(v, CHECK_STATUS, "pass %d, %s: %s (%s)", pass + 1, step,
            qmoe_status_name(status), err.text);
    if (r->after != NULL)
        judge_bytes(&r->at, p, r->after, v);
    r->ran = r->ran && !p->c->corrupt;
    if (r->ran)
        judge_values(&r->at, p, r->after, v);
}

static void pass_free(pass_result *r)
{
    if (r->at.backend != NULL)
        placement_close(&r->at);
    free(r->after);
}

/* Outputs of both passes, bit by bit. */
static void judge_repeat(const pass_result *r, const problem *p, verdict *v)
{
    for (size_t i = 0; i < p->n_operands; i++) {
        const operand *o = &p->operands[i];
        const uint8_t *a = r[0].after + r[0].at.at[i];
        const uint8_t *b = r[1].after + r[1].at.at[i];
        if (!o->is_output || memcmp(a, b, operand_size(o)) == 0)
            continue;
        size_t at = first_difference(a, b, 0, operand_size(o)) / 4;
        verdict_fail(v, CHECK_REPEAT,
            "%s[%" PRId64 ", %" PRId64 "] is 0x%08" PRIx32
            " in pass 1, 0x%08" PRIx32 " in pass 2",
            o->name, (int64_t)at / o->n_cols, (int64_t)at % o->n_cols,
            qmi_load_u32(a + 4 * at), qmi_load_u32(b + 4 * at));
    }
}

void check_run(verdict *v, problem *p, const target *t, size_t variant)
{
    pass_result r[N_PASSES] = {0};
    *v = (verdict){0};
    for (int pass = 0; pass < N_PASSES && !v->skipped; pass++)
        run_pass(&r[pass], v, p, t->backend, t->devices[pass], variant, pass);
    if (!v->skipped && r[0].ran && r[1].ran)
        judge_repeat(r, p, v);
    for (int pass = 0; pass < N_PASSES; pass++)
        pass_free(&r[pass]);
}

bool check_supported(const problem *p, const target *t, size_t variant)
{
    placement pl;
    qmi_error err = {0};
    const qmoe_status status =
        place_unchecked(&pl, t->backend, t->devices[0], p, 0, &err);
    /* What is refused for another reason runs, and that is judged. */
    bool supported = status != QMOE_E_UNSUPPORTED;
    if (status == QMOE_OK) {
        const qmi_variant *way =
            find_variant(t->backend, t->devices[0], p->body.kind, variant);
        supported = way != NULL && way->supports(t->devices[0], &pl.op);
    }
    placement_close(&pl);
    return supported;
}

bool check_bindable(const problem *p, const target *t)
{
    placement pl;
    qmi_error err = {0};
    const qmoe_status status =
        place_unchecked(&pl, t->backend, t->devices[0], p, 0, &err);
    placement_close(&pl);
    return status != QMOE_E_UNSUPPORTED;
}

/* ---- targets ---- */

qmoe_status target_open(
    target *out, const qmi_backend *backend, int index, qmi_error *err)
{
    *out = (target){.backend = backend};
    for (int pass = 0; pass < N_PASSES; pass++) {
        const qmi_device_options options = {.n_threads = thread_counts[pass]};
        qmoe_status status =
            backend->device_open(&out->devices[pass], index, &options, err);
        if (status != QMOE_OK) {
            target_close(out);
            return status;
        }
    }
    return QMOE_OK;
}

void target_close(target *t)
{
    for (int pass = 0; pass < N_PASSES; pass++)
        if (t->devices[pass] != NULL)
            t->backend->device_close(t->devices[pass]);
    *t = (target){0};
}

/* ---- the reference's answer ---- */

/* A reference that fails its own guards is no reference. */
static qmoe_status solve(problem *p, qmi_error *err)
{
    const qmi_backend *reference = qmi_backend_reference();
    target t;
    QMI_TRY(target_open(&t, reference, 0, err));
    pass_result r = {0};
    const char *step = "";
    qmoe_status status =
        placement_open(&r.at, reference, t.devices[0], p, NULL, 0, err);
    const qmi_variant *variant =
        find_variant(reference, t.devices[0], p->body.kind, 0);
    if (status == QMOE_OK)
        status = run_and_read(&r, variant, &step, err);
    if (status == QMOE_OK) {
        verdict v = {0};
        judge_bytes(&r.at, p, r.after, &v);
        if (v.failed != 0)
            status = qmi_fail(err, QMOE_E_INTERNAL, "reference: %s", v.text);
    }
    for (size_t i = 0; i < p->n_operands && status == QMOE_OK; i++) {
        operand *o = &p->operands[i];
        if (!o->is_output)
            continue;
        o->want.bytes = check_calloc(operand_size(o), 1);
        memcpy(o->want.bytes, r.after + r.at.at[i], operand_size(o));
    }
    pass_free(&r);
    target_close(&t);
    return status;
}

qmoe_status problem_create(problem **out, qmi_op_kind kind, const check_case *c,
    uint64_t seed, qmi_error *err)
{
    problem *p = check_calloc(1, sizeof *p);
    rng r = rng_of(c->name, seed);
    *out = NULL;
    p->op = check_op_of(kind);
    p->c = c;
    p->body.kind = kind;
    qmoe_status status = p->op->build(p, &r, err);
    if (status == QMOE_OK && !c->corrupt)
        status = solve(p, err);
    if (status != QMOE_OK) {
        problem_destroy(p);
        return status;
    }
    if (p->op->bound != NULL && !c->corrupt)
        p->op->bound(p);
    *out = p;
    return QMOE_OK;
}
