/* SPDX-License-Identifier: Apache-2.0
 * In: the text of a template, valid UTF-8.  Out: its tokens.  Line ends and
 * white space around tags are dropped as jinja2 does with trim_blocks and
 * lstrip_blocks. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja_string.h"
#include "jinja_tree.h"

enum { MAX_TOKENS = 200 * 1000, MAX_BRACKETS = 128, MAX_NUMBER = 64 };

typedef struct lexer {
    qmi_jsource *source;
    const char *text;
    size_t at, end;
    uint32_t line;
    size_t line_at; /* up to where lines were counted */
    bool line_starts;
} lexer;

bool qmi_jrefuse(qmi_jsource *source, qmoe_status status, uint32_t line,
    const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    qmi_fail(
        source->err, status, "%s:%u: %s", source->file, (unsigned)line, text);
    return false;
}

static uint32_t line_of(lexer *l)
{
    for (; l->line_at < l->at; l->line_at++)
        l->line += l->text[l->line_at] == '\n';
    return l->line;
}

static bool refuse(lexer *l, const char *what)
{
    return qmi_jrefuse(l->source, QMOE_E_FORMAT, line_of(l), "%s", what);
}

static bool add(lexer *l, qmi_jtoken_kind kind, uint16_t op, qmi_jvalue value)
{
    qmi_jsource *s = l->source;
    if (s->n_tokens == MAX_TOKENS)
        return qmi_jrefuse(s, QMOE_E_FORMAT, line_of(l),
            "the template has more than %d tokens", MAX_TOKENS);
    if (s->n_tokens == s->capacity) {
        size_t capacity = 2 * s->capacity + 64;
        qmi_jtoken *tokens = qmi_jarena_take(
            s->arena, capacity, sizeof *tokens, s->file, s->err);
        if (tokens == NULL)
            return false;
        if (s->n_tokens > 0)
            memcpy(tokens, s->tokens, s->n_tokens * sizeof *tokens);
        s->tokens = tokens;
        s->capacity = capacity;
    }
    s->tokens[s->n_tokens++] =
        (qmi_jtoken){(uint8_t)kind, op, line_of(l), value};
    return true;
}

static bool add_string(
    lexer *l, qmi_jtoken_kind kind, const char *bytes, size_t n_bytes)
{
    qmi_jsource *s = l->source;
    qmi_jstring *string =
        qmi_jarena_take(s->arena, 1, sizeof *string, s->file, s->err);
    if (string == NULL)
        return false;
    string->bytes = bytes;
    string->n_bytes = n_bytes;
    return add(l, kind, 0, qmi_jof_string(string));
}

static bool next_is(const lexer *l, const char *text)
{
    size_t n = strlen(text);
    return l->end - l->at >= n && memcmp(l->text + l->at, text, n) == 0;
}

static void skip_spaces(lexer *l)
{
    size_t n = 0;
    while (l->at < l->end && qmi_jis_space(qmi_jcode_point(l->text, l->at, &n)))
        l->at += n;
}

/* ---- text between tags ---- */

/* The text [from, to) before a tag, as that tag leaves it. */
static bool add_data(
    lexer *l, size_t from, size_t to, char sign, bool before_print)
{
    size_t end = to, n = 0;
    while (end > from) {
        size_t begin = end - 1;
        while ((l->text[begin] & 0xc0) == 0x80)
            begin--;
        if (!qmi_jis_space(qmi_jcode_point(l->text, begin, &n)))
            break;
        end = begin;
    }
    if (sign != '-') {
        /* Only white space since the line began: dropped with the tag. */
        size_t line = to;
        while (line > from && l->text[line - 1] != '\n')
            line--;
        bool drop = sign != '+' && !before_print && end <= line &&
                    (line > from || l->line_starts);
        end = drop ? line : to;
    }
    return end == from || add_string(l, QMI_J_DATA, l->text + from, end - from);
}

