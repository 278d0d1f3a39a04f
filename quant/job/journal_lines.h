/* SPDX-License-Identifier: Apache-2.0
 * The lines of a journal as text.  Every line ends in a checksum of itself and
 * of all lines before it, so none can be changed, left out, doubled or moved
 * by accident. */
#ifndef QMI_JOURNAL_LINES_H
#define QMI_JOURNAL_LINES_H

#include "journal.h"

enum { QMI_LINE_BYTES = 640 };

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
