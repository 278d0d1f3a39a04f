/* SPDX-License-Identifier: Apache-2.0
 * What a compression run has finished, one line per group of experts, so that
 * a later process can continue it.  A line is written and synced after the
 * group's data; a torn last line is dropped.  Lives in the working directory
 * and is removed when the result is put in place. */
#ifndef QMI_JOURNAL_H
#define QMI_JOURNAL_H

#include "error.h"
#include "expert_trial.h"
#include "stack_writer.h"

#define QMI_JOURNAL_NAME "journal"

/* One finished group: experts [first, first + n) of sparse block number
 * `block` (in execution order). */
typedef struct qmi_journal_expert {
    uint64_t length[QMI_N_KINDS]; /* elements of the variable part */
    qmi_quant_result quality[QMI_N_KINDS];
    int64_t n_tokens, n_counted;
} qmi_journal_expert;

typedef struct qmi_journal qmi_journal;

/* Opens "journal" in `directory`.  `resume` false starts an empty one for the
 * given fingerprint (hash of checkpoint, calibration and options); true reads
 * the existing one: E_NOT_FOUND when there is none, E_INVALID when its
 * fingerprint differs, E_FORMAT when it is broken before its last line. */
qmoe_status qmi_journal_open(qmi_journal **out, const char *directory,
    uint64_t fingerprint, bool resume, qmi_error *err);
void qmi_journal_close(qmi_journal *journal);

/* Experts of `block` that are finished (always the first ones), and what was
 * recorded of each: [*n], owned by the journal. */
const qmi_journal_expert *qmi_journal_block(
    const qmi_journal *journal, int64_t block, int64_t *n);
/* Appends the next n experts of `block` and syncs. */
qmoe_status qmi_journal_add(qmi_journal *journal, int64_t block,
    const qmi_expert_result *results, int64_t n, qmi_error *err);

/* The same for trials of formats, which precede the first expert. */
const qmi_expert_trial *qmi_journal_trials(
    const qmi_journal *journal, int64_t block, int64_t *n);
qmoe_status qmi_journal_add_trials(qmi_journal *journal, int64_t block,
    const qmi_expert_trial *trials, int64_t n, qmi_error *err);

#endif
