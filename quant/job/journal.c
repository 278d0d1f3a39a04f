/* SPDX-License-Identifier: Apache-2.0
 * In: the inputs of a job, and its results one group at a time.  Out: a file
 * that a later process reads to know what need not be done again: a head, the
 * inputs, and one line per trial or expert in the order of the work
 * (journal_lines.h).  Invariant: memory and file hold the same lines, and the
 * file is synced when a call returns.  Its content is not trusted: an order
 * that no run writes is refused, and so is anything broken before the last
 * line. */
#include "journal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "descriptor.h"

/* 1 GiB, some million lines: more is no journal of ours. */
enum { MAX_JOURNAL_BYTES = 1 << 30 };

/* The number is raised when lines change, or what the same inputs give. */
static const char magic[] = "qmoe-journal ";
static const char head[] = "qmoe-journal 3\n";

enum { TRIALS, EXPERTS, N_RECORDS };

/* Records of one kind, of one block. */
typedef struct record_list {
    void *records;
    int64_t n, capacity;
} record_list;

/* Trials and experts are counted by themselves: all trials come before the
 * first expert. */
typedef struct block_list {
    record_list of[N_RECORDS];
    int64_t n_each[N_RECORDS]; /* of the finished block */
    int n_kinds;
} block_list;

struct qmi_journal {
    char *path;
    int fd;
    int64_t n_blocks;
    block_list *blocks;      /* [n_blocks] */
    uint64_t n_bytes, chain; /* of the file so far */
};

/* ---- memory ---- */

/* Experts are in order, so a count says which are finished. */
static bool is_full(const qmi_journal *j, int64_t block, int kind)
{
    return j->blocks[block].of[kind].n == j->blocks[block].n_each[kind];
}

/* Whether a line may follow those before it: trials block by block, and then
 * experts. */
static bool is_next(const qmi_journal *j, int64_t block, int kind, int n_kinds)
{
    if (block < 0 || block >= j->n_blocks || is_full(j, block, kind) ||
        n_kinds != j->blocks[block].n_kinds ||
        (block > 0 && !is_full(j, block - 1, kind)))
        return false;
    return kind == TRIALS ? j->blocks[0].of[EXPERTS].n == 0
                          : is_full(j, j->n_blocks - 1, TRIALS);
}

/* Every line goes through here, read or written: one check for both. */
static qmoe_status remember(qmi_journal *j, int64_t block, int kind,
    int n_kinds, const void *record, size_t size, qmi_error *err)
{
    if (!is_next(j, block, kind, n_kinds))
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: its lines are not those of this model's blocks and experts "
            "in order; start again (--force)",
            j->path);
    record_list *list = &j->blocks[block].of[kind];
    if (list->n == list->capacity) {
        int64_t capacity = list->capacity == 0 ? 64 : 2 * list->capacity;
        void *grown = qmi_regrow(list->records, (size_t)list->n,
            (size_t)capacity, size, "the journal", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        list->records = grown;
        list->capacity = capacity;
    }
    memcpy((uint8_t *)list->records + (size_t)list->n++ * size, record, size);
    return QMOE_OK;
}

static const void *records_of(
    const qmi_journal *j, int64_t block, int kind, int64_t *n)
{
    *n = j->blocks[block].of[kind].n;
    return j->blocks[block].of[kind].records;
}

const qmi_journal_expert *qmi_journal_block(
    const qmi_journal *journal, int64_t block, int64_t *n)
{
    return records_of(journal, block, EXPERTS, n);
}

const qmi_expert_trial *qmi_journal_trials(
    const qmi_journal *journal, int64_t block, int64_t *n)
{
    return records_of(journal, block, TRIALS, n);
}

/* ---- reading ---- */

/* The text at hand.  A line that is not complete, or the last one when it is
 * broken, was torn by an interruption and is not read. */
typedef struct reader {
    qmi_journal *j;
    char *text, *at, *end;
} reader;

/* The next line without its end; NULL: there is none. */
static char *next_line(reader *r)
{
    char *line = r->at;
    char *newline = memchr(line, '\n', (size_t)(r->end - line));
    if (newline == NULL)
        return NULL;
    *newline = '\0';
    r->at = newline + 1;
    return line;
}

/* Whether no complete line follows: a torn end is then the only explanation of
 * a broken one. */
static bool is_last(const reader *r)
{
    return memchr(r->at, '\n', (size_t)(r->end - r->at)) == NULL;
}

static qmoe_status fail_broken(
    const reader *r, const char *line, qmi_error *err)
{
    return qmi_fail(err, QMOE_E_FORMAT, "%s: broken at byte %zu", r->j->path,
        (size_t)(line - r->text));
}

