/* SPDX-License-Identifier: Apache-2.0
 * In: untrusted text.  Out: a tree of cJSON that obeys RFC 8259, or its members
 * as the types they must have. cJSON takes more than the RFC allows (control
 * bytes as white space or inside strings, a byte order mark, "01", escaped NULs
 * that cut a string short, repeated keys); a scan of the text refuses those
 * first, and bounds the tree cJSON will build. */
#include "json.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "hints.h"
#include "map.h"
#include "texts.h"

enum {
    MAX_FILE_BYTES = 64 << 20,
    /* A tree node costs about 100 bytes.  The largest real file is the index
     * of a checkpoint with one entry per expert matrix, some 10^5. */
    MAX_VALUES = 1 << 21
};

/* Doubles hold every integer below this, and no integer above it reliably. */
static const double integer_limit = 9007199254740992.0; /* 2^53 */

/* ---- UTF-8 ---- */

/* Length of the well-formed sequence at `p`, or 0 (RFC 3629, section 4). */
static size_t utf8_length(const uint8_t *p, size_t n)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t length = 0;
    if (p[0] < 0x80)
        return 1;
    /* 0xc0 and 0xc1 would only begin overlong forms. */
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        length = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        length = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        length = 4;
    if (length == 0 || length > n)
        return 0;
    /* Overlong forms, surrogates and values above U+10FFFF show in the second
     * byte. */
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

size_t qmi_utf8_prefix(const void *text, size_t n_bytes)
{
    const uint8_t *p = text;
    size_t i = 0;
    while (i < n_bytes) {
        size_t length = utf8_length(p + i, n_bytes - i);
        if (length == 0)
            break;
        i += length;
    }
    return i;
}

bool qmi_utf8_valid(const void *text, size_t n_bytes)
{
    return qmi_utf8_prefix(text, n_bytes) == n_bytes;
}

/* ---- lexical rules ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Four hex digits that are not all zero: a NUL would cut the string short, and
 * cJSON makes one of digits it cannot read, too. */
static bool is_code_unit(const char *p, const char *end)
{
    bool zero = true;
    if (end - p < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)p[i]))
            return false;
        zero = zero && p[i] == '0';
    }
    return !zero;
}

/* Length of the string literal at `at`, both quotes included, or 0.  Which
 * other escapes exist is left to cJSON. */
static size_t string_length(const char *at, const char *end)
{
    for (const char *p = at + 1; p < end; p++) {
        if ((unsigned char)*p < 0x20)
            return 0;
        if (*p == '"')
            return (size_t)(p + 1 - at);
        /* A backslash and what it escapes are skipped together, so that \" does
         * not end the string. */
        if (*p != '\\')
            continue;
        p++;
        if (p < end && *p == 'u' && !is_code_unit(p + 1, end))
            return 0;
    }
    return 0;
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && is_digit(*p))
        p++;
    return p;
}

/* Length of the number at `at`, or 0. */
static size_t number_length(const char *at, const char *end)
{
    const char *p = at;
    if (p < end && *p == '-')
        p++;
    const char *digits = p;
    p = skip_digits(p, end);
    /* "01" is no number. */
    if (p == digits || (*digits == '0' && p - digits > 1))
        return 0;
    if (p < end && *p == '.') {
        digits = ++p;
        p = skip_digits(p, end);
        if (p == digits)
            return 0;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        digits = p;
        p = skip_digits(p, end);
        if (p == digits)
            return 0;
    }
    /* cJSON reads on over any of these. */
    if (p < end && *p != '\0' && strchr("+-.eE", *p) != NULL)
        return 0;
    return (size_t)(p - at);
}

/* First byte that breaks a lexical rule, or NULL.  *n_values is an upper
 * bound of the values in the text. */
static const char *find_fault(
    const char *text, const char *end, size_t *n_values)
{
    const char *p = text;
    *n_values = 1;
    /* A flat scan: nesting and order are left to cJSON. */
    while (p < end) {
        size_t length = 1;
        if (*p == '"')
            length = string_length(p, end);
        else if (*p == '-' || is_digit(*p))
            length = number_length(p, end);
        /* Each of these begins a value at most once. */
        else if (*p == ',' || *p == '[' || *p == '{')
            *n_values += 1;
        /* Letters are those of true, false and null; other words fail in
         * cJSON. */
        else if (!is_space(*p) && !(*p >= 'a' && *p <= 'z') && *p != ':' &&
                 *p != ']' && *p != '}')
            length = 0;
        if (length == 0)
            return p;
        p += length;
    }
    return NULL;
}

/* ---- cursor ---- */

static void skip_space(qmi_json_cursor *cursor)
{
    while (cursor->at < cursor->end && is_space(*cursor->at))
        cursor->at++;
}

bool qmi_json_take(qmi_json_cursor *cursor, char c)
{
    skip_space(cursor);
    if (cursor->at == cursor->end || *cursor->at != c)
        return false;
    cursor->at++;
    return true;
}

