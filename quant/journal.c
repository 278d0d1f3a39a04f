/* SPDX-License-Identifier: Apache-2.0
 * Journal of a compression run: text, one line per expert or trial, each
 * ending in the checksum of what precedes it.  Doubles are in hexadecimal, exactly. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "hash.h"
#include "map.h"

enum { LINE_BYTES = 640, MAX_JOURNAL_BYTES = 1 << 30 };

/* Records of one kind, of one block. */
typedef struct record_list {
    void *records;
    int64_t n, capacity;
} record_list;

typedef struct block_list {
    record_list experts, trials;
} block_list;

struct qmi_journal {
    char *path;
    int fd;
    block_list *blocks;
    int64_t n_blocks;
};

/* ---- lines ---- */

static int print_quality(char *line, size_t capacity, const qmi_quant_result *q)
{
    return snprintf(line, capacity, " %a %a %" PRIu64 " %a %d", q->error,
        q->energy, q->n_zeros, q->entropy_bits, q->fell_back);
}

/* Appends " #<checksum>\n" to a line of n bytes. */
static size_t seal_line(char *line, size_t n)
{
    char hex[17];
    qmi_hash_hex(hex, qmi_hash64(line, n));
    return n + (size_t)snprintf(line + n, LINE_BYTES - n, " #%s\n", hex);
}

static size_t print_expert(
    char line[LINE_BYTES], int64_t block, const qmi_journal_expert *e)
{
    size_t n = (size_t)snprintf(line, LINE_BYTES,
        "expert %" PRId64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64,
        block, e->length[QMI_WI], e->length[QMI_WO], e->n_tokens, e->n_counted);
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        n += (size_t)print_quality(line + n, LINE_BYTES - n, &e->quality[kind]);
    return seal_line(line, n);
}

static bool parse_quality(const char **at, qmi_quant_result *q)
{
    int fell_back = 0, n = 0;
    if (sscanf(*at, " %la %la %" SCNu64 " %la %d%n", &q->error, &q->energy,
            &q->n_zeros, &q->entropy_bits, &fell_back, &n) != 5)
        return false;
    q->fell_back = fell_back != 0;
    *at += n;
    return true;
}

static bool parse_expert(
    const char *line, int64_t *block, qmi_journal_expert *e)
{
    int n = 0;
    if (sscanf(line,
            "expert %" SCNd64 " %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64
            "%n",
            block, &e->length[QMI_WI], &e->length[QMI_WO], &e->n_tokens,
            &e->n_counted, &n) != 5)
        return false;
    const char *at = line + n;
    return parse_quality(&at, &e->quality[QMI_WI]) &&
           parse_quality(&at, &e->quality[QMI_WO]) && *at == '\0' &&
           *block >= 0;
}

static size_t print_trial(
    char line[LINE_BYTES], int64_t block, const qmi_expert_trial *t)
{
    size_t n = (size_t)snprintf(line, LINE_BYTES, "trial %" PRId64, block);
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        n += (size_t)snprintf(line + n, LINE_BYTES - n, " %d %a %a",
            t->measured[kind], t->error[kind][QMI_SMALL],
            t->error[kind][QMI_LARGE]);
    return seal_line(line, n);
}

static bool parse_trial(const char *line, int64_t *block, qmi_expert_trial *t)
{
    int n = 0;
    if (sscanf(line, "trial %" SCNd64 "%n", block, &n) != 1)
        return false;
    for (int kind = 0; kind < QMI_N_KINDS; kind++) {
        int measured = 0, length = 0;
        line += n;
        if (sscanf(line, " %d %la %la%n", &measured, &t->error[kind][QMI_SMALL],
                &t->error[kind][QMI_LARGE], &length) != 3)
            return false;
        t->measured[kind] = measured != 0;
        n = length;
    }
    return line[n] == '\0' && *block >= 0;
}

