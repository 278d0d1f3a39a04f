/* SPDX-License-Identifier: Apache-2.0
 * In: ids and bytes from a tokenizer's file.  Out: a table from each to the
 * other.  Invariant: at most half of the slots are used, and a chain of used
 * slots is short, so that a search ends quickly whatever the tokens are. */
#include "vocabulary.h"

#include <string.h>

#include "alloc.h"
#include "hash.h"

/* Chance alone makes chains of some tens. */
enum { MAX_CHAIN = 1024 };

static bool is_token(
    const qmi_vocabulary *v, int32_t id, const char *bytes, size_t n)
{
    return v->places[id].n == n &&
           memcmp(v->bytes + v->places[id].start, bytes, n) == 0;
}

int32_t qmi_vocabulary_find(
    const qmi_vocabulary *v, const char *bytes, size_t n)
{
    if (v->n_slots == 0)
        return -1;
    const uint64_t hash = qmi_hash64(bytes, n);
    size_t at = (size_t)(hash >> 32) & (v->n_slots - 1);
    for (; v->slots[at].id != 0; at = (at + 1) & (v->n_slots - 1))
        if (v->slots[at].hash == (uint32_t)hash &&
            is_token(v, v->slots[at].id - 1, bytes, n))
            return v->slots[at].id - 1;
    return -1;
}

/* False: too many tokens want the same slots. */
static bool insert(qmi_vocabulary *v, uint64_t hash, int32_t id)
{
    size_t at = (size_t)(hash >> 32) & (v->n_slots - 1);
    for (int i = 0; i < MAX_CHAIN; i++, at = (at + 1) & (v->n_slots - 1)) {
        if (v->slots[at].id != 0)
            continue;
        v->slots[at].hash = (uint32_t)hash;
        v->slots[at].id = id + 1;
        v->n_used++;
        return true;
    }
    return false;
}

static qmoe_status fail_collisions(qmi_error *err)
{
    return qmi_fail(
        err, QMOE_E_FORMAT, "more than %d tokens collide", (int)MAX_CHAIN);
}

static qmoe_status grow_slots(qmi_vocabulary *v, qmi_error *err)
{
    const size_t n = v->n_slots == 0 ? 1024 : 2 * v->n_slots;
    struct qmi_token_slot *old = v->slots;
    const size_t n_old = v->n_slots;
    bool good = true;
    v->slots = qmi_calloc(n, sizeof *v->slots, "a vocabulary", err);
    if (v->slots == NULL) {
        v->slots = old;
        return QMOE_E_NOMEM;
    }
    v->n_slots = n;
    v->n_used = 0;
    for (size_t i = 0; i < n_old && good; i++) {
        if (old[i].id == 0)
            continue;
        const struct qmi_token_place *place = &v->places[old[i].id - 1];
        good = insert(
            v, qmi_hash64(v->bytes + place->start, place->n), old[i].id - 1);
    }
    qmi_free(old);
    return good ? QMOE_OK : fail_collisions(err);
}

/* Room for the id and for n more bytes. */
static qmoe_status reserve(
    qmi_vocabulary *v, int32_t id, size_t n, qmi_error *err)
{
    if (id >= v->capacity) {
        const int32_t capacity =
            id < QMI_MAX_TOKENS / 2 ? 2 * id + 256 : QMI_MAX_TOKENS;
        void *grown = qmi_regrow(v->places, (size_t)v->capacity,
            (size_t)capacity, sizeof *v->places, "a vocabulary", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        v->places = grown;
        v->capacity = capacity;
    }
    if (n > v->bytes_capacity - v->n_bytes) {
        const size_t capacity = 2 * v->bytes_capacity + n + 4096;
        char *grown =
            qmi_regrow(v->bytes, v->n_bytes, capacity, 1, "a vocabulary", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        v->bytes = grown;
        v->bytes_capacity = capacity;
    }
    if (2 * v->n_used >= v->n_slots)
        return grow_slots(v, err);
    return QMOE_OK;
}

qmoe_status qmi_vocabulary_put(qmi_vocabulary *v, int64_t id, const char *bytes,
    size_t n, bool find, qmi_error *err)
{
    if (id < 0 || id >= QMI_MAX_TOKENS)
        return qmi_fail(err, QMOE_E_FORMAT,
            "token id %lld is not between 0 and %d", (long long)id,
            QMI_MAX_TOKENS - 1);
    if (n == 0 || n > QMI_MAX_TOKEN_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "token %lld has %zu bytes, not 1 to %d", (long long)id, n,
            (int)QMI_MAX_TOKEN_BYTES);
    if (n > UINT32_MAX - v->n_bytes)
        return qmi_fail(err, QMOE_E_FORMAT, "tokens of more than 4 GiB");
    QMI_TRY(reserve(v, (int32_t)id, n, err));
    if (v->places[id].n != 0)
        return qmi_fail(
            err, QMOE_E_FORMAT, "two tokens have the id %lld", (long long)id);
    v->places[id] = (struct qmi_token_place){
        .start = (uint32_t)v->n_bytes, .n = (uint32_t)n};
    memcpy(v->bytes + v->n_bytes, bytes, n);
    v->n_bytes += n;
    if (id >= v->size)
        v->size = (int32_t)id + 1;
    if (find && qmi_vocabulary_find(v, bytes, n) < 0 &&
        !insert(v, qmi_hash64(bytes, n), (int32_t)id))
        return fail_collisions(err);
    return QMOE_OK;
}

const char *qmi_vocabulary_bytes(const qmi_vocabulary *v, int32_t id, size_t *n)
{
    *n = v->places[id].n;
    return v->bytes + v->places[id].start;
}

void qmi_vocabulary_free(qmi_vocabulary *v)
{
    qmi_free(v->places);
    qmi_free(v->bytes);
    qmi_free(v->slots);
    *v = (qmi_vocabulary){0};
}
