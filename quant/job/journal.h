/* SPDX-License-Identifier: Apache-2.0
 * What a compression run has finished, one line per expert, so that a later
 * process can continue it.  A line is written and synced after the expert's
 * data; a torn end is dropped.  Lives in the working directory and is removed
 * when the result is put in place. */
#ifndef QMI_JOURNAL_H
#define QMI_JOURNAL_H

#include "error.h"
#include "expert_trial.h"
#include "journal_lines.h"
#include "output_directory.h"
#include "stack_writer.h"

/* A sparse block. */
typedef struct qmi_journal_block_size {
    int64_t n_trials, n_experts;
    int n_kinds; /* stacks */
} qmi_journal_block_size;

/* What the journal is of. */
typedef struct qmi_journal_job {
    const qmi_journal_input *inputs;
    size_t n_inputs;
    const qmi_journal_block_size *blocks; /* [n_blocks] */
    int64_t n_blocks;
} qmi_journal_job;

typedef struct qmi_journal qmi_journal;

/* Opens "journal" in the working directory.  `resume` false starts an empty one; true
 * reads the existing one: E_NOT_FOUND when there is none; E_INVALID naming the
 * first input that differs; E_FORMAT when it is broken before its last line or
 * has lines that such a job does not write. */
qmoe_status qmi_journal_open(qmi_journal **out, qmi_output *output,
    const qmi_journal_job *job, bool resume, qmi_error *err);
void qmi_journal_close(qmi_journal *journal);
/* Leaves the journal of a run of `verb` that cannot be resumed, which marks
 * the working directory as qmoe's. */
qmoe_status qmi_journal_mark(
    qmi_output *output, const char *verb, qmi_error *err);

/* Experts of `block` that are finished (always the first ones), and what was
 * recorded of each: [*n], owned by the journal. */
const qmi_journal_expert *qmi_journal_block(
    const qmi_journal *journal, int64_t block, int64_t *n);
/* Appends the next n experts of `block` and syncs. */
qmoe_status qmi_journal_add(qmi_journal *journal, int64_t block,
    const qmi_expert_result *results, int64_t n, qmi_error *err);
/* Drops expert number `first` of `block` and all that is recorded after it,
 * from the file, too; *n_dropped experts. */
qmoe_status qmi_journal_forget(qmi_journal *journal, int64_t block,
    int64_t first, int64_t *n_dropped, qmi_error *err);

/* The same for trials of formats, all of which precede the first expert. */
const qmi_expert_trial *qmi_journal_trials(
    const qmi_journal *journal, int64_t block, int64_t *n);
qmoe_status qmi_journal_add_trials(qmi_journal *journal, int64_t block,
    const qmi_expert_trial *trials, int64_t n, qmi_error *err);

#endif
