/* SPDX-License-Identifier: Apache-2.0
 * Weight formats as the tool shows them. */
#ifndef CLI_FORMATS_H
#define CLI_FORMATS_H

#include "qmoe/quant.h"

/* NULL: the default format.  False, and all traits false, when there is none of
 * that name that experts can be compressed to. */
bool cli_find_format(qmoe_format_info *out, const char *name);
bool cli_format_makes_rounds(const qmoe_format_info *format, bool fit_levels);

/* Prints a help text, in which {formats}, {rotating}, {levels}, {dictionary},
 * {budget}, {variable} and {rounds} become lists of names, {default} the default
 * format, and a line "{summaries}" one line for each format. */
void cli_print_help(const char *text);

#endif
