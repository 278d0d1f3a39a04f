/* SPDX-License-Identifier: Apache-2.0
 * Strings of templates as Python treats them: counted in code points, every
 * byte with its provenance. */
#ifndef QMI_JINJA_STRING_H
#define QMI_JINJA_STRING_H

#include "jinja_run.h"

/* The code point at `at` < n_bytes of valid UTF-8, and how long it is. */
uint32_t qmi_jcode_point(const char *bytes, size_t at, size_t *n_bytes);
/* str.isspace() of a character, which is also a regular expression's \s. */
bool qmi_jis_space(uint32_t code_point);

/* The bytes [from, to) as a string that shares them. */
qmoe_status qmi_jsubstring(qmi_jrun *run, const qmi_jstring *string,
    size_t from, size_t to, const qmi_jstring **out);
/* Where `part` is, from the byte `from` on: *found and *at. */
qmoe_status qmi_jfind(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *part, size_t from, bool *found, size_t *at);

enum { QMI_J_LEFT = 1, QMI_J_RIGHT = 2 };
/* Without the characters of `set` (NULL: white space) at its ends. */
qmoe_status qmi_jstrip(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *set, unsigned sides, const qmi_jstring **out);
/* max_count < 0: all. */
qmoe_status qmi_jreplace(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *old, const qmi_jstring *with, int64_t max_count,
    const qmi_jstring **out);

typedef enum qmi_jcase {
    QMI_J_UPPER,
    QMI_J_LOWER,
    QMI_J_CAPITALIZE,
    QMI_J_TITLE,      /* str.title(): a word begins after what is no letter */
    QMI_J_TITLE_WORDS /* the filter: after white space and opening brackets */
} qmi_jcase;
/* The string as a value.  E_UNSUPPORTED: a character beyond ASCII. */
qmoe_status qmi_jchange_case(qmi_jrun *run, const qmi_jstring *string,
    qmi_jcase change, qmi_jvalue *out);

/* The lines without their ends; keep: with them. */
qmoe_status qmi_jsplit_lines(
    qmi_jrun *run, const qmi_jstring *string, bool keep, qmi_jlist **out);
/* separator NULL: runs of white space.  max_count < 0: all.  from_right: as
 * rsplit. */
qmoe_status qmi_jsplit(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *separator, int64_t max_count, bool from_right,
    qmi_jlist **out);

/* E_UNSUPPORTED for markup. */
qmoe_status qmi_jno_markup(qmi_jrun *run, const qmi_jstring *string);
/* The same text as markup. */
qmoe_status qmi_jmark_safe(
    qmi_jrun *run, const qmi_jstring *string, const qmi_jstring **out);
/* With & < > ' " as HTML writes them; markup stays as it is. */
qmoe_status qmi_jescape(
    qmi_jrun *run, const qmi_jstring *string, const qmi_jstring **out);

#endif
