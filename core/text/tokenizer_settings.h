/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_config.json: what it adds to a tokenizer. */
#ifndef QMI_TOKENIZER_SETTINGS_H
#define QMI_TOKENIZER_SETTINGS_H

#include "tokenizer_bpe.h"

/* Names of the frame's tokens, more added tokens, and whether BOS and EOS are
 * put around a text.  E_FORMAT naming `path`. */
qmoe_status qmi_tokenizer_read_settings(
    qmi_bpe_tokenizer *tokenizer, const char *path, qmi_error *err);

#endif
