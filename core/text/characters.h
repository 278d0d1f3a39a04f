/* SPDX-License-Identifier: Apache-2.0
 * Kinds of characters, as the pre-tokenizers and added tokens of Hugging Face
 * ask for them.  Text is valid UTF-8. */
#ifndef QMI_CHARACTERS_H
#define QMI_CHARACTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first character of text[0..n), n > 0: its code point, and how many bytes
 * it has. */
size_t qmi_character(const char *text, size_t n, int32_t *point);
/* The 25 characters of the property White_Space. */
bool qmi_is_space(int32_t point);
/* Categories Nd, Nl, No. */
bool qmi_is_numeric(int32_t point);
/* Letters, marks, digits, letter numbers, connectors. */
bool qmi_is_word(int32_t point);

/* Bytes of the white space that text[0..n) begins or ends with. */
size_t qmi_leading_space(const char *text, size_t n);
size_t qmi_trailing_space(const char *text, size_t n);
/* The first or last character is_word; false for an empty text. */
bool qmi_starts_with_word(const char *text, size_t n);
bool qmi_ends_with_word(const char *text, size_t n);

#endif
