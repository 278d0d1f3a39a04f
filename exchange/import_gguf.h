/* SPDX-License-Identifier: Apache-2.0
 * Import of a GGUF file. */
#ifndef QMI_IMPORT_GGUF_H
#define QMI_IMPORT_GGUF_H

#include "hooks.h"
#include "qmoe/exchange.h"

/* qmoe_import for a source that is a file.  Its options `format` and
 * `tokenizer` must be NULL (E_INVALID). */
qmoe_status qmi_import_gguf(qmi_hooks *hooks, qmoe_import_report *report,
    const char *source, const char *output, const qmoe_import_options *options);

#endif
