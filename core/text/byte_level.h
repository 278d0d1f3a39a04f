/* SPDX-License-Identifier: Apache-2.0
 * How tokenizer.json writes bytes: each of the 256 is a character (GPT-2). */
#ifndef QMI_BYTE_LEVEL_H
#define QMI_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>

/* The byte that a character stands for; -1: it stands for none. */
int qmi_byte_of_character(int point);
/* The bytes that `token`, valid UTF-8 of n bytes, stands for, in out[0..n).
 * False: a character of it stands for none. */
bool qmi_bytes_of_token(char *out, size_t *n_out, const char *token, size_t n);

#endif
