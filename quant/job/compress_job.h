/* SPDX-License-Identifier: Apache-2.0
 * One compression run, shared by the files compress*.c:
 *   compress.c         options, the flow
 *   compress_plan.c    what it will take; refuses before work starts
 *   compress_memory.c  how much memory
 *   compress_routes.c  how many experts get tokens
 *   compress_rows.c    how much each row counts
 *   compress_inputs.c  what decides the result, for resumption
 *   compress_copy.c    the first shard: what is copied unchanged
 *   compress_dense.c   ... and the matrices beside the experts
 *   choose_formats.c   which stack gets which format, with a bit budget
 *   compress_blocks.c  the experts, block by block
 *   compress_provenance.c  what the result records of all this
 *   compress_report.c  totals, and every matrix in the report */
#ifndef QMI_COMPRESS_JOB_H
#define QMI_COMPRESS_JOB_H

#include "allocate_bits.h"
#include "calibration.h"
#include "dense_choice.h"
#include "expert_pass.h"
#include "forward.h"
#include "journal.h"
#include "manifest.h"
#include "output_directory.h"
#include "place.h"
#include "qmoe/quant.h"
#include "row_weights.h"
#include "side_files.h"
#include "stack_writer.h"

/* A matrix beside the experts. */
typedef struct qmi_dense_matrix {
    size_t index;            /* of its first part in the first shard */
    qmi_quant_result result; /* once it is done */
    bool is_done, has_moments;
} qmi_dense_matrix;
typedef struct qmi_first_shard qmi_first_shard; /* compress_copy.c */

typedef struct qmi_job {
    qmoe_context *context;
    qmoe_model *model;
    qmoe_compress_options options; /* defaults filled in */
    qmi_place place;               /* of the forward pass */
    qmi_recipe recipe;
    int32_t rotation; /* QMI_ROTATION_AUTO, 0 = none, or the block */
    /* How tokens enter the moments, defaults filled in. */
    int window;
    double frame_weight;
    bool by_route, borrows;
    bool weighs_rows; /* by gradients */
    qmi_row_weights row_weights;
    /* With a bit budget: one entry per stack, sparse block after sparse
     * block, in the order of its stacks; NULL without. */
    qmi_bits_choice *choices;
    qmi_dense_choice dense_choice;
    qmi_dense_matrix *dense; /* [n_weights of the model] */
    int n_dense_workers;
    bool collects; /* the sweep at hand compresses matrices with moments */
    qmi_first_shard *first_shard;
    void *codebook; /* owned: fitted to the model; NULL: the format's own */
    qmi_calibration calibration;
    bool calibrated;   /* calibration is loaded */
    double begin_busy; /* qmi_thread_seconds() */
    int n_workers;
    qmi_output output;
    cJSON *provenance; /* what config.json records of the job */
    qmi_manifest *manifest;
    qmi_journal *journal;
    qmi_forward forward;
    qmi_expert_pass *pass;
    int n_files, n_files_done;
    /* Progress of the sweep at hand, in weights. */
    const char *stage;
    uint64_t weights_done, weights_total;
    qmoe_compress_report *report;
    qmi_error *err; /* the context's */
} qmi_job;

enum { QMI_ROTATION_AUTO = -1 };

/* A sparse block, by its number in execution order. */
typedef struct qmi_sparse_block {
    int32_t index; /* of the model's blocks */
    const qmi_block *block;
    qmi_expert_stacks stacks;
    int64_t first_stack; /* stacks of the sparse blocks before it */
} qmi_sparse_block;
/* false past the last one. */
bool qmi_job_sparse_block(
    const qmi_job *job, int64_t number, qmi_sparse_block *out);

/* Sizes of source and output, into the plan part of the report. */
void qmi_job_plan_sizes(qmi_job *job);
/* Fills the rest of the plan part of the report, chooses the number of workers, and checks
 * memory and disk. */
qmoe_status qmi_job_plan(qmi_job *job, const char *output);
/* The memory of that: planned_memory_bytes and the number of workers.  E_NOMEM:
 * even one is too many. */
qmoe_status qmi_job_plan_memory(qmi_job *job);
/* Share of the experts of a block of each program that get tokens, expected.  A
 * dry run takes some tokens to the first block of experts and looks where they
 * go; otherwise all experts are taken as equally likely. */
qmoe_status qmi_job_used_experts(
    double share[QMI_N_PROGRAMS], const qmi_job *job);
