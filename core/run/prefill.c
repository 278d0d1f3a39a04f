/* SPDX-License-Identifier: Apache-2.0
 * Comes in: whole prompts.  Goes out: their last portions, when the caches have
 * all that comes before.  A sequence's portions have the same length but for
 * the last one, so a prompt is cut the same way however many others there
 * are of its batch. */
#include "prefill.h"

#include <string.h>

#include "alloc.h"

/* Tokens of a pass, at most; those of one sequence, at least. */
enum { MOST_TOKENS = 512, LEAST_PORTION = 32 };

static int32_t portion_of(size_t n)
{
    const size_t portion = MOST_TOKENS / n;
    return portion > LEAST_PORTION ? (int32_t)portion : LEAST_PORTION;
}

int64_t qmi_prefill_passes(const int32_t *lengths, size_t n)
{
    int64_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = lengths[i] > most ? lengths[i] : most;
    return 1 + (most - 1) / portion_of(n);
}

/* Work space of n sequences. */
typedef struct space {
    int64_t *at;                /* where the rest of a sequence's ids begins */
    int32_t *ids;               /* of a pass */
    int32_t *active, *portions; /* of a pass: sequences, tokens of each */
} space;

/* A portion of every sequence that has more; their number. */
static size_t next_batch(
    const space *s, const int32_t *ids, int32_t *lengths, size_t n)
{
    const int32_t portion = portion_of(n);
    size_t n_active = 0;
    for (size_t i = 0; i < n; i++) {
        if (lengths[i] <= portion)
            continue;
        memcpy(s->ids + n_active * (size_t)portion, ids + s->at[i],
            (size_t)portion * sizeof *ids);
        s->at[i] += portion;
        lengths[i] -= portion;
        s->active[n_active] = (int32_t)i;
        s->portions[n_active++] = portion;
    }
    return n_active;
}

static qmoe_status run(qmoe_session *session, const space *s, int32_t *ids,
    int32_t *lengths, size_t n, qmi_error *err)
{
    qmi_batch batch = {.ids = s->ids,
        .sequences = s->active,
        .lengths = s->portions,
        .rows = QMI_NO_ROWS};
    int64_t begin = 0, n_rows;
    for (size_t i = 0; i < n; begin += lengths[i++])
        s->at[i] = begin;
    while ((batch.n = next_batch(s, ids, lengths, n)) != 0)
        QMI_TRY(qmi_session_decode_pass(session, &n_rows, &batch, err));
    /* What is left moves to the front; nothing is overwritten before it has
     * moved. */
    for (size_t i = 0, to = 0; i < n; to += (size_t)lengths[i++])
        memmove(ids + to, ids + s->at[i], (size_t)lengths[i] * sizeof *ids);
    return QMOE_OK;
}

qmoe_status qmi_session_prefill(qmoe_session *session, int32_t *ids,
    int32_t *lengths, size_t n, qmi_error *err)
{
    static const char what[] = "portions of prompts";
    if (qmi_prefill_passes(lengths, n) == 1)
        return QMOE_OK;
    const space s = {
        .at = qmi_calloc(n, sizeof *s.at, what, err),
        .ids = qmi_calloc(n, (size_t)portion_of(n) * sizeof *ids, what, err),
        .active = qmi_calloc(n, sizeof *s.active, what, err),
        .portions = qmi_calloc(n, sizeof *s.portions, what, err),
    };
    qmoe_status status = QMOE_E_NOMEM;
    if (s.at != NULL && s.ids != NULL && s.active != NULL && s.portions != NULL)
        status = run(session, &s, ids, lengths, n, err);
    qmi_free(s.at);
    qmi_free(s.ids);
    qmi_free(s.active);
    qmi_free(s.portions);
    return status;
}
