/* SPDX-License-Identifier: Apache-2.0
 * In: a string, list, dict or loop and arguments.  Out: what Python's method of
 * that name returns. */
#include "jinja_functions.h"
#include "jinja_string.h"

#define BODY(name)                                                             \
    static qmoe_status name(qmi_jrun *run, qmi_jvalue self,                    \
        const qmi_jvalue *arguments, qmi_jvalue *out)

/* NULL where there is none, or None. */
static qmoe_status optional_string(
    qmi_jrun *run, qmi_jvalue value, const char *what, const qmi_jstring **out)
{
    *out = NULL;
    if (value.kind == QMI_J_ABSENT || value.kind == QMI_J_NONE)
        return QMOE_OK;
    return qmi_jneed_string(run, value, what, out);
}

/* *out stays where there is none. */
static qmoe_status optional_int(
    qmi_jrun *run, qmi_jvalue value, const char *what, int64_t *out)
{
    if (value.kind == QMI_J_ABSENT)
        return QMOE_OK;
    return qmi_jneed_int(run, value, what, out);
}

/* ---- strings ---- */

static qmoe_status strip_sides(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, unsigned sides, qmi_jvalue *out)
{
    const qmi_jstring *set = NULL, *result = NULL;
    QMI_TRY(optional_string(run, arguments[0], "the argument of strip", &set));
    QMI_TRY(qmi_jstrip(run, self.as.string, set, sides, &result));
    *out = qmi_jof_string(result);
    return QMOE_OK;
}

BODY(strip)
{
    return strip_sides(run, self, arguments, QMI_J_LEFT | QMI_J_RIGHT, out);
}

BODY(lstrip)
{
    return strip_sides(run, self, arguments, QMI_J_LEFT, out);
}

BODY(rstrip)
{
    return strip_sides(run, self, arguments, QMI_J_RIGHT, out);
}

BODY(upper)
{
    (void)arguments;
    return qmi_jchange_case(run, self.as.string, QMI_J_UPPER, out);
}

BODY(lower)
{
    (void)arguments;
    return qmi_jchange_case(run, self.as.string, QMI_J_LOWER, out);
}

BODY(title)
{
    (void)arguments;
    return qmi_jchange_case(run, self.as.string, QMI_J_TITLE, out);
}

BODY(capitalize)
{
    (void)arguments;
    return qmi_jchange_case(run, self.as.string, QMI_J_CAPITALIZE, out);
}

