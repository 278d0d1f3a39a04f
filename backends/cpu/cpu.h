/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend: threads over tiles of rows, kernels per instruction
 * set, fused decode and multiply on compressed weights.  Results do not depend
 * on the number of threads: work is cut into tiles of fixed size, and each
 * output element is computed by one thread in one order. */
#ifndef QCPU_CPU_H
#define QCPU_CPU_H

#include "backend.h"
#include "expert_cache.h"
#include "read_ahead.h"
#include "team.h"

const qmi_backend *qmi_backend_cpu(void);

/* ---- inside the backend ---- */

struct qmi_device {
    int n_threads;
    qmi_team *team;
    /* Work space of the running operation; grows, never shrinks. */
    uint8_t *scratch;
    size_t scratch_bytes;
    qcpu_looks looks;
    qcpu_expert_cache *experts; /* NULL: no bound */
};

/* At least n_bytes of 64-byte aligned work space, valid until the next call;
 * contents undefined.  NULL and an E_NOMEM text on failure. */
void *qcpu_scratch(qmi_device *device, size_t n_bytes, qmi_error *err);

/* Rounds a work-space part up so that the next one stays 64-byte aligned. */
static inline size_t qcpu_align(size_t n_bytes)
{
    return (n_bytes + 63) / 64 * 64;
}

const qmi_variant *qcpu_embed(size_t *n);
const qmi_variant *qcpu_rmsnorm(size_t *n);
const qmi_variant *qcpu_linear(size_t *n);
const qmi_variant *qcpu_kv_store(size_t *n);
const qmi_variant *qcpu_attention(size_t *n);
const qmi_variant *qcpu_route(size_t *n);
const qmi_variant *qcpu_expert_ffn(size_t *n);
const qmi_variant *qcpu_decode(size_t *n);
const qmi_variant *qcpu_top_logits(size_t *n);

#endif
