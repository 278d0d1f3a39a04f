/* SPDX-License-Identifier: Apache-2.0
 * The table of formats and one line. */
#define QMI_MORE_FORMATS(X) X(TOY, toy)
#include "../../core/formats/format_table.c"
