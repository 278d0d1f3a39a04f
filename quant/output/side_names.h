/* SPDX-License-Identifier: Apache-2.0
 * Names of the small files beside the weights: tokenizer, generation settings. */
#ifndef QMI_SIDE_NAMES_H
#define QMI_SIDE_NAMES_H

#include <stdbool.h>

enum { QMI_N_SIDE_FILES = 10 };
extern const char *const qmi_side_files[QMI_N_SIDE_FILES]; /* their names */

bool qmi_is_side_file(const char *name);

#endif