/* Checks and cuts the checksum off a line (NUL-terminated, without '\n'). */
static bool unseal_line(char *line)
{
    char hex[17];
    char *mark = strrchr(line, '#');
    if (mark == NULL || mark == line)
        return false;
    size_t n = (size_t)(mark - 1 - line);
    qmi_hash_hex(hex, qmi_hash64(line, n));
    if (strcmp(mark + 1, hex) != 0)
        return false;
    line[n] = '\0';
    return true;
}

/* ---- memory ---- */

static qmoe_status find_block(
    qmi_journal *j, block_list **out, int64_t block, qmi_error *err)
{
    if (block >= j->n_blocks) {
        block_list *grown = qmi_regrow(j->blocks, (size_t)j->n_blocks,
            (size_t)block + 1, sizeof *grown, "the journal", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        j->blocks = grown;
        j->n_blocks = block + 1;
    }
    *out = &j->blocks[block];
    return QMOE_OK;
}

static qmoe_status push(
    record_list *list, const void *record, size_t size, qmi_error *err)
{
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

static qmoe_status remember(qmi_journal *j, int64_t block,
    const qmi_journal_expert *expert, qmi_error *err)
{
    block_list *list;
    QMI_TRY(find_block(j, &list, block, err));
    return push(&list->experts, expert, sizeof *expert, err);
}

static qmoe_status remember_trial(qmi_journal *j, int64_t block,
    const qmi_expert_trial *trial, qmi_error *err)
{
    block_list *list;
    QMI_TRY(find_block(j, &list, block, err));
    return push(&list->trials, trial, sizeof *trial, err);
}

const qmi_journal_expert *qmi_journal_block(
    const qmi_journal *journal, int64_t block, int64_t *n)
{
    *n = 0;
    if (block >= journal->n_blocks)
        return NULL;
    *n = journal->blocks[block].experts.n;
    return journal->blocks[block].experts.records;
}

const qmi_expert_trial *qmi_journal_trials(
    const qmi_journal *journal, int64_t block, int64_t *n)
{
    *n = 0;
    if (block >= journal->n_blocks)
        return NULL;
    *n = journal->blocks[block].trials.n;
    return journal->blocks[block].trials.records;
}

/* ---- file ---- */

static qmoe_status append(
    qmi_journal *j, const char *text, size_t n, qmi_error *err)
{
    while (n != 0) {
        ssize_t written = write(j->fd, text, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return qmi_fail_errno(err, "%s", j->path);
        text += written;
        n -= (size_t)written;
    }
    if (fdatasync(j->fd) != 0)
        return qmi_fail_errno(err, "%s", j->path);
    return QMOE_OK;
}

static void head_line(char line[LINE_BYTES], uint64_t fingerprint)
{
    char hex[17];
    qmi_hash_hex(hex, fingerprint);
    snprintf(line, LINE_BYTES, "qmoe-journal 1 %s\n", hex);
}

/* false: a broken line. */
static bool take_line(
    qmi_journal *j, char *line, qmoe_status *status, qmi_error *err)
{
    qmi_journal_expert expert = {0};
    qmi_expert_trial trial = {0};
    int64_t block = 0;
    if (!unseal_line(line))
        return false;
    if (parse_expert(line, &block, &expert))
        *status = remember(j, block, &expert, err);
    else if (parse_trial(line, &block, &trial))
        *status = remember_trial(j, block, &trial, err);
    else
        return false;
    return true;
}

/* Reads complete lines; *n_good is the length of the sound part. */
static qmoe_status parse(qmi_journal *j, char *text, uint64_t fingerprint,
    size_t *n_good, qmi_error *err)
{
    char head[LINE_BYTES];
    head_line(head, fingerprint);
    size_t n_head = strlen(head);
    if (strncmp(text, "qmoe-journal 1 ", 15) != 0)
        return qmi_fail(err, QMOE_E_FORMAT, "%s: not a journal", j->path);
    if (strncmp(text, head, n_head) != 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: the interrupted run had another checkpoint, calibration "
            "data or options; give the same ones or start again",
            j->path);
    char *line = text + n_head;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        qmoe_status status = QMOE_OK;
        *end = '\0';
        if (!take_line(j, line, &status, err)) {
            if (strchr(end + 1, '\n') == NULL)
                break;
            return qmi_fail(err, QMOE_E_FORMAT, "%s: broken at byte %zu",
                j->path, (size_t)(line - text));
        }
        QMI_TRY(status);
    }
    *n_good = (size_t)(line - text);
    return QMOE_OK;
}

static qmoe_status open_existing(
    qmi_journal *j, uint64_t fingerprint, qmi_error *err)
{
    char *text = NULL;
    size_t n_bytes = 0, n_good = 0;
    QMI_TRY(qmi_read_file(&text, &n_bytes, j->path, MAX_JOURNAL_BYTES, err));
    qmoe_status status = parse(j, text, fingerprint, &n_good, err);
    qmi_free(text);
    QMI_TRY(status);
    j->fd = open(j->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (j->fd < 0 || ftruncate(j->fd, (off_t)n_good) != 0)
        return qmi_fail_errno(err, "%s", j->path);
    return QMOE_OK;
}

static qmoe_status open_new(
    qmi_journal *j, uint64_t fingerprint, qmi_error *err)
{
    char head[LINE_BYTES];
    head_line(head, fingerprint);
    j->fd = open(j->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (j->fd < 0)
        return qmi_fail_errno(err, "%s", j->path);
    return append(j, head, strlen(head), err);
}

qmoe_status qmi_journal_open(qmi_journal **out, const char *directory,
    uint64_t fingerprint, bool resume, qmi_error *err)
{
    *out = NULL;
    qmi_journal *j = qmi_calloc(1, sizeof *j, "the journal", err);
    if (j == NULL)
        return QMOE_E_NOMEM;
    j->fd = -1;
    j->path = qmi_path_join(directory, QMI_JOURNAL_NAME, err);
    qmoe_status status = QMOE_E_NOMEM;
    if (j->path != NULL)
        status = resume ? open_existing(j, fingerprint, err)
                        : open_new(j, fingerprint, err);
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
    for (int64_t b = 0; b < journal->n_blocks; b++) {
        qmi_free(journal->blocks[b].experts.records);
        qmi_free(journal->blocks[b].trials.records);
    }
    qmi_free(journal->blocks);
    qmi_free(journal->path);
    qmi_free(journal);
}

qmoe_status qmi_journal_add(qmi_journal *journal, int64_t block,
    const qmi_expert_result *results, int64_t n, qmi_error *err)
{
    char *text = qmi_calloc((size_t)n, LINE_BYTES, "the journal", err);
    if (text == NULL)
        return QMOE_E_NOMEM;
    size_t length = 0;
    qmoe_status status = QMOE_OK;
    for (int64_t i = 0; status == QMOE_OK && i < n; i++) {
        qmi_journal_expert e = {
            .n_tokens = results[i].n_tokens, .n_counted = results[i].n_counted};
        for (int kind = 0; kind < QMI_N_KINDS; kind++) {
            e.length[kind] = qmi_encoded_length(&results[i].encoded[kind]);
            e.quality[kind] = results[i].quality[kind];
        }
        length += print_expert(text + length, block, &e);
        status = remember(journal, block, &e, err);
    }
    if (status == QMOE_OK)
        status = append(journal, text, length, err);
    qmi_free(text);
    return status;
}

qmoe_status qmi_journal_add_trials(qmi_journal *journal, int64_t block,
    const qmi_expert_trial *trials, int64_t n, qmi_error *err)
{
    char *text = qmi_calloc((size_t)n, LINE_BYTES, "the journal", err);
    if (text == NULL)
        return QMOE_E_NOMEM;
    size_t length = 0;
    qmoe_status status = QMOE_OK;
    for (int64_t i = 0; status == QMOE_OK && i < n; i++) {
        length += print_trial(text + length, block, &trials[i]);
        status = remember_trial(journal, block, &trials[i], err);
    }
    if (status == QMOE_OK)
        status = append(journal, text, length, err);
    qmi_free(text);
    return status;
}