/* The end of a tag or comment, like "%}", and what it drops after itself. */
static bool take_end(lexer *l, const char *end, bool is_print)
{
    size_t from = l->at;
    bool minus = next_is(l, "-"), plus = !is_print && next_is(l, "+");
    l->at += minus || plus;
    if (!next_is(l, end)) {
        l->at = from;
        return false;
    }
    l->at += 2;
    if (minus)
        skip_spaces(l);
    else if (!plus && !is_print && next_is(l, "\n"))
        l->at++;
    l->line_starts = l->text[l->at - 1] == '\n';
    return true;
}

static bool skip_comment(lexer *l)
{
    while (l->at < l->end) {
        if (take_end(l, "#}", false))
            return true;
        l->at++;
    }
    return refuse(l, "a comment does not end");
}

/* After "{%" and its sign: is this {% raw %}?  Its text is one token. */
static bool take_raw(lexer *l, bool *is_raw)
{
    size_t before = l->at;
    skip_spaces(l);
    *is_raw = next_is(l, "raw");
    if (*is_raw) {
        l->at += 3;
        skip_spaces(l);
        bool minus = next_is(l, "-%}");
        *is_raw = minus || next_is(l, "%}");
        l->at += minus ? 3 : 2;
        if (minus)
            skip_spaces(l);
    }
    if (!*is_raw) {
        l->at = before;
        return true;
    }
    l->line_starts = l->text[l->at - 1] == '\n';
    for (size_t from = l->at; l->at < l->end; l->at++) {
        size_t tag = l->at;
        if (!next_is(l, "{%"))
            continue;
        l->at += 2;
        char sign = next_is(l, "-") || next_is(l, "+") ? l->text[l->at++] : 0;
        skip_spaces(l);
        if (next_is(l, "endraw")) {
            bool starts = l->line_starts;
            l->at += 6;
            skip_spaces(l);
            if (take_end(l, "%}", false)) {
                bool ends = l->line_starts;
                l->line_starts = starts;
                bool added = add_data(l, from, tag, sign, false);
                l->line_starts = ends;
                return added;
            }
        }
        l->at = tag;
    }
    return refuse(l, "a raw block does not end");
}

/* ---- inside of tags ---- */

static size_t digits(const lexer *l, size_t at, int base)
{
    size_t begin = at;
    for (; at < l->end; at++) {
        char c = l->text[at];
        bool is_digit = base == 16 ? isxdigit((unsigned char)c) != 0
                                   : c >= '0' && c < '0' + base;
        bool between = c == '_' && at > begin && l->text[at - 1] != '_';
        if (!is_digit && !between)
            break;
    }
    return at > begin && l->text[at - 1] == '_' ? at - 1 : at;
}

/* The end of a float at `at`, or `at`. */
static size_t float_end(const lexer *l)
{
    size_t whole = digits(l, l->at, 10), end = whole;
    if (l->at > 0 && l->text[l->at - 1] == '.')
        return l->at;
    if (end < l->end && l->text[end] == '.') {
        size_t fraction = digits(l, end + 1, 10);
        end = fraction > end + 1 ? fraction : end;
    }
    if (end < l->end && (l->text[end] | 0x20) == 'e') {
        size_t e = end + 1;
        e += e < l->end && (l->text[e] == '+' || l->text[e] == '-');
        size_t exponent = digits(l, e, 10);
        end = exponent > e ? exponent : end;
    }
    return end == whole ? l->at : end;
}