static qmoe_status split_from(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, bool from_right, qmi_jvalue *out)
{
    const qmi_jstring *separator = NULL;
    int64_t max_count = -1;
    qmi_jlist *list = NULL;
    QMI_TRY(optional_string(
        run, arguments[0], "the separator of split", &separator));
    QMI_TRY(optional_int(
        run, arguments[1], "the second argument of split", &max_count));
    QMI_TRY(qmi_jsplit(
        run, self.as.string, separator, max_count, from_right, &list));
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

BODY(split)
{
    return split_from(run, self, arguments, false, out);
}

BODY(rsplit)
{
    return split_from(run, self, arguments, true, out);
}

BODY(splitlines)
{
    qmi_jlist *list = NULL;
    bool keep = arguments[0].kind != QMI_J_ABSENT && qmi_jtruth(arguments[0]);
    QMI_TRY(qmi_jsplit_lines(run, self.as.string, keep, &list));
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

static bool has_end(
    const qmi_jstring *string, const qmi_jstring *part, bool at_start)
{
    if (part->n_bytes > string->n_bytes)
        return false;
    size_t from = at_start ? 0 : string->n_bytes - part->n_bytes;
    qmi_jstring end = {string->bytes + from, NULL, part->n_bytes, false};
    return qmi_jname_same(&end, part);
}

/* With a string or any one of a tuple of strings. */
static qmoe_status has_one_end(qmi_jrun *run, qmi_jvalue self,
    qmi_jvalue wanted, bool at_start, qmi_jvalue *out)
{
    static const char what[] = "the argument of startswith or endswith";
    const qmi_jstring *part = NULL;
    bool found = false;
    qmi_jlist one = {.flavor = QMI_J_TUPLE, .n = 1, .items = &wanted};
    const qmi_jlist *all = &one;
    if (qmi_jis_list(wanted, 1u << QMI_J_TUPLE))
        all = wanted.as.list;
    for (size_t i = 0; i < all->n && !found; i++) {
        QMI_TRY(qmi_jneed_string(run, all->items[i], what, &part));
        QMI_TRY(qmi_jspend(run, part->n_bytes / 64 + 1));
        found = has_end(self.as.string, part, at_start);
    }
    *out = qmi_jbool(found);
    return QMOE_OK;
}

BODY(startswith)
{
    return has_one_end(run, self, arguments[0], true, out);
}

BODY(endswith)
{
    return has_one_end(run, self, arguments[0], false, out);
}

static qmoe_status remove_end(qmi_jrun *run, qmi_jvalue self, qmi_jvalue wanted,
    bool at_start, qmi_jvalue *out)
{
    const qmi_jstring *part = NULL, *result = NULL;
    size_t from = 0, to = self.as.string->n_bytes;
    QMI_TRY(qmi_jneed_string(
        run, wanted, "the argument of removeprefix or removesuffix", &part));
    if (has_end(self.as.string, part, at_start)) {
        from = at_start ? part->n_bytes : 0;
        to -= at_start ? 0 : part->n_bytes;
    }
    QMI_TRY(qmi_jsubstring(run, self.as.string, from, to, &result));
    *out = qmi_jof_string(result);
    return QMOE_OK;
}

BODY(removeprefix)
{
    return remove_end(run, self, arguments[0], true, out);
}

BODY(removesuffix)
{
    return remove_end(run, self, arguments[0], false, out);
}

BODY(replace)
{
    const qmi_jstring *old = NULL, *with = NULL, *result = NULL;
    int64_t max_count = -1;
    QMI_TRY(qmi_jno_markup(run, self.as.string));
    QMI_TRY(
        qmi_jneed_string(run, arguments[0], "an argument of replace", &old));
    QMI_TRY(
        qmi_jneed_string(run, arguments[1], "an argument of replace", &with));
    QMI_TRY(optional_int(
        run, arguments[2], "the third argument of replace", &max_count));
    QMI_TRY(qmi_jreplace(run, self.as.string, old, with, max_count, &result));
    *out = qmi_jof_string(result);
    return QMOE_OK;
}

BODY(join)
{
    const qmi_jlist *list = NULL;
    const qmi_jstring *part = NULL;
    size_t start = run->n_bytes;
    QMI_TRY(qmi_jno_markup(run, self.as.string));
    QMI_TRY(qmi_jiterate(run, arguments[0], &list));
    for (size_t i = 0; i < list->n; i++) {
        QMI_TRY(
            qmi_jneed_string(run, list->items[i], "an item of join", &part));
        QMI_TRY(qmi_jspend(run, 1));
        if (i > 0)
            QMI_TRY(qmi_jwrite(run, self.as.string));
        QMI_TRY(qmi_jwrite(run, part));
    }
    QMI_TRY(qmi_jtake_text(run, start, &part));
    *out = qmi_jof_string(part);
    return QMOE_OK;
}

/* Where the argument is, in characters; -1: nowhere. */
static qmoe_status place_of(
    qmi_jrun *run, qmi_jvalue self, qmi_jvalue wanted, int64_t *out)
{
    const qmi_jstring *part = NULL;
    bool found = false;
    size_t at = 0, n = 0;
    QMI_TRY(qmi_jneed_string(run, wanted, "the argument of find", &part));
    QMI_TRY(qmi_jfind(run, self.as.string, part, 0, &found, &at));
    qmi_jstring before = {self.as.string->bytes, NULL, at, false};
    QMI_TRY(qmi_jlength(run, qmi_jof_string(&before), &n));
    *out = found ? (int64_t)n : -1;
    return QMOE_OK;
}

BODY(find)
{
    int64_t place = 0;
    QMI_TRY(place_of(run, self, arguments[0], &place));
    *out = qmi_jint(place);
    return QMOE_OK;
}

BODY(index_of_part)
{
    int64_t place = 0;
    QMI_TRY(place_of(run, self, arguments[0], &place));
    *out = qmi_jint(place);
    return place >= 0 ? QMOE_OK
                      : qmi_jfail(run, QMOE_E_FORMAT,
                            "index: the string does not have that part");
}

BODY(count_parts)
{
    const qmi_jstring *part = NULL;
    size_t at = 0, n = 0;
    int64_t count = 0;
    QMI_TRY(
        qmi_jneed_string(run, arguments[0], "the argument of count", &part));
    if (part->n_bytes == 0) {
        QMI_TRY(qmi_jlength(run, self, &n));
        *out = qmi_jint((int64_t)n + 1);
        return QMOE_OK;
    }
    for (bool found = true; found;) {
        QMI_TRY(qmi_jfind(run, self.as.string, part, at, &found, &at));
        count += found;
        at += part->n_bytes;
    }
    *out = qmi_jint(count);
    return QMOE_OK;
}

/* Which characters a string has: bits. */
enum { LOWER = 1, UPPER = 2, DIGIT = 4, SPACE = 8, OTHER = 16 };

static unsigned classes(const qmi_jstring *string)
{
    unsigned all = 0;
    size_t n = 0;
    for (size_t i = 0; i < string->n_bytes; i += n) {
        uint32_t c = qmi_jcode_point(string->bytes, i, &n);
        all |= c >= 'a' && c <= 'z'   ? LOWER
               : c >= 'A' && c <= 'Z' ? UPPER
               : c >= '0' && c <= '9' ? DIGIT
               : qmi_jis_space(c)     ? SPACE
                                      : OTHER;
    }
    return all;
}

/* only: all characters are of these classes, and there are some.  some: there
 * are some of these, and none of the other letters. */
static qmoe_status has_classes(qmi_jrun *run, qmi_jvalue self, unsigned only,
    unsigned some, qmi_jvalue *out)
{
    const qmi_jstring *string = self.as.string;
    QMI_TRY(qmi_jspend(run, string->n_bytes / 16));
    for (size_t i = 0; only != SPACE && i < string->n_bytes; i++)
        if ((uint8_t)string->bytes[i] >= 0x80)
            return qmi_jfail(run, QMOE_E_UNSUPPORTED,
                "classes of characters beyond ASCII are not supported");
    unsigned all = classes(string);
    *out = qmi_jbool(some != 0 ? (all & (LOWER | UPPER)) == some
                               : all != 0 && (all & ~only) == 0);
    return QMOE_OK;
}

BODY(isdigit_)
{
    (void)arguments;
    return has_classes(run, self, DIGIT, 0, out);
}

BODY(isalpha_)
{
    (void)arguments;
    return has_classes(run, self, LOWER | UPPER, 0, out);
}

BODY(isalnum_)
{
    (void)arguments;
    return has_classes(run, self, LOWER | UPPER | DIGIT, 0, out);
}

BODY(isspace_)
{
    (void)arguments;
    return has_classes(run, self, SPACE, 0, out);
}

BODY(islower_)
{
    (void)arguments;
    return has_classes(run, self, 0, LOWER, out);
}

BODY(isupper_)
{
    (void)arguments;
    return has_classes(run, self, 0, UPPER, out);
}

static const qmi_jfunction string_methods[] = {
    {.name = "strip", .n_parameters = 1, .body = strip},
    {.name = "lstrip", .n_parameters = 1, .body = lstrip},
    {.name = "rstrip", .n_parameters = 1, .body = rstrip},
    {.name = "upper", .body = upper},
    {.name = "lower", .body = lower},
    {.name = "title", .body = title},
    {.name = "capitalize", .body = capitalize},
    {.name = "split",
        .n_parameters = 2,
        .body = split,
        .parameters = {"sep", "maxsplit"}},
    {.name = "rsplit",
        .n_parameters = 2,
        .body = rsplit,
        .parameters = {"sep", "maxsplit"}},
    {.name = "splitlines",
        .n_parameters = 1,
        .body = splitlines,
        .parameters = {"keepends"}},
    {.name = "startswith",
        .n_required = 1,
        .n_parameters = 1,
        .body = startswith},
    {.name = "endswith", .n_required = 1, .n_parameters = 1, .body = endswith},
    {.name = "removeprefix",
        .n_required = 1,
        .n_parameters = 1,
        .body = removeprefix},
    {.name = "removesuffix",
        .n_required = 1,
        .n_parameters = 1,
        .body = removesuffix},
    {.name = "replace", .n_required = 2, .n_parameters = 3, .body = replace},
    {.name = "join", .n_required = 1, .n_parameters = 1, .body = join},
    {.name = "find", .n_required = 1, .n_parameters = 1, .body = find},
    {.name = "index",
        .n_required = 1,
        .n_parameters = 1,
        .body = index_of_part},
    {.name = "count", .n_required = 1, .n_parameters = 1, .body = count_parts},
    {.name = "isdigit", .body = isdigit_},
    {.name = "isalpha", .body = isalpha_},
    {.name = "isalnum", .body = isalnum_},
    {.name = "isspace", .body = isspace_},
    {.name = "islower", .body = islower_},
    {.name = "isupper", .body = isupper_},
    {.name = "casefold"},
    {.name = "center"},
    {.name = "encode"},
    {.name = "expandtabs"},
    {.name = "format"},
    {.name = "format_map"},
    {.name = "isascii"},
    {.name = "isdecimal"},
    {.name = "isidentifier"},
    {.name = "isnumeric"},
    {.name = "isprintable"},
    {.name = "istitle"},
    {.name = "ljust"},
    {.name = "maketrans"},
    {.name = "partition"},
    {.name = "rfind"},
    {.name = "rindex"},
    {.name = "rjust"},
    {.name = "rpartition"},
    {.name = "swapcase"},
    {.name = "translate"},
    {.name = "zfill"},
};

/* ---- lists ---- */

/* The first equal item; *place is -1 without. */
static qmoe_status count_equal(qmi_jrun *run, const qmi_jlist *list,
    qmi_jvalue wanted, int64_t *place, int64_t *n)
{
    *place = -1;
    *n = 0;
    QMI_TRY(qmi_jspend(run, list->n / 8));
    for (size_t i = 0; i < list->n; i++) {
        bool same = false;
        QMI_TRY(qmi_jequal(run, list->items[i], wanted, &same));
        if (same && (*n)++ == 0)
            *place = (int64_t)i;
    }
    return QMOE_OK;
}

BODY(index_of_item)
{
    int64_t place = 0, n = 0;
    QMI_TRY(count_equal(run, self.as.list, arguments[0], &place, &n));
    *out = qmi_jint(place);
    return n > 0 ? QMOE_OK
                 : qmi_jfail(run, QMOE_E_FORMAT,
                       "index: the list does not have that item");
}

BODY(count_items)
{
    int64_t place = 0, n = 0;
    QMI_TRY(count_equal(run, self.as.list, arguments[0], &place, &n));
    *out = qmi_jint(n);
    return QMOE_OK;
}

BODY(copy)
{
    (void)run;
    (void)arguments;
    *out = self;
    return QMOE_OK;
}

static const char no_changes[] =
    "templates must not change lists and dicts (the original renderer refuses "
    "it, too)";

static const qmi_jfunction list_methods[] = {
    {.name = "index",
        .n_required = 1,
        .n_parameters = 1,
        .body = index_of_item},
    {.name = "count", .n_required = 1, .n_parameters = 1, .body = count_items},
    {.name = "copy", .body = copy},
    {.name = "append", .why = no_changes},
    {.name = "clear", .why = no_changes},
    {.name = "extend", .why = no_changes},
    {.name = "insert", .why = no_changes},
    {.name = "pop", .why = no_changes},
    {.name = "remove", .why = no_changes},
    {.name = "reverse", .why = no_changes},
    {.name = "sort", .why = no_changes},
};
/* Tuples and ranges have the first two. */
enum { N_TUPLE_METHODS = 2 };

/* ---- dicts ---- */

enum { KEYS, VALUES, ITEMS };

static qmoe_status dict_view(
    qmi_jrun *run, const qmi_jdict *dict, int what, qmi_jvalue *out)
{
    qmi_jlist *list = NULL, *pair = NULL;
    QMI_TRY(qmi_jnew_list(run, QMI_J_VIEW, dict->n, &list));
    for (size_t i = 0; i < dict->n; i++) {
        list->items[i] = dict->entries[i].key;
        if (what == VALUES)
            list->items[i] = dict->entries[i].value;
        if (what != ITEMS)
            continue;
        QMI_TRY(qmi_jnew_list(run, QMI_J_TUPLE, 2, &pair));
        pair->items[0] = dict->entries[i].key;
        pair->items[1] = dict->entries[i].value;
        list->items[i] = qmi_jof_list(pair);
    }
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

BODY(keys)
{
    (void)arguments;
    return dict_view(run, self.as.dict, KEYS, out);
}

BODY(values)
{
    (void)arguments;
    return dict_view(run, self.as.dict, VALUES, out);
}

BODY(items)
{
    (void)arguments;
    return dict_view(run, self.as.dict, ITEMS, out);
}

BODY(get)
{
    qmi_jvalue *value = NULL;
    QMI_TRY(qmi_jdict_find(run, self.as.dict, arguments[0], &value));
    *out = arguments[1].kind == QMI_J_ABSENT ? qmi_jnone() : arguments[1];
    if (value != NULL)
        *out = *value;
    return QMOE_OK;
}

static const qmi_jfunction dict_methods[] = {
    {.name = "keys", .body = keys},
    {.name = "values", .body = values},
    {.name = "items", .body = items},
    {.name = "get", .n_required = 1, .n_parameters = 2, .body = get},
    {.name = "copy", .body = copy},
    {.name = "fromkeys"},
    {.name = "clear", .why = no_changes},
    {.name = "pop", .why = no_changes},
    {.name = "popitem", .why = no_changes},
    {.name = "setdefault", .why = no_changes},
    {.name = "update", .why = no_changes},
};

/* ---- loops ---- */

static qmoe_status cycle(
    qmi_jrun *run, qmi_jvalue self, const qmi_jcall *call, qmi_jvalue *out)
{
    if (call->n == 0 || call->n_named > 0)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "cycle has nothing to choose from");
    *out = call->values[self.as.loop->index % call->n];
    return QMOE_OK;
}

static const qmi_jfunction loop_methods[] = {
    {.name = "cycle", .open_body = cycle},
};

#define FIND(table, name)                                                      \
    qmi_jfind_function(table, sizeof table / sizeof table[0], name)

const qmi_jfunction *qmi_jfind_method(qmi_jvalue self, const qmi_jstring *name)
{
    switch (self.kind) {
    case QMI_J_STRING:
        return FIND(string_methods, name);
    case QMI_J_DICT:
        return FIND(dict_methods, name);
    case QMI_J_LOOP:
        return FIND(loop_methods, name);
    case QMI_J_LIST:
        if (self.as.list->flavor == QMI_J_PLAIN)
            return FIND(list_methods, name);
        return qmi_jis_list(self, 1u << QMI_J_TUPLE | 1u << QMI_J_RANGE)
                   ? qmi_jfind_function(list_methods, N_TUPLE_METHODS, name)
                   : NULL;
    default:
        return NULL;
    }
}