bool qmi_json_at_end(qmi_json_cursor *cursor)
{
    skip_space(cursor);
    return cursor->at == cursor->end;
}

/* The literal of `length` bytes at the cursor as an item; steps over it. */
static cJSON *take_literal(qmi_json_cursor *cursor, size_t length)
{
    const char *parsed_to = NULL;
    if (length == 0)
        return NULL;
    /* Exactly this literal: what follows it is the cursor's. */
    cJSON *item =
        cJSON_ParseWithLengthOpts(cursor->at, length, &parsed_to, false);
    if (item == NULL || parsed_to != cursor->at + length) {
        cJSON_Delete(item);
        return NULL;
    }
    cursor->at += length;
    return item;
}

cJSON *qmi_json_take_string(qmi_json_cursor *cursor)
{
    skip_space(cursor);
    if (cursor->at == cursor->end || *cursor->at != '"')
        return NULL;
    return take_literal(cursor, string_length(cursor->at, cursor->end));
}

bool qmi_json_take_u64(qmi_json_cursor *cursor, uint64_t *out)
{
    *out = 0;
    skip_space(cursor);
    cJSON *item = take_literal(cursor, number_length(cursor->at, cursor->end));
    bool good = qmi_json_to_u64(out, item);
    cJSON_Delete(item);
    return good;
}

/* ---- trees ---- */

static qmoe_status check_keys(
    const cJSON *object, const char *file, qmi_error *err)
{
    size_t n = (size_t)cJSON_GetArraySize(object);
    /* An object with one key has no doubles. */
    if (n < 2)
        return QMOE_OK;
    const char **keys = qmi_calloc(n, sizeof *keys, "a list of keys", err);
    if (keys == NULL)
        return QMOE_E_NOMEM;
    size_t i = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, object) keys[i++] = item->string;
    const char *repeated = qmi_texts_repeated(keys, n);
    qmoe_status status = QMOE_OK;
    if (repeated != NULL)
        status = qmi_fail(err, QMOE_E_FORMAT,
            "%s: duplicate key '%.200s' in an object", file, repeated);
    qmi_free(keys);
    return status;
}

/* Recursion is bounded by cJSON's own nesting limit. */
static qmoe_status check_unique(
    const cJSON *value, const char *file, qmi_error *err)
{
    if (cJSON_IsObject(value))
        QMI_TRY(check_keys(value, file, err));
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, value)
    {
        if (item->child != NULL)
            QMI_TRY(check_unique(item, file, err));
    }
    return QMOE_OK;
}

/* ---- numbers as they were written ---- */

/* The next number of the text outside of strings; 0 bytes at the end. */
static size_t next_number(const char **at, const char *end)
{
    while (*at < end) {
        if (**at == '-' || is_digit(**at))
            return number_length(*at, end);
        *at += **at == '"' ? string_length(*at, end) : 1;
    }
    return 0;
}

/* A literal with a point or exponent whose value is an integer. */
static bool loses_its_form(const cJSON *number, const char *literal, size_t n)
{
    return number->valuedouble == floor(number->valuedouble) &&
           (memchr(literal, '.', n) != NULL ||
               memchr(literal, 'e', n) != NULL ||
               memchr(literal, 'E', n) != NULL);
}

/* The tree has the numbers of the text, in its order.  cJSON does not look at
 * the string of a number, but copies and frees it. */
static bool keep_literals(cJSON *value, const char **at, const char *end)
{
    for (cJSON *item = value; item != NULL; item = item->next) {
        if (item->child != NULL && !keep_literals(item->child, at, end))
            return false;
        if (!cJSON_IsNumber(item))
            continue;
        const size_t n = next_number(at, end);
        if (loses_its_form(item, *at, n)) {
            item->valuestring = cJSON_malloc(n + 1);
            if (item->valuestring == NULL)
                return false;
            memcpy(item->valuestring, *at, n);
            item->valuestring[n] = '\0';
        }
        *at += n;
    }
    return true;
}

void qmi_json_print_as_read(cJSON *tree)
{
    for (cJSON *item = tree; item != NULL; item = item->next) {
        if (cJSON_IsNumber(item) && item->valuestring != NULL)
            item->type = cJSON_Raw;
        qmi_json_print_as_read(item->child);
    }
}

static qmoe_status fail_at(
    const char *text, const char *where, const char *file, qmi_error *err)
{
    /* For people: editors show lines. */
    size_t line = 1;
    for (const char *p = text; p < where; p++)
        line += *p == '\n';
    return qmi_fail(
        err, QMOE_E_FORMAT, "%s: not valid JSON at line %zu", file, line);
}