static bool take_number(lexer *l)
{
    char text[MAX_NUMBER + 1];
    size_t n = 0, end = float_end(l);
    bool is_float = end > l->at;
    int base = 10;
    if (!is_float && next_is(l, "0")) {
        char c = l->at + 1 < l->end ? (char)(l->text[l->at + 1] | 0x20) : 0;
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        size_t begin = l->at + 2;
        if (base != 10 && begin < l->end && l->text[begin] == '_')
            begin++;
        end = base == 10 ? l->at : digits(l, begin, base);
        if (base != 10 && end == begin) {
            base = 10;
            end = l->at + 1;
        } else if (base != 10)
            l->at += 2;
        else
            while (end < l->end && l->text[end] == '0')
                end++;
    } else if (!is_float)
        end = digits(l, l->at, 10);
    for (; l->at < end; l->at++) {
        if (n == MAX_NUMBER)
            return refuse(l, "a number is too long");
        if (l->text[l->at] != '_')
            text[n++] = l->text[l->at];
    }
    text[n] = '\0';
    char *rest = NULL;
    if (is_float)
        return add(l, QMI_J_CONSTANT, 0, qmi_jfloat(strtod(text, &rest)));
    errno = 0;
    int64_t value = strtoll(text, &rest, base);
    if (errno == ERANGE)
        return qmi_jrefuse(l->source, QMOE_E_UNSUPPORTED, line_of(l),
            "integers of more than 64 bits are not supported");
    return add(l, QMI_J_CONSTANT, 0, qmi_jint(value));
}

static size_t put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        to[i] = (char)(0x80 | (c & 0x3f));
    to[0] = (char)((0xf00u >> n & 0xf0u) | c);
    return n;
}

/* After a backslash at l->at: the character that the escape stands for.  Never
 * longer than the escape. */
static bool take_escape(lexer *l, char *to, size_t *n)
{
    static const char letters[] = "ntrabfv0\\'\"";
    static const char codes[] = "\n\t\r\a\b\f\v\0\\'\"";
    char c = l->text[l->at++];
    const char *place = c == '\0' || c == '0' ? NULL : strchr(letters, c);
    size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int base = n_digits > 0 ? 16 : 8;
    uint32_t value = 0;
    if (c == '\n')
        return true;
    if (place != NULL) {
        to[(*n)++] = codes[place - letters];
        return true;
    }
    if (c == 'N')
        return refuse(l, "escapes of the form \\N{...} are not supported");
    if (c >= '0' && c <= '7') {
        l->at--;
        while (n_digits < 3 && l->at + n_digits < l->end &&
               l->text[l->at + n_digits] >= '0' &&
               l->text[l->at + n_digits] <= '7')
            n_digits++;
    }
    if (n_digits == 0) {
        /* An escape that Python does not know stays as it is. */
        to[(*n)++] = '\\';
        to[(*n)++] = c;
        return true;
    }
    size_t stop = l->at + n_digits;
    for (; l->at < stop; l->at++) {
        char d = l->at < l->end ? l->text[l->at] : ' ';
        if (!isxdigit((unsigned char)d))
            return refuse(l, "an escape in a string is cut short");
        value = value * (uint32_t)base +
                (uint32_t)(d <= '9' ? d - '0' : (d | 0x20) - 'a' + 10);
    }
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
        return refuse(l, "an escape in a string is no character");
    *n += put_utf8(to + *n, value);
    return true;
}

static bool take_string(lexer *l)
{
    char quote = l->text[l->at];
    size_t end = l->at + 1, n = 0;
    while (end < l->end && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->end)
        return refuse(l, "a string does not end");
    char *bytes = qmi_jarena_take(
        l->source->arena, end - l->at, 1, l->source->file, l->source->err);
    if (bytes == NULL)
        return false;
    l->at++;
    while (l->at < end) {
        char c = l->text[l->at++];
        if (c != '\\') {
            bytes[n++] = c;
            continue;
        }
        /* A backslash before a character beyond ASCII stays. */
        if ((uint8_t)l->text[l->at] >= 0x80)
            bytes[n++] = c;
        else if (!take_escape(l, bytes, &n))
            return false;
    }
    if (l->at != end)
        return refuse(l, "an escape in a string is cut short");
    l->at++;
    return add_string(l, QMI_J_CONSTANT, bytes, n);
}

static bool take_name(lexer *l)
{
    size_t begin = l->at;
    while (l->at < l->end &&
           (isalnum((unsigned char)l->text[l->at]) || l->text[l->at] == '_'))
        l->at++;
    return add_string(l, QMI_J_NAME, l->text + begin, l->at - begin);
}

