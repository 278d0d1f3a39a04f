/* SPDX-License-Identifier: Apache-2.0
 * The lines of a journal as text.  Every line ends in a checksum of itself and
 * of all lines before it, so none can be changed, left out, doubled or moved
 * by accident. */
#ifndef QMI_JOURNAL_LINES_H
#define QMI_JOURNAL_LINES_H

#include "expert_trial.h"

/* Something that decides the result, such as a file of the source or an
 * option: its name, and its value or checksum.  Neither holds a character
 * below a space. */
typedef struct qmi_journal_input {
    char name[288], value[288];
} qmi_journal_input;

/* One finished expert; of its matrices [n_kinds]. */
typedef struct qmi_journal_expert {
    int n_kinds;
    uint64_t length[QMI_MAX_EXPERT_MATRICES]; /* of the variable part */
    uint64_t digest[QMI_MAX_EXPERT_MATRICES]; /* qmi_encoded_digest */
    qmi_quant_result quality[QMI_MAX_EXPERT_MATRICES];
    int64_t n_borrowed[QMI_MAX_EXPERT_MATRICES];
    int64_t n_tokens, n_counted;
    uint64_t begin, chain; /* the journal's own: where its line begins */
} qmi_journal_expert;

enum { QMI_LINE_BYTES = 896 };

/* Prints a line without its end; the length. */
size_t qmi_line_print_input(
    char line[QMI_LINE_BYTES], const qmi_journal_input *input);
size_t qmi_line_print_trial(
    char line[QMI_LINE_BYTES], int64_t block, const qmi_expert_trial *trial);
size_t qmi_line_print_expert(
    char line[QMI_LINE_BYTES], int64_t block, const qmi_journal_expert *expert);

/* The reverse: false for anything but what would be printed. */
bool qmi_line_parse_input(const char *line, qmi_journal_input *input);
bool qmi_line_parse_trial(
    const char *line, int64_t *block, qmi_expert_trial *trial);
bool qmi_line_parse_expert(
    const char *line, int64_t *block, qmi_journal_expert *expert);

/* Appends " #<checksum>\n" to a line of n bytes; the new length.  *chain is
 * the checksum of the line before, 0 at first, and becomes this one's. */
size_t qmi_line_seal(char line[QMI_LINE_BYTES], size_t n, uint64_t *chain);
/* Checks and cuts the checksum off a line (NUL-terminated, without '\n'). */
bool qmi_line_unseal(char *line, uint64_t *chain);

#endif
