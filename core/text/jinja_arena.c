/* SPDX-License-Identifier: Apache-2.0
 * In: requests of any size.  Out: pieces of chunks; the sum of the chunks never
 * exceeds the limit. */
#include "jinja_arena.h"

#include "alloc.h"

enum { CHUNK_BYTES = 64 * 1024, ALIGNMENT = 16 };

typedef struct qmi_jchunk {
    struct qmi_jchunk *before;
    size_t n_bytes;
    _Alignas(ALIGNMENT) char data[];
} qmi_jchunk;

static bool add_chunk(
    qmi_jarena *arena, size_t n_bytes, const char *file, qmi_error *err)
{
    if (n_bytes > arena->max_bytes - arena->n_bytes) {
        qmi_fail(err, QMOE_E_FORMAT,
            "%s: the template needs more than %zu MB of memory", file,
            arena->max_bytes / 1000000);
        return false;
    }
    qmi_jchunk *chunk =
        qmi_calloc(1, sizeof *chunk + n_bytes, "values of a template", err);
    if (chunk == NULL)
        return false;
    chunk->before = arena->last;
    chunk->n_bytes = n_bytes;
    arena->last = chunk;
    arena->used = 0;
    arena->n_bytes += n_bytes;
    return true;
}

void *qmi_jarena_take(qmi_jarena *arena, size_t count, size_t size,
    const char *file, qmi_error *err)
{
    uint64_t n_bytes = 0;
    /* What is too large for the limit is refused by add_chunk. */
    if (!qmi_mul_u64(count, size, &n_bytes) || n_bytes > SIZE_MAX / 2)
        n_bytes = SIZE_MAX / 2;
    size_t n = ((size_t)n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t chunk = n > CHUNK_BYTES ? n : CHUNK_BYTES;
    if ((arena->last == NULL || n > arena->last->n_bytes - arena->used) &&
        !add_chunk(arena, chunk, file, err))
        return NULL;
    void *block = arena->last->data + arena->used;
    arena->used += n;
    return block;
}

void qmi_jarena_release(qmi_jarena *arena)
{
    while (arena->last != NULL) {
        qmi_jchunk *before = arena->last->before;
        qmi_free(arena->last);
        arena->last = before;
    }
    arena->used = arena->n_bytes = 0;
}
