/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: compress a checkpoint.  See qmoe/qmoe.h for the conventions. */
#ifndef QMOE_QUANT_H
#define QMOE_QUANT_H

#include "qmoe/qmoe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A format that experts can be compressed to, and which options it has. */
typedef struct qmoe_format_info {
    const char *name, *summary; /* static; a few words on what is stored */
    bool rotates;               /* options.rotation */
    bool has_levels;            /* options.fit_levels */
    bool has_dictionary;        /* options.fit_dictionary */
    bool in_budget;             /* options.bits chooses between these */
    bool is_variable;           /* its size depends on the weights */
    int passes;             /* options.passes by default; 0: it makes none */
    bool passes_fit_levels; /* it makes passes with fit_levels only */
} qmoe_format_info;

/* Describes a format, the default one (NULL in the options) first; false past the
 * end. */
QMOE_API bool qmoe_format_describe(qmoe_format_info *out, size_t index);

typedef struct qmoe_compress_options {
    size_t size;
    const char *format; /* of qmoe_format_info; NULL = the first, "pvq" */
    /* "gptq" (data-dependent, needs calibration) or "rtn" (round to nearest);
     * NULL = "gptq" when calibration is given, else E_INVALID. */
    const char *method;
    bool overwrite; /* replace an existing output directory */
    /* Allow a source without a tokenizer (the result runs on ids only). */
    bool without_tokenizer;

    /* Calibration texts: one document per line, or JSON lines with "text".
     * With method "rtn" they only serve to measure output errors. */
    const char *const *calibration; /* [n_calibration] paths */
    size_t n_calibration;
    /* Documents of a span corruption model, windows of any other; 0 = all. */
    uint64_t max_samples;
    uint32_t seed; /* of the span masks */

    double damping;      /* times the mean diagonal of the moments; 0 = 0.1 */
    bool fit_levels;     /* ternary: fitted levels instead of row min / max */
    bool fit_dictionary; /* ternary-dict: dictionary for this model's zeros */
    /* pvq, tlut: columns per block of the rotation, a power of two up to 1024;
     * -1 = none, 0 = for each matrix the largest up to 64 that divides its
     * width. */
    int rotation;
    /* Rounds of descent after the sweep, for pvq, tlut and fit_levels; -1 =
     * none, 0 = the default of the format. */
    int passes;

    bool resume;           /* continue an interrupted run of the same job */
    bool dry_run;          /* only fill the plan part of the report */
    int group_size;        /* experts between two journal entries; 0 = 16 */
    uint64_t memory_limit; /* bytes; 0 = what is available */
    const char *work_dir;  /* token states in files there; NULL = in memory */

    /* What runs attention, routers and dense layers on calibration tokens, as
     * in qmoe_session_options; NULL = "cpu".  Experts and quantisers run on the
     * CPU. */
    const char *backend, *device_name;
    uint64_t device_memory_bytes;
    /* > 0: each stack gets pvq or pvq8, so that the experts take at most this
     * many bits per weight, all bytes counted, at the least sum of relative
     * output errors (docs/compress.md).  `format` must be NULL. */
    double bits;

    /* Models that predict the next token: ids of a calibration window, 0 = 512;
     * and the weight in the moments, up to 1, of a window's first token and of
     * special tokens, 0 = 0.1, -1 = none. */
    int context;
    double frame_weight;
    /* Whether a token weighs the square of its router weight in the moments of
     * an expert: 1 or -1 = no; 0 = for models that predict the next token. */
    int route_weights;
    /* Whether an expert with fewer tokens than a matrix has columns gets the
     * difference from all tokens of its block: 1 or -1 = no; 0 = for models that
     * predict the next token. */
    int borrow;
    /* What the matrices beside the experts become: attention, dense_ffn,
     * shared_ffn, embedding, head.  "B" for all of them, or "ROLE=B,ROLE=B".
     * B is 16: copied as they are; 8: int8, rounded to nearest; 4, 3, 2: tlut; or
     * the name of a format.  All but int8 are calibrated unless the method is
     * "rtn".  NULL: all are copied.  Makes a model without experts
     * compressible. */
    const char *dense_bits;
    /* Whether the error of a row counts by the squared gradient of the loss on
     * the calibration, in calibrated tlut formats: 1 = yes, -1 = no; 0 = for
     * models that predict the next token. */
    int row_weights;
} qmoe_compress_options;

