/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: models to and from the directories of other programs.  See
 * qmoe/qmoe.h for the conventions, docs/publish.md for the layouts. */
#ifndef QMOE_EXCHANGE_H
#define QMOE_EXCHANGE_H

#include "qmoe/qmoe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qmoe_layout {
    /* A plain Hugging Face checkpoint: config.json without
     * quantization_config, safetensors shards with their index, every expert
     * matrix decoded. */
    QMOE_LAYOUT_HF,
    /* The directory of the QMoE paper's own tools (ISTA-DASLab/..._qmoe):
     * noexp.pt, sizes.pt, exp00.pt, ... */
    QMOE_LAYOUT_PUBLISHED
} qmoe_layout;

typedef struct qmoe_export_options {
    size_t size;
    qmoe_layout layout;
    bool overwrite; /* replace an existing output directory */
    /* HF: "bf16" (NULL) or "f32": the dtype of every floating-point tensor.
     * bf16 rounds to nearest, ties to even; f32 keeps every value. */
    const char *dtype;
    uint64_t shard_bytes; /* HF: largest shard; 0 = 5 GB */
} qmoe_export_options;

typedef struct qmoe_export_report {
    uint64_t output_bytes, n_tensors, n_matrices, n_files;
    double seconds;
} qmoe_export_report;

/* Writes the compressed model in `source` as the new directory `output`, which
 * appears complete or not at all.  Matrices are decoded as they are written:
 * memory holds one per thread.
 * E_UNSUPPORTED: the model is not compressed; QMOE_LAYOUT_PUBLISHED: a stack
 * is not ternary-dict with the paper's dictionary, or has an odd width.
 * E_EXISTS (also: what would be replaced is not qmoe's), E_NO_SPACE, E_IO,
 * E_FORMAT (an undecodable matrix, levels that are not finite), E_INVALID (also:
 * `output` lies in or over `source`). */
QMOE_API qmoe_status qmoe_export(qmoe_context *context,
    qmoe_export_report *report, const char *source, const char *output,
    const qmoe_export_options *options) QMOE_MUST_CHECK;

typedef struct qmoe_import_options {
    size_t size;
    bool overwrite; /* replace an existing output directory */
    /* NULL or "ternary-dict": the codewords as they are, bit for bit.  Another
     * format: every matrix is decoded and rounded to it without data. */
    const char *format;
    /* Directory to take the tokenizer and other small files from, since
     * published directories have none; NULL: the source itself. */
    const char *tokenizer;
    /* A GGUF file: "bf16", "f16" or "f32": the dtype of every tensor.  NULL: F32, F16
     * and BF16 tensors keep theirs, and decoded ones become f32, which holds
     * every value. */
    const char *dtype;
} qmoe_import_options;

typedef struct qmoe_import_report {
    uint64_t source_bytes, output_bytes;
    /* A published directory: */
    uint64_t expert_bytes, expert_weights, n_matrices;
    double weight_error; /* re-coded: mean of |Q - P|^2 / |P|^2, P as published
                          */
    /* A GGUF file: */
    uint64_t n_tensors, n_weights;
    bool has_tokenizer;
    double seconds;
} qmoe_import_report;

/* Reads a published directory (QMOE_LAYOUT_PUBLISHED) and writes it as the new
 * compressed directory `output`, or reads a GGUF file, or the first part of a
 * split one, and writes it as a plain Hugging Face checkpoint.  `output` appears
 * complete or not at all.  Every rule of the layouts is checked
 * (docs/publish.md).
 * E_NOT_FOUND: no file, no directory, config.json, noexp.pt or sizes.pt; E_FORMAT names
 * file, tensor and rule; E_UNSUPPORTED, E_NO_SPACE, E_IO; E_EXISTS, E_INVALID as
 * above. */
QMOE_API qmoe_status qmoe_import(qmoe_context *context,
    qmoe_import_report *report, const char *source, const char *output,
    const qmoe_import_options *options) QMOE_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
