/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: predict size, placement, compression time and speed of a model.
 * See qmoe/qmoe.h for the conventions. */
#ifndef QMOE_PLAN_H
#define QMOE_PLAN_H

#include "qmoe/qmoe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qmoe_plan_options {
    size_t size;
    /* Format the experts are to have; NULL = a compressed model's own, else
     * "pvq", as qmoe_compress.  "bf16", "f16", "f32" are allowed too. */
    const char *format;
    /* Bits per expert weight, everything counted.  Without a format the budget
     * of qmoe_compress_options.bits: a mixture of pvq and pvq8, "mixed" in the
     * report.  With format "ternary-dict" the rate to assume; 0 = the expected one
     * of independent weights of which 88.5 % are zero (docs/publish.md).  Other
     * formats have a fixed size. */
    double bits;
    const uint64_t *gpu_bytes; /* [n_gpus] memory of each GPU */
    size_t n_gpus;
    uint64_t memory_bytes; /* host memory; 0 = what is available here */
    /* Bytes per second that can be read: of one GPU's memory, of host memory,
     * of the disk.  0 = unknown; host memory is measured here then. */
    double gpu_rate, memory_rate, disk_rate;
    uint64_t n_samples; /* calibration; 0 = 10,000 per 128 experts */
    double weight_rate; /* expert weights compressed per second; 0 = as
                           qmoe_compress predicts, by short measurements here */
    int passes; /* as qmoe_compress_options: 0 = the default, -1 = none */
    const char *dense_bits; /* as qmoe_compress_options */
} qmoe_plan_options;

/* Of the weights of one role. */
typedef struct qmoe_plan_role {
    uint64_t n_weights, n_bytes;
    uint64_t token_bytes; /* read to decode one token */
} qmoe_plan_role;

/* Where bytes lie. */
typedef struct qmoe_plan_place {
    uint64_t gpu_bytes, memory_bytes, disk_bytes;
} qmoe_plan_place;

typedef struct qmoe_plan_report {
    qmoe_model_info model; /* format: the one planned for */
    bool exact;            /* sizes are exact, not estimates ... */
    bool at_most;          /* ... or an upper bound: a budget of bits */
    qmoe_plan_role roles[QMOE_ROLE_COUNT];
    uint64_t source_bytes; /* of the weights as they are */
    uint64_t total_bytes, expert_bytes, other_bytes;
    uint64_t expert_weights, total_weights;
    uint64_t n_matrices; /* of experts */

    uint64_t memory_bytes; /* host memory planned with */
    uint64_t gpu_usable_bytes, memory_usable_bytes; /* less a reserve each */
    qmoe_plan_place experts, others;

    uint64_t token_bytes; /* read to decode one token of one sequence */
    double gpu_rate, memory_rate, disk_rate; /* used; 0 = unknown */
    double seconds_per_token; /* of reading alone; 0 = a rate is unknown */

    uint64_t n_samples;
    /* 0 for compressed models, or when OpenBLAS, whose speed decides, cannot be
     * loaded. */
    double compress_seconds;
    double weight_rate; /* expert weights per second it assumes */
    int passes;         /* of coordinate descent */
    int n_threads;      /* that compress */

    /* No weights were seen: blocks, sparse steps and output layer are those a
     * config.json names, right or not.  False for synth:NAME. */
    bool from_config;
} qmoe_plan_report;

/* Plans for `source`: a config.json, a directory with one (with or without
 * weights: checkpoint, compressed model, published _qmoe directory), or
 * "synth:NAME" with the name of a published model.  Reads no weights.
 * Throughputs are bounds from reading alone: every expert used with
 * the same probability, no computation, no overlap of places.
 * E_NOT_FOUND, E_FORMAT, E_UNSUPPORTED: as qmoe_model_open; E_INVALID. */
QMOE_API qmoe_status qmoe_plan(qmoe_context *context, qmoe_plan_report *report,
    const char *source, const qmoe_plan_options *options) QMOE_MUST_CHECK;

/* Recorded speeds of compression, for comparison. */
typedef struct qmoe_recorded_rate {
    const char *what;    /* method, format, model */
    const char *machine; /* and calibration */
    const char *source;  /* where it is recorded */
    double weight_rate;  /* expert weights per second */
} qmoe_recorded_rate;
/* NULL past the end. */
QMOE_API const qmoe_recorded_rate *qmoe_recorded_rate_at(size_t index);

#ifdef __cplusplus
}
#endif

#endif