/* In the order of the list, so the first difference is the one that is
 * named. */
static qmoe_status check_input(
    reader *r, char *line, const qmi_journal_input *wanted, qmi_error *err)
{
    qmi_journal_input found;
    if (!qmi_line_unseal(line, &r->j->chain) ||
        !qmi_line_parse_input(line, &found))
        return fail_broken(r, line, err);
    if (strcmp(found.name, wanted->name) != 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: the interrupted run was another job: it has '%.100s' where "
            "this one has '%.100s'; give the same job, or start again "
            "(--force)",
            r->j->path, found.name, wanted->name);
    if (strcmp(found.value, wanted->value) != 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: %.100s is '%.150s', but was '%.150s' when the interrupted "
            "run began; give the same, or start again (--force)",
            r->j->path, wanted->name, wanted->value, found.value);
    return QMOE_OK;
}

/* *torn: the text ends within the head, so nothing was done yet. */
static qmoe_status read_head(
    reader *r, const qmi_journal_job *job, bool *torn, qmi_error *err)
{
    const size_t n = (size_t)(r->end - r->text), n_head = sizeof head - 1;
    *torn = n < n_head && strncmp(r->text, head, n) == 0;
    if (*torn)
        return QMOE_OK;
    if (strncmp(r->text, magic, sizeof magic - 1) != 0)
        return qmi_fail(err, QMOE_E_FORMAT, "%s: not a journal", r->j->path);
    if (strncmp(r->text, head, n_head) != 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: another version of qmoe wrote it; start again (--force)",
            r->j->path);
    /* The head has its own line end; inputs follow as sealed lines. */
    r->at += n_head;
    /* A text that ends within the inputs belongs to a run that was stopped
     * before it began. */
    for (size_t i = 0; !*torn && i < job->n_inputs; i++) {
        char *line = next_line(r);
        *torn = line == NULL;
        if (!*torn)
            QMI_TRY(check_input(r, line, &job->inputs[i], err));
    }
    return QMOE_OK;
}

/* false: a broken line. */
static bool take_line(
    const reader *r, char *line, qmoe_status *status, qmi_error *err)
{
    qmi_journal *j = r->j;
    qmi_journal_expert expert = {0};
    qmi_expert_trial trial = {0};
    int64_t block = 0;
    /* Kept for qmi_journal_forget: where the line begins and the chain in front
     * of it are all that is needed to cut the file there. */
    expert.begin = (uint64_t)(line - r->text);
    expert.chain = j->chain;
    if (!qmi_line_unseal(line, &j->chain))
        return false;
    /* A sound checksum with a line of neither kind was written by something
     * else. */
    if (qmi_line_parse_expert(line, &block, &expert))
        *status = remember(
            j, block, EXPERTS, expert.n_kinds, &expert, sizeof expert, err);
    else if (qmi_line_parse_trial(line, &block, &trial))
        *status = remember(
            j, block, TRIALS, trial.n_kinds, &trial, sizeof trial, err);
    else
        *status = fail_broken(r, line, err);
    return true;
}

/* Leaves in n_bytes the length of the sound part; 0: nothing was done. */
static qmoe_status parse(qmi_journal *j, const qmi_journal_job *job, char *text,
    size_t n_bytes, qmi_error *err)
{
    reader r = {.j = j, .text = text, .at = text, .end = text + n_bytes};
    bool torn = false;
    QMI_TRY(read_head(&r, job, &torn, err));
    if (torn)
        return QMOE_OK;
    j->n_bytes = (uint64_t)(r.at - text);
    for (char *line; (line = next_line(&r)) != NULL;) {
        qmoe_status status = QMOE_OK;
        /* Torn by a crash while it was written: only the last line can be. */
        if (!take_line(&r, line, &status, err))
            return is_last(&r) ? QMOE_OK : fail_broken(&r, line, err);
        QMI_TRY(status);
        j->n_bytes = (uint64_t)(r.at - text);
    }
    return QMOE_OK;
}

/* ---- writing ---- */

/* A line counts when fdatasync has returned. n_bytes moves only then, so a
 * failed write is written over by the next. */
static qmoe_status append(
    qmi_journal *j, const char *text, size_t n, qmi_error *err)
{
    if (!qmi_write_at(j->fd, text, n, j->n_bytes) || fdatasync(j->fd) != 0)
        return qmi_fail_errno(err, "%s", j->path);
    j->n_bytes += n;
    return QMOE_OK;
}

