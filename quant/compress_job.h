/* SPDX-License-Identifier: Apache-2.0
 * One compression run, shared by the files compress*.c:
 *   compress.c         options, the flow
 *   compress_plan.c    what it will take; refuses before work starts
 *   compress_copy.c    what is copied unchanged
 *   compress_blocks.c  the experts, block by block
 *   compress_report.c  totals and the per-expert report */
#ifndef QMI_COMPRESS_JOB_H
#define QMI_COMPRESS_JOB_H

#include "calibration.h"
#include "expert_pass.h"
#include "forward.h"
#include "journal.h"
#include "manifest.h"
#include "output_directory.h"
#include "place.h"
#include "stack_writer.h"

typedef struct qmi_job {
    qmoe_context *context;
    qmoe_model *model;
    qmoe_compress_options options; /* defaults filled in */
    qmi_place place;               /* of the forward pass */
    qmi_recipe recipe;
    qmi_dict *dictionary; /* owned; NULL: the generic one */
    qmi_calibration calibration;
    bool calibrated; /* calibration is loaded */
    int n_workers;
    qmi_output output;
    qmi_manifest *manifest;
    qmi_journal *journal;
    qmi_forward forward;
    qmi_expert_pass *pass;
    int n_files, n_files_done;
    uint64_t weights_done;
    qmoe_compress_report *report;
    qmi_error *err; /* the context's */
} qmi_job;

/* Fills the plan part of the report, chooses the number of workers, and checks
 * memory and disk. */
qmoe_status qmi_job_plan(qmi_job *job, const char *output);
/* Identifies the job for --resume. */
uint64_t qmi_job_fingerprint(const qmi_job *job);

/* The first shard: every tensor that is not an expert's. */
qmoe_status qmi_job_copy_tensors(qmi_job *job);
/* Tokenizer and other small files of the source. */
qmoe_status qmi_job_copy_files(qmi_job *job);
/* "model-0000k-of-0000n.safetensors" of the next shard. */
void qmi_job_next_file(qmi_job *job, char name[64]);

/* All experts. */
qmoe_status qmi_job_compress_blocks(qmi_job *job);
/* "qmoe_report.json" in the output, and the result part of the report. */
qmoe_status qmi_job_write_report(qmi_job *job);

/* Both stacks of a sparse block, by its number in execution order. */
typedef struct qmi_sparse_block {
    int stack;
    int64_t block;
    const qmi_weight *stacks[QMI_N_KINDS];
} qmi_sparse_block;
/* false past the last one. */
bool qmi_job_sparse_block(
    const qmi_job *job, int64_t number, qmi_sparse_block *out);

#endif