static bool take_operator(lexer *l, char *brackets, size_t *n_brackets)
{
    static const char *const twos[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->text[l->at];
    for (size_t i = 0; i < sizeof twos / sizeof twos[0]; i++)
        if (next_is(l, twos[i])) {
            l->at += 2;
            return add(l, QMI_J_OPERATOR, QMI_J_TWO(twos[i][0], twos[i][1]),
                qmi_jnone());
        }
    if (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL)
        return refuse(l, "a character that has no meaning in a tag");
    const char *opens = strchr("()[]{}", c);
    if (opens != NULL && (c == '(' || c == '[' || c == '{')) {
        if (*n_brackets == MAX_BRACKETS)
            return refuse(l, "brackets nest too deeply");
        brackets[(*n_brackets)++] = opens[1];
    } else if (opens != NULL &&
               (*n_brackets == 0 || brackets[--*n_brackets] != c))
        return refuse(l, "a bracket closes that was not opened");
    l->at++;
    return add(l, QMI_J_OPERATOR, (uint8_t)c, qmi_jnone());
}

static bool take_tag(lexer *l, bool is_print)
{
    char brackets[MAX_BRACKETS];
    size_t n_brackets = 0;
    if (!add(l, is_print ? QMI_J_PRINT_BEGIN : QMI_J_BLOCK_BEGIN, 0,
            qmi_jnone()))
        return false;
    for (;;) {
        skip_spaces(l);
        if (l->at == l->end)
            return refuse(l, "a tag does not end");
        if (n_brackets == 0 && take_end(l, is_print ? "}}" : "%}", is_print))
            return add(l, is_print ? QMI_J_PRINT_END : QMI_J_BLOCK_END, 0,
                qmi_jnone());
        char c = l->text[l->at];
        bool taken = isdigit((unsigned char)c)   ? take_number(l)
                     : c == '"' || c == '\''     ? take_string(l)
                     : isalpha((unsigned char)c) ? take_name(l)
                     : c == '_'                  ? take_name(l)
                                : take_operator(l, brackets, &n_brackets);
        if (!taken)
            return false;
    }
}

/* ---- the whole ---- */

/* Python's line ends become \n, and the last one goes. */
static char *normalize(qmi_jsource *s, const char *text, size_t n_bytes)
{
    char *copy = qmi_jarena_take(s->arena, n_bytes + 1, 1, s->file, s->err);
    if (copy == NULL)
        return NULL;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        bool is_return = text[i] == '\r';
        copy[n++] = is_return ? '\n' : text[i];
        i += is_return && i + 1 < n_bytes && text[i + 1] == '\n';
    }
    s->n_bytes = n > 0 && copy[n - 1] == '\n' ? n - 1 : n;
    s->text = copy;
    return copy;
}

/* Where the next tag begins, or the end. */
static size_t find_tag(const lexer *l)
{
    for (size_t at = l->at; at + 1 < l->end; at++)
        if (l->text[at] == '{' && strchr("%{#", l->text[at + 1]) != NULL &&
            l->text[at + 1] != '\0')
            return at;
    return l->end;
}

bool qmi_jlex(qmi_jsource *source, const char *text, size_t n_bytes)
{
    lexer l = {.source = source, .line = 1, .line_starts = true};
    l.text = normalize(source, text, n_bytes);
    if (l.text == NULL)
        return false;
    l.end = source->n_bytes;
    while (l.at < l.end) {
        size_t from = l.at, tag = find_tag(&l);
        if (tag == l.end) {
            l.at = l.end;
            if (!add_string(&l, QMI_J_DATA, l.text + from, l.end - from))
                return false;
            break;
        }
        char kind = l.text[tag + 1];
        l.at = tag + 2;
        char sign = next_is(&l, "-") || next_is(&l, "+") ? l.text[l.at++] : 0;
        bool is_raw = false;
        if (!add_data(&l, from, tag, sign, kind == '{'))
            return false;
        if (kind == '%' && !take_raw(&l, &is_raw))
            return false;
        if (!is_raw &&
            !(kind == '#' ? skip_comment(&l) : take_tag(&l, kind == '{')))
            return false;
    }
    return add(&l, QMI_J_END, 0, qmi_jnone());
}