/* Lines are gathered so that a group costs one write and one sync. */
static qmoe_status lines_create(char **text, int64_t n, qmi_error *err)
{
    *text = qmi_calloc((size_t)n, QMI_LINE_BYTES, "the journal", err);
    return *text == NULL ? QMOE_E_NOMEM : QMOE_OK;
}

/* Truncates first: what was there belongs to no run that can go on. */
static qmoe_status start(
    qmi_journal *j, const qmi_journal_job *job, qmi_error *err)
{
    char *text = NULL;
    size_t n = sizeof head - 1;
    if (ftruncate(j->fd, 0) != 0)
        return qmi_fail_errno(err, "%s", j->path);
    QMI_TRY(lines_create(&text, (int64_t)job->n_inputs + 1, err));
    memcpy(text, head, n);
    for (size_t i = 0; i < job->n_inputs; i++) {
        char *line = text + n;
        n += qmi_line_seal(
            line, qmi_line_print_input(line, &job->inputs[i]), &j->chain);
    }
    /* One write and one sync for head and inputs; a torn one is started
     * anew. */
    qmoe_status status = append(j, text, n, err);
    qmi_free(text);
    return status;
}

/* ---- opening ---- */

/* The whole text (qmi_free), with a NUL. */
static qmoe_status read_text(
    const qmi_journal *j, char **out, size_t *n_bytes, qmi_error *err)
{
    struct stat info;
    if (fstat(j->fd, &info) != 0)
        return qmi_fail_errno(err, "%s", j->path);
    if (info.st_size > MAX_JOURNAL_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT, "%s: too long", j->path);
    char *text = qmi_calloc((size_t)info.st_size + 1, 1, "the journal", err);
    if (text == NULL)
        return QMOE_E_NOMEM;
    /* The size is only an upper bound for what is read. */
    const int64_t n = qmi_read_at(j->fd, text, (uint64_t)info.st_size, 0);
    if (n < 0) {
        qmi_free(text);
        return qmi_fail_errno(err, "%s", j->path);
    }
    *out = text;
    *n_bytes = (size_t)n;
    return QMOE_OK;
}

/* After this the file ends behind its last sound line, and the next one
 * continues the chain. */
static qmoe_status go_on(
    qmi_journal *j, const qmi_journal_job *job, qmi_error *err)
{
    char *text = NULL;
    size_t n_bytes = 0;
    QMI_TRY(read_text(j, &text, &n_bytes, err));
    qmoe_status status = parse(j, job, text, n_bytes, err);
    qmi_free(text);
    QMI_TRY(status);
    /* Torn within the head or the inputs: nothing was done, so the run starts
     * anew. */
    if (j->n_bytes == 0) {
        j->chain = 0;
        return start(j, job, err);
    }
    if (ftruncate(j->fd, (off_t)j->n_bytes) != 0)
        return qmi_fail_errno(err, "%s", j->path);
    return QMOE_OK;
}

/* The journal owns the descriptor and the path from here on. */
static qmoe_status open_file(
    qmi_journal *j, qmi_output *output, bool resume, qmi_error *err)
{
    qmi_new_file file;
    QMI_TRY(resume ? qmi_output_reopen(output, &file, QMI_JOURNAL_NAME, err)
                   : qmi_output_create(output, &file, QMI_JOURNAL_NAME, err));
    j->fd = file.fd;
    j->path = file.path;
    return QMOE_OK;
}

qmoe_status qmi_journal_open(qmi_journal **out, qmi_output *output,
    const qmi_journal_job *job, bool resume, qmi_error *err)
{
    *out = NULL;
    qmi_journal *j = qmi_calloc(1, sizeof *j, "the journal", err);
    if (j == NULL)
        return QMOE_E_NOMEM;
    j->fd = -1;
    j->n_blocks = job->n_blocks;
    j->blocks =
        qmi_calloc((size_t)j->n_blocks, sizeof *j->blocks, "the journal", err);
    for (int64_t b = 0; j->blocks != NULL && b < j->n_blocks; b++) {
        j->blocks[b].n_each[TRIALS] = job->blocks[b].n_trials;
        j->blocks[b].n_each[EXPERTS] = job->blocks[b].n_experts;
        j->blocks[b].n_kinds = job->blocks[b].n_kinds;
    }
    qmoe_status status = QMOE_E_NOMEM;
    if (j->blocks != NULL)
        status = open_file(j, output, resume, err);
    if (status == QMOE_OK)
        status = resume ? go_on(j, job, err) : start(j, job, err);
    if (status != QMOE_OK) {
        qmi_journal_close(j);
        return status;
    }
    *out = j;
    return QMOE_OK;
}

