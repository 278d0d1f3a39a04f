/* SPDX-License-Identifier: Apache-2.0
 * The small files beside the weights: tokenizer, generation settings. */
#ifndef QMI_SIDE_FILES_H
#define QMI_SIDE_FILES_H

#include "checkpoint.h"
#include "manifest.h"
#include "side_names.h"

/* Reads side file `i` of `checkpoint`, or if that is NULL of `directory`
 * (qmi_free).  E_NOT_FOUND: there is none. */
qmoe_status qmi_side_file_read(char **text, size_t *n_bytes, size_t i,
    const qmi_checkpoint *checkpoint, const char *directory, qmi_error *err);
/* Copies those that `checkpoint`, or if that is NULL `directory`, has, as they
 * are.  `manifest` records them; NULL: the output has none. */
qmoe_status qmi_copy_side_files(qmi_output *output, qmi_manifest *manifest,
    const qmi_checkpoint *checkpoint, const char *directory, qmi_error *err);

#endif
