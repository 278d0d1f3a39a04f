/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend: threads over tiles of rows, kernels per instruction
 * set, fused decode and multiply on compressed weights.  Results do not depend
 * on the number of threads: work is cut into tiles of fixed size, and each
 * output element is computed by one thread in one order. */
#ifndef QCPU_CPU_H
#define QCPU_CPU_H

#include <math.h>

#include "backend.h"
#include "expert_cache.h"
#include "read_ahead.h"
#include "team.h"

const qmi_backend *qmi_backend_cpu(void);

/* ---- inside the backend ---- */

struct qmi_device {
    int n_threads;
    bool exact_inputs; /* as in qmi_device_options */
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

static inline float qcpu_act(qmi_act act, float x)
{
    switch (act) {
    case QMI_ACT_RELU:
        return x < 0 ? 0 : x;
    case QMI_ACT_SILU:
        return x / (1 + expf(-x));
    case QMI_ACT_SIGMOID:
        return 1 / (1 + expf(-x));
    case QMI_ACT_NONE:
    case QMI_ACT_COUNT:
        break;
    }
    return x;
}

/* Tokens between two looks at the wish to end early: at most a few
 * milliseconds of work. */
enum { QCPU_LOOK_TOKENS = 256 };

/* A cheap task, a few operations on each of n_values, once per token: by the
 * team, or by the caller alone where waking others costs more than it saves.
 * Tokens must not depend on one another.  E_CANCELLED: some were left out. */
qmoe_status qcpu_each_token(qmi_device *device, int64_t n_tokens,
    int64_t n_values, qmi_task task, void *context, qmi_error *err);

/* dst[i] = act(x[i]); dst may be x.  The bits of a value depend on nothing but
 * the value and the machine. */
void qcpu_act_rows(float *dst, const float *x, int64_t n, qmi_act act);

/* Ways to run each operation, best first. */
#define X(name, member, text) const qmi_variant *qcpu_##member(size_t *n);
QMI_OP_MAP(X)
#undef X

#endif
