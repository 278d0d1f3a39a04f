/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: compress a checkpoint.  See qmoe/qmoe.h for the conventions. */
#ifndef QMOE_QUANT_H
#define QMOE_QUANT_H

#include "qmoe/qmoe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qmoe_compress_options {
    size_t size;
    const char *format; /* NULL = "ternary-dict" */
    const char *method; /* NULL = "rtn" (round to nearest) */
    bool overwrite;     /* replace an existing output directory */
    /* Allow a source without spiece.model (the result runs on ids only). */
    bool without_tokenizer;
} qmoe_compress_options;

typedef struct qmoe_compress_report {
    uint64_t source_bytes, output_bytes;
    uint64_t expert_weights, expert_bytes;
    uint64_t total_weights;
    uint64_t n_matrices;
    double zeros;      /* share of expert weights that are zero */
    double mean_relative_error; /* sum (w-q)^2 / sum w^2 over the experts */
    double seconds;
} qmoe_compress_report;

/* Compresses the experts of the checkpoint in `source` into the new directory
 * `output`.  The work is done in a temporary sibling of `output`, which is
 * flushed to disk and renamed at the end: `output` either is complete or does
 * not appear.  Weights are streamed; peak memory is bounded by the largest
 * pair of matrices times a small constant.  The result does not depend on the
 * number of threads.
 * E_EXISTS: `output` exists and !overwrite; E_NO_SPACE; E_UNSUPPORTED: the
 * source is already compressed, or format/method unknown; E_FORMAT. */
QMOE_API qmoe_status qmoe_compress(qmoe_context *context,
    qmoe_compress_report *report, const char *source, const char *output,
    const qmoe_compress_options *options) QMOE_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
