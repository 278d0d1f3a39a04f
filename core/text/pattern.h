/* SPDX-License-Identifier: Apache-2.0
 * Patterns of tokenizers: regular expressions in the dialect of Hugging Face's
 * tokenizers (Oniguruma), run by PCRE2.  They come from untrusted files: their
 * length, nesting and steps are bounded. */
#ifndef QMI_PATTERN_H
#define QMI_PATTERN_H

#include <stdbool.h>

#include "text.h"

typedef struct qmi_pattern qmi_pattern;
typedef struct qmi_matcher qmi_matcher;

/* A regular expression; `literal`: a plain text.  E_FORMAT naming `file`: it
 * is none, or too long.  E_UNSUPPORTED: it uses what PCRE2 reads otherwise, or
 * matches the empty text. */
qmoe_status qmi_pattern_compile(qmi_pattern **out, const char *source,
    bool literal, const char *file, qmi_error *err);
void qmi_pattern_free(qmi_pattern *pattern);

/* What one call of encode matches with. */
qmoe_status qmi_matcher_create(qmi_matcher **out, qmi_error *err);
void qmi_matcher_free(qmi_matcher *matcher);

/* The first match in text[0..n), valid UTF-8, that begins at `from` or behind:
 * [*start, *end), not empty.  *start is n when there is none.  E_INVALID: it
 * takes too many steps. */
qmoe_status qmi_pattern_next(const qmi_pattern *pattern, qmi_matcher *matcher,
    size_t *start, size_t *end, const char *text, size_t n, size_t from,
    qmi_error *err);

/* The expression in PCRE2's dialect (pattern_rewrite.c), NUL-terminated. */
qmoe_status qmi_pattern_rewrite(
    qmi_text *out, const char *source, const char *file, qmi_error *err);

#endif