/* Matrices of one kind, as "down_proj", of all experts of all blocks. */
typedef struct qmoe_kind_report {
    char name[64];       /* the last part of the name of their stacks */
    uint64_t n_matrices; /* n_measured of them have an input error */
    uint64_t n_measured;
    double input_error, weight_error; /* as those of qmoe_compress_report */
} qmoe_kind_report;
enum { QMOE_MAX_KINDS = 3 };

typedef struct qmoe_compress_report {
    /* The plan: known before the work. */
    uint64_t source_bytes;
    uint64_t expert_weights, total_weights;
    uint64_t planned_output_bytes; /* estimate for ternary-dict, else exact */
    uint64_t planned_memory_bytes; /* peak of resident memory */
    uint64_t planned_disk_bytes;   /* output and spilled states */
    double planned_seconds;        /* estimate from a short measurement */
    uint64_t n_samples, n_encoder_tokens, n_decoder_tokens;
    uint64_t n_skipped_documents;
    uint64_t n_matrices;
    double least_bits, most_bits; /* possible values of the option `bits`; 0
                                   * when it is not used */

    /* The result. */
    uint64_t output_bytes, expert_bytes;
    double zeros;        /* share of expert weights that are zero */
    double entropy_bits; /* mean per expert weight; NaN: not ternary formats */
    /* Means over matrices.  Of the outputs for the inputs X of the calibration,
     * |(W - Q) X|^2 / |W X|^2, over matrices that saw some; NaN: none did. */
    double input_error;
    double weight_error; /* of the weights alone, |W - Q|^2 / |W|^2 */
    uint64_t n_experts;
    uint64_t n_experts_without_tokens; /* rounded to nearest instead */
    uint64_t n_singular; /* singular second moments: rounded, too */
    /* Kept from the interrupted run: experts that were not compressed
     * again, and with `bits` experts whose errors were not measured again. */
    uint64_t n_experts_resumed, n_trials_resumed;
    double seconds;
    uint64_t n_experts_borrowing; /* see options.borrow */
    qmoe_kind_report kinds[QMOE_MAX_KINDS];
    int n_kinds;

    /* With options.dense_bits: the plan ... */
    uint64_t dense_weights, n_dense_matrices;
    /* ... and the result. */
    uint64_t dense_bytes;
    /* Means over matrices, as those of experts. */
    double dense_weight_error, dense_input_error;
} qmoe_compress_report;

/* Compresses the experts of the checkpoint in `source`, and what else options
 * say, into the new directory `output` (docs/compress.md).  The work is done in
 * a sibling of `output`,
 * "<output>.partial", which is flushed to disk and renamed at the end: `output`
 * either is complete or does not appear.  An interrupted run with finished
 * experts is kept there for `resume`, which ends with the same bytes as an
 * undisturbed run.  Weights are read once for a checksum, and then once in the
 * order of the work.  For one backend and processor the result depends neither
 * on the number of threads nor on group_size, memory_limit, work_dir.
 * E_EXISTS: `output` exists and !overwrite, or an interrupted run is there, or
 * either holds what qmoe did not make (docs/compress.md);
 * E_NO_SPACE: too little disk, found out before the work where possible;
 * E_NOMEM: less memory is available than one expert needs (the text says how
 * much), no address space for OpenBLAS; E_UNSUPPORTED: no OpenBLAS;
 * E_INVALID: memory_limit is less than that, options that do not fit each other
 * or the model, another job is resumed, `output` is in or above an input;
 * E_UNSUPPORTED: the source is already compressed, unknown format or method;
 * E_NO_BACKEND: the backend or device is not there;
 * E_FORMAT: a broken source, a weight or a result that is not finite. */
QMOE_API qmoe_status qmoe_compress(qmoe_context *context,
    qmoe_compress_report *report, const char *source, const char *output,
    const qmoe_compress_options *options) QMOE_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
