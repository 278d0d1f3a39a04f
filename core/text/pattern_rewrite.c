/* SPDX-License-Identifier: Apache-2.0
 * In: a regular expression for Oniguruma, as tokenizer.json holds it.  Out: one
 * that means the same to PCRE2, or an error that names what could differ.
 *
 * Both read most constructs alike.  \s becomes its 25 characters, since PCRE2
 * counts one more, and a script becomes Script=, since PCRE2 would take
 * Script_Extensions.  What the dialects read differently and what no known
 * tokenizer uses is refused: nothing is passed on unseen. */
#include "pattern.h"

#include <string.h>

enum { MAX_BYTES = 16384 };

/* Inside of a class. */
#define SPACE                                                                  \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
    "\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACE                                                               \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}"              \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"                \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

static const char *const CATEGORIES[] = {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M",
    "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe", "Pi",
    "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc",
    "Cf", "Co"};
static const char *const SCRIPTS[] = {"Han", "Hiragana", "Katakana", "Hangul",
    "Bopomofo", "Latin", "Greek", "Cyrillic", "Armenian", "Arabic", "Hebrew",
    "Devanagari", "Thai"};
/* What may follow an opening bracket. */
static const char *const GROUPS[] = {"?:", "?i:", "?!", "?=", "?<!", "?<="};

#define COUNT(array) (sizeof(array) / sizeof *(array))

typedef struct rewriter {
    const char *at;
    qmi_text *out;
    const char *file;
    qmi_error *err;
} rewriter;

/* The construct at the start of `at`, at most 12 bytes of it. */
static qmoe_status refuse(rewriter *r, const char *at, const char *why)
{
    int n = 0;
    while (n < 12 && at[n] != '\0')
        n++;
    /* Not in the middle of a character. */
    while (n > 0 && n == 12 && ((uint8_t)at[n] & 0xc0) == 0x80)
        n--;
    return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
        "%s: a pattern has '%.*s', %s, which is not supported", r->file, n, at,
        why);
}

static bool is_listed(
    const char *const *list, size_t n_list, const char *name, size_t n)
{
    for (size_t i = 0; i < n_list; i++)
        if (strlen(list[i]) == n && memcmp(list[i], name, n) == 0)
            return true;
    return false;
}

static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z');
}

/* \p{name} or \P{name}. */
static qmoe_status put_property(rewriter *r)
{
    const char *name = r->at + 3;
    const char *end = r->at[2] == '{' ? strchr(name, '}') : NULL;
    if (end == NULL)
        return refuse(r, r->at, "a property without braces");
    const size_t n = (size_t)(end - name);
    const bool is_script = is_listed(SCRIPTS, COUNT(SCRIPTS), name, n);
    if (!is_script && !is_listed(CATEGORIES, COUNT(CATEGORIES), name, n))
        return refuse(r, r->at, "a property");
    qmi_text_bytes(r->out, r->at, 3);
    if (is_script)
        qmi_text_string(r->out, "sc:");
    qmi_text_bytes(r->out, name, n + 1);
    r->at = end + 1;
    return QMOE_OK;
}

/* Four hexadecimal digits: \uXXXX. */
static qmoe_status put_code_point(rewriter *r)
{
    if (strspn(r->at + 2, "0123456789abcdefABCDEF") < 4)
        return refuse(r, r->at, "an escape");
    qmi_text_string(r->out, "\\x{");
    qmi_text_bytes(r->out, r->at + 2, 4);
    qmi_text_string(r->out, "}");
    r->at += 6;
    return QMOE_OK;
}

/* A backslash and what it escapes. */
static qmoe_status put_escape(rewriter *r, bool in_class)
{
    const char c = r->at[1];
    if (c == 'p' || c == 'P')
        return put_property(r);
    if (c == 'u')
        return put_code_point(r);
    if (c == 's' || c == 'S') {
        const char *open = c == 's' ? "[" : "[^";
        qmi_text_string(r->out, in_class ? "" : open);
        qmi_text_string(r->out, in_class && c == 'S' ? NO_SPACE : SPACE);
        qmi_text_string(r->out, in_class ? "" : "]");
    } else if (c == '\0' || (uint8_t)c >= 0x80 ||
               (is_alphanumeric(c) && strchr("rntdD", c) == NULL)) {
        return refuse(r, r->at, "an escape");
    } else {
        qmi_text_bytes(r->out, r->at, 2);
    }
    r->at += 2;
    return QMOE_OK;
}

static qmoe_status put_class(rewriter *r)
{
    const size_t n_open = r->at[1] == '^' ? 2 : 1;
    qmi_text_bytes(r->out, r->at, n_open);
    r->at += n_open;
    if (*r->at == ']')
        return refuse(r, r->at, "a bracket first in a class");
    while (*r->at != ']') {
        if (*r->at == '\0')
            return qmi_fail(r->err, QMOE_E_FORMAT,
                "%s: a pattern has a class without an end", r->file);
        if (*r->at == '[')
            return refuse(r, r->at, "a class in a class");
        if (strncmp(r->at, "&&", 2) == 0)
            return refuse(r, r->at, "an intersection of classes");
        if (*r->at == '\\') {
            QMI_TRY(put_escape(r, true));
            continue;
        }
        qmi_text_bytes(r->out, r->at++, 1);
    }
    qmi_text_bytes(r->out, r->at++, 1);
    return QMOE_OK;
}

static qmoe_status put_group(rewriter *r)
{
    size_t n = 1;
    if (r->at[1] == '?' || r->at[1] == '*') {
        for (size_t i = 0; i < COUNT(GROUPS) && n == 1; i++)
            if (strncmp(r->at + 1, GROUPS[i], strlen(GROUPS[i])) == 0)
                n += strlen(GROUPS[i]);
        if (n == 1)
            return refuse(r, r->at, "a group");
    }
    qmi_text_bytes(r->out, r->at, n);
    r->at += n;
    return QMOE_OK;
}

static qmoe_status put_next(rewriter *r)
{
    switch (*r->at) {
    case '\\':
        return put_escape(r, false);
    case '[':
        return put_class(r);
    case '(':
        return put_group(r);
    case '{':
        if (r->at[1] == ',')
            return refuse(r, r->at, "a repetition without a least number");
        break;
    case '}':
        if (r->at[1] == '+')
            return refuse(r, r->at, "a repetition of a repetition");
        break;
    default:
        break;
    }
    qmi_text_bytes(r->out, r->at++, 1);
    return QMOE_OK;
}

qmoe_status qmi_pattern_rewrite(
    qmi_text *out, const char *source, const char *file, qmi_error *err)
{
    rewriter r = {.at = source, .out = out, .file = file, .err = err};
    const size_t n = strlen(source);
    if (n == 0 || n > MAX_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: a pattern has %zu bytes, not 1 to %d", file, n,
            (int)MAX_BYTES);
    while (*r.at != '\0')
        QMI_TRY(put_next(&r));
    qmi_text_bytes(out, "", 1);
    return out->failed ? QMOE_E_NOMEM : QMOE_OK;
}