void qmi_journal_close(qmi_journal *journal)
{
    if (journal == NULL)
        return;
    if (journal->fd >= 0)
        close(journal->fd);
    for (int64_t b = 0; journal->blocks != NULL && b < journal->n_blocks; b++)
        for (int kind = 0; kind < N_RECORDS; kind++)
            qmi_free(journal->blocks[b].of[kind].records);
    qmi_free(journal->blocks);
    qmi_free(journal->path);
    qmi_free(journal);
}

/* Export and import cannot be resumed, but their working directory has to be
 * told from a foreign one. */
qmoe_status qmi_journal_mark(
    qmi_output *output, const char *verb, qmi_error *err)
{
    qmi_journal *journal = NULL;
    qmi_journal_input input = {.name = "verb"};
    const qmi_journal_job job = {.inputs = &input, .n_inputs = 1};
    snprintf(input.value, sizeof input.value, "%s", verb);
    QMI_TRY(qmi_journal_open(&journal, output, &job, false, err));
    qmi_journal_close(journal);
    return QMOE_OK;
}

/* ---- changing ---- */

static qmi_journal_expert record_of(
    const qmi_expert_result *result, int n_kinds)
{
    qmi_journal_expert e = {.n_kinds = n_kinds,
        .n_tokens = result->n_tokens,
        .n_counted = result->n_counted};
    for (int kind = 0; kind < n_kinds; kind++) {
        e.length[kind] = qmi_encoded_length(&result->encoded[kind]);
        e.digest[kind] = qmi_encoded_digest(&result->encoded[kind]);
        e.quality[kind] = result->quality[kind];
        e.n_borrowed[kind] = result->n_borrowed[kind];
    }
    return e;
}

qmoe_status qmi_journal_add(qmi_journal *journal, int64_t block,
    const qmi_expert_result *results, int64_t n, qmi_error *err)
{
    char *text = NULL;
    size_t length = 0;
    QMI_TRY(lines_create(&text, n, err));
    qmoe_status status = QMOE_OK;
    /* remember checks the order before anything is written. */
    for (int64_t i = 0; status == QMOE_OK && i < n; i++) {
        const int n_kinds = journal->blocks[block].n_kinds;
        qmi_journal_expert e = record_of(&results[i], n_kinds);
        char *line = text + length;
        e.begin = journal->n_bytes + length;
        e.chain = journal->chain;
        length += qmi_line_seal(
            line, qmi_line_print_expert(line, block, &e), &journal->chain);
        status = remember(journal, block, EXPERTS, n_kinds, &e, sizeof e, err);
    }
    if (status == QMOE_OK)
        status = append(journal, text, length, err);
    qmi_free(text);
    return status;
}

qmoe_status qmi_journal_add_trials(qmi_journal *journal, int64_t block,
    const qmi_expert_trial *trials, int64_t n, qmi_error *err)
{
    char *text = NULL;
    size_t length = 0;
    QMI_TRY(lines_create(&text, n, err));
    qmoe_status status = QMOE_OK;
    for (int64_t i = 0; status == QMOE_OK && i < n; i++) {
        char *line = text + length;
        length += qmi_line_seal(line,
            qmi_line_print_trial(line, block, &trials[i]), &journal->chain);
        status = remember(journal, block, TRIALS, trials[i].n_kinds, &trials[i],
            sizeof trials[i], err);
    }
    if (status == QMOE_OK)
        status = append(journal, text, length, err);
    qmi_free(text);
    return status;
}

/* The file is cut and synced before any of these experts is compressed again:
 * its shard bytes are about to change. */
qmoe_status qmi_journal_forget(qmi_journal *journal, int64_t block,
    int64_t first, int64_t *n_dropped, qmi_error *err)
{
    int64_t n = 0;
    const qmi_journal_expert *e = qmi_journal_block(journal, block, &n);
    *n_dropped = 0;
    if (first >= n)
        return QMOE_OK;
    /* The chain continues from the line that is now the last. */
    journal->n_bytes = e[first].begin;
    journal->chain = e[first].chain;
    if (ftruncate(journal->fd, (off_t)journal->n_bytes) != 0 ||
        fdatasync(journal->fd) != 0)
        return qmi_fail_errno(err, "%s", journal->path);
    /* Later blocks saw tokens that went through the dropped experts. */
    for (int64_t b = block; b < journal->n_blocks; b++) {
        record_list *list = &journal->blocks[b].of[EXPERTS];
        const int64_t n_kept = b == block ? first : 0;
        *n_dropped += list->n - n_kept;
        list->n = n_kept;
    }
    return QMOE_OK;
}
