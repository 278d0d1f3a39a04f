/* SPDX-License-Identifier: Apache-2.0
 * In: a record or an input.  Out: one line of text, and the reverse.  Doubles
 * are in hexadecimal, exactly.  A line is parsed by printing what was read and
 * comparing: so there is one spelling of each value, and the parser needs no
 * rules of its own about spaces, signs or leading zeros. */
#include "journal_lines.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hash.h"

/* ---- inputs ---- */

size_t qmi_line_print_input(
    char line[QMI_LINE_BYTES], const qmi_journal_input *input)
{
    return (size_t)snprintf(
        line, QMI_LINE_BYTES, "input\t%s\t%s", input->name, input->value);
}

bool qmi_line_parse_input(const char *line, qmi_journal_input *input)
{
    char again[QMI_LINE_BYTES];
    *input = (qmi_journal_input){0};
    /* 287 characters and the NUL fill the arrays of qmi_journal_input. */
    if (sscanf(line, "input\t%287[^\t]\t%287[^\t]", input->name,
            input->value) != 2)
        return false;
    qmi_line_print_input(again, input);
    return strcmp(line, again) == 0;
}

/* ---- trials ---- */

size_t qmi_line_print_trial(
    char line[QMI_LINE_BYTES], int64_t block, const qmi_expert_trial *trial)
{
    size_t n = (size_t)snprintf(line, QMI_LINE_BYTES, "trial %" PRId64, block);
    for (int kind = 0; kind < trial->n_kinds; kind++)
        n += (size_t)snprintf(line + n, QMI_LINE_BYTES - n, " %d %a %a",
            trial->measured[kind], trial->error[kind][QMI_SMALL],
            trial->error[kind][QMI_LARGE]);
    return n;
}

/* %n tells how far the text was read; what follows is the next kind's. */
static bool parse_errors(const char **at, qmi_expert_trial *trial, int kind)
{
    int measured = 0, n = 0;
    if (sscanf(*at, " %d %la %la%n", &measured, &trial->error[kind][QMI_SMALL],
            &trial->error[kind][QMI_LARGE], &n) != 3)
        return false;
    trial->measured[kind] = measured != 0;
    *at += n;
    return true;
}

bool qmi_line_parse_trial(
    const char *line, int64_t *block, qmi_expert_trial *trial)
{
    char again[QMI_LINE_BYTES];
    int n = 0;
    if (sscanf(line, "trial %" SCNd64 "%n", block, &n) != 1)
        return false;
    const char *at = line + n;
    trial->n_kinds = 0;
    while (*at != '\0' && trial->n_kinds < QMI_MAX_EXPERT_MATRICES)
        if (!parse_errors(&at, trial, trial->n_kinds++))
            return false;
    qmi_line_print_trial(again, *block, trial);
    return strcmp(line, again) == 0;
}

/* ---- experts ---- */

/* Eleven numbers; parse_matrix reads them in the same order. */
static size_t print_matrix(
    char *line, size_t capacity, const qmi_journal_expert *e, int kind)
{
    const qmi_quant_result *q = &e->quality[kind];
    return (size_t)snprintf(line, capacity,
        " %" PRIu64 " %016" PRIx64 " %a %a %d %a %a %" PRIu64 " %a %d %" PRId64,
        e->length[kind], e->digest[kind], q->error, q->energy, q->on_inputs,
        q->weight_error, q->weight_energy, q->n_zeros, q->entropy_bits,
        q->fell_back, e->n_borrowed[kind]);
}

size_t qmi_line_print_expert(
    char line[QMI_LINE_BYTES], int64_t block, const qmi_journal_expert *expert)
{
    /* All matrices with all numbers at their longest fit QMI_LINE_BYTES. */
    size_t n = (size_t)snprintf(line, QMI_LINE_BYTES,
        "expert %" PRId64 " %" PRId64 " %" PRId64, block, expert->n_tokens,
        expert->n_counted);
    for (int kind = 0; kind < expert->n_kinds; kind++)
        n += print_matrix(line + n, QMI_LINE_BYTES - n, expert, kind);
    return n;
}

static bool parse_matrix(const char **at, qmi_journal_expert *e, int kind)
{
    qmi_quant_result *q = &e->quality[kind];
    int on_inputs = 0, fell_back = 0, n = 0;
    /* Overflowing numbers give some value, which the comparison in the caller
     * refuses. */
    if (sscanf(*at,
            " %" SCNu64 " %" SCNx64 " %la %la %d %la %la %" SCNu64
            " %la %d %" SCNd64 "%n",
            &e->length[kind], &e->digest[kind], &q->error, &q->energy,
            &on_inputs, &q->weight_error, &q->weight_energy, &q->n_zeros,
            &q->entropy_bits, &fell_back, &e->n_borrowed[kind], &n) != 11)
        return false;
    q->on_inputs = on_inputs != 0;
    q->fell_back = fell_back != 0;
    *at += n;
    return true;
}

bool qmi_line_parse_expert(
    const char *line, int64_t *block, qmi_journal_expert *expert)
{
    char again[QMI_LINE_BYTES];
    int n = 0;
    if (sscanf(line, "expert %" SCNd64 " %" SCNd64 " %" SCNd64 "%n", block,
            &expert->n_tokens, &expert->n_counted, &n) != 3)
        return false;
    const char *at = line + n;
    expert->n_kinds = 0;
    while (*at != '\0' && expert->n_kinds < QMI_MAX_EXPERT_MATRICES)
        if (!parse_matrix(&at, expert, expert->n_kinds++))
            return false;
    qmi_line_print_expert(again, *block, expert);
    return strcmp(line, again) == 0;
}

/* ---- checksums ---- */

/* Covers the line and, through the chain, every line before it. */
static uint64_t chained(uint64_t chain, const char *line, size_t n)
{
    const uint64_t pair[2] = {chain, qmi_hash64(line, n)};
    return qmi_hash64(pair, sizeof pair);
}

size_t qmi_line_seal(char line[QMI_LINE_BYTES], size_t n, uint64_t *chain)
{
    char hex[17];
    *chain = chained(*chain, line, n);
    qmi_hash_hex(hex, *chain);
    return n + (size_t)snprintf(line + n, QMI_LINE_BYTES - n, " #%s\n", hex);
}

/* The last '#', because the names of inputs may hold others. */
bool qmi_line_unseal(char *line, uint64_t *chain)
{
    char hex[17];
    char *mark = strrchr(line, '#');
    if (mark == NULL || mark == line)
        return false;
    /* mark > line, so there is a character in front of it to look at. */
    const size_t n = (size_t)(mark - 1 - line);
    const uint64_t expected = chained(*chain, line, n);
    qmi_hash_hex(hex, expected);
    if (mark[-1] != ' ' || strcmp(mark + 1, hex) != 0)
        return false;
    line[n] = '\0';
    /* The chain moves only over sound lines. */
    *chain = expected;
    return true;
}