qmoe_status qmi_json_parse(cJSON **out, const char *text, size_t n_bytes,
    const char *file, qmi_error *err)
{
    size_t n_values = 0;
    *out = NULL;
    if (!qmi_utf8_valid(text, n_bytes))
        return qmi_fail(err, QMOE_E_FORMAT, "%s: not UTF-8", file);
    const char *fault = find_fault(text, text + n_bytes, &n_values);
    if (fault != NULL)
        return fail_at(text, fault, file, err);
    if (n_values > MAX_VALUES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: more than %d JSON values in one file", file, MAX_VALUES);
    qmi_json_cursor rest = {text, text + n_bytes};
    const char *parsed_to = text;
    cJSON *value = NULL;
    if (n_bytes != 0)
        value = cJSON_ParseWithLengthOpts(text, n_bytes, &parsed_to, false);
    rest.at = parsed_to;
    /* White space at most may follow. */
    if (value == NULL || !qmi_json_at_end(&rest)) {
        cJSON_Delete(value);
        return fail_at(text, rest.at, file, err);
    }
    qmoe_status status = check_unique(value, file, err);
    const char *at = text;
    if (status == QMOE_OK && !keep_literals(value, &at, text + n_bytes))
        status = qmi_fail(err, QMOE_E_NOMEM, "%s: out of memory", file);
    if (status != QMOE_OK) {
        cJSON_Delete(value);
        return status;
    }
    *out = value;
    return QMOE_OK;
}

/* A file above the bound is refused before it is read. */
qmoe_status qmi_json_load(cJSON **out, const char *path, qmi_error *err)
{
    char *text = NULL;
    size_t n_bytes = 0;
    *out = NULL;
    QMI_TRY(qmi_read_file(&text, &n_bytes, path, MAX_FILE_BYTES, err));
    qmoe_status status = qmi_json_parse(out, text, n_bytes, path, err);
    /* Only after a failure: the text is usually fine. */
    const char *hint =
        status == QMOE_E_FORMAT ? qmi_hint_contents(text, n_bytes) : NULL;
    if (hint != NULL)
        qmi_fail(err, status, "%s: not valid JSON, but %s", path, hint);
    qmi_free(text);
    return status;
}

/* ---- members ---- */

/* NULL when missing or null: Hugging Face writes null for "not set". */
static const cJSON *member(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static bool is_integer(const cJSON *number)
{
    /* Written so that NaN and infinity fail the comparisons. */
    double value = cJSON_IsNumber(number) ? number->valuedouble : NAN;
    return value > -integer_limit && value < integer_limit &&
           floor(value) == value;
}

/* Below 2^53 every integer is a double of its own. */
bool qmi_json_to_u64(uint64_t *out, const cJSON *number)
{
    *out = 0;
    if (!is_integer(number) || number->valuedouble < 0)
        return false;
    *out = (uint64_t)number->valuedouble;
    return true;
}

qmoe_status qmi_json_int(int64_t *out, const cJSON *object, const char *key,
    bool required, int64_t fallback, int64_t low, int64_t high,
    const char *file, qmi_error *err)
{
    const cJSON *item = member(object, key);
    *out = 0;
    if (item == NULL && required)
        return qmi_fail(err, QMOE_E_FORMAT, "%s: '%s' is missing", file, key);
    if (item == NULL) {
        *out = fallback;
        return QMOE_OK;
    }
    /* The cast is safe: is_integer keeps within 2^53. */
    if (!is_integer(item) || (int64_t)item->valuedouble < low ||
        (int64_t)item->valuedouble > high)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: '%s' is not an integer between %lld and %lld", file, key,
            (long long)low, (long long)high);
    *out = (int64_t)item->valuedouble;
    return QMOE_OK;
}

/* The fallback is not checked: it is the program's own. */
qmoe_status qmi_json_double(double *out, const cJSON *object, const char *key,
    double fallback, const char *file, qmi_error *err)
{
    const cJSON *item = member(object, key);
    *out = fallback;
    if (item == NULL)
        return QMOE_OK;
    *out = 0;
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
        return qmi_fail(
            err, QMOE_E_FORMAT, "%s: '%s' is not a finite number", file, key);
    *out = item->valuedouble;
    return QMOE_OK;
}

qmoe_status qmi_json_bool(bool *out, const cJSON *object, const char *key,
    bool fallback, const char *file, qmi_error *err)
{
    const cJSON *item = member(object, key);
    *out = item == NULL ? fallback : cJSON_IsTrue(item);
    if (item == NULL || cJSON_IsBool(item))
        return QMOE_OK;
    return qmi_fail(
        err, QMOE_E_FORMAT, "%s: '%s' is not true or false", file, key);
}

qmoe_status qmi_json_string(const char **out, const cJSON *object,
    const char *key, const char *fallback, const char *file, qmi_error *err)
{
    const cJSON *item = member(object, key);
    *out = item == NULL ? fallback : cJSON_GetStringValue(item);
    if (item == NULL || *out != NULL)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT, "%s: '%s' is not a string", file, key);
}