/* Token states of the calibration, in memory or in the work directory. */
uint64_t qmi_job_state_bytes(const qmi_job *job);
/* Whether rows are weighed.  E_UNSUPPORTED: the user
 * wants it, and it is not possible. */
qmoe_status qmi_job_choose_row_weights(qmi_job *job);
/* Measures the weights of rows, when the job wants them; the memory and the
 * seconds of one thread that this takes, 0 when it does not; the seconds for
 * dry runs alone. */
qmoe_status qmi_job_weigh_rows(qmi_job *job);
uint64_t qmi_job_row_weights_bytes(const qmi_job *job);
qmoe_status qmi_job_row_weights_seconds(double *seconds, const qmi_job *job);
/* What decides the result: [*n], qmi_free.  Reads all weights once. */
qmoe_status qmi_job_inputs(qmi_job *job, qmi_journal_input **out, size_t *n);

/* Counts the matrices beside the experts that are compressed in the report: bytes of all of them before and after. */
void qmi_job_plan_dense(
    qmi_job *job, uint64_t *source_bytes, uint64_t *target_bytes);
/* The memory that compressing them takes, with job->n_dense_workers at a
 * time. */
uint64_t qmi_job_dense_bytes(const qmi_job *job);

/* The first shard: every tensor that is not an expert's.  Matrices with second
 * moments follow during the sweep, and _finish_tensors ends the shard. */
qmoe_status qmi_job_copy_tensors(qmi_job *job);
qmoe_status qmi_job_finish_tensors(qmi_job *job);
void qmi_job_close_tensors(qmi_job *job);
/* Compresses the matrices of a part of a block, whose tokens `run` takes
 * through it (compress_dense_blocks.c). */
typedef qmoe_status qmi_run_block_fn(
    qmi_forward *forward, int32_t block, qmi_error *err);
qmoe_status qmi_job_run_dense(
    qmi_job *job, int32_t block, bool is_rest, qmi_run_block_fn *run);
/* The head, after all blocks. */
qmoe_status qmi_job_run_head(qmi_job *job);
/* "model-0000k-of-0000n.safetensors" of the next shard. */
void qmi_job_next_file(qmi_job *job, char name[64]);

/* The formats a bit budget chooses from, with the job's method. */
const qmi_quantiser *qmi_job_candidate(const qmi_job *job, int size);
/* How a stack would be compressed with a quantiser of qmi_job_candidate or
 * the recipe's. */
qmi_stack_recipe qmi_job_recipe(const qmi_job *job,
    const qmi_quantiser *quantiser, const qmi_weight *stack);
/* How the stack of a kind of a sparse block is compressed. */
qmi_stack_recipe qmi_job_stack_recipe(
    const qmi_job *job, const qmi_sparse_block *block, int kind);
/* Bytes of a stack in a format; exact for fixed formats. */
uint64_t qmi_job_stack_bytes(const qmi_format *format, const qmi_weight *w);

/* E_INVALID with both ends of the range: `bits` per weight are less than
 * `least` bytes or more than `most`. */
qmoe_status qmi_check_bits(double bits, uint64_t least, uint64_t most,
    double expert_weights, qmi_error *err);
/* Experts of a block that a bit budget measures. */
int64_t qmi_n_trials(int64_t n_experts);
/* With a bit budget: lists the stacks and refuses a budget out of range. */
qmoe_status qmi_job_list_choices(qmi_job *job);
/* Experts of a block whose errors are measured: 0 without a bit budget. */
int64_t qmi_job_n_trials(const qmi_job *job, const qmi_sparse_block *block);
/* Measures and chooses (after qmi_job_list_choices). */
qmoe_status qmi_job_choose_formats(qmi_job *job);

/* Takes all tokens through the model: `visit` for every sparse block, whose
 * tokens it takes through the experts.  The pass is at that block. */
typedef qmoe_status (*qmi_visit_fn)(qmi_job *job, int64_t number);
qmoe_status qmi_job_sweep(qmi_job *job, qmi_visit_fn visit);
/* All experts. */
qmoe_status qmi_job_compress_blocks(qmi_job *job);
/* Which kernels the CPU's backend takes on this processor. */
qmoe_status qmi_job_kernels(const qmi_job *job, char *out, size_t capacity);
/* How the result can be made again, for qmi_manifest_create; released with
 * cJSON_Delete, also after a failure. */
qmoe_status qmi_job_provenance(qmi_job *job, cJSON **out);
/* "qmoe_report.json" in the output, and the result part of the report. */
qmoe_status qmi_job_write_report(qmi_job *job);

#endif
