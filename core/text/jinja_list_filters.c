/* SPDX-License-Identifier: Apache-2.0
 * In: a value that can be walked, and arguments.  Out: what the filter of that
 * name makes of its items.  Filters that are generators in jinja2 work at once
 * here, but their results can be walked once, too. */
#include "jinja_functions.h"
#include "jinja_string.h"

#define BODY(name)                                                             \
    static qmoe_status name(qmi_jrun *run, qmi_jvalue self,                    \
        const qmi_jvalue *arguments, qmi_jvalue *out)
#define OPEN_BODY(name)                                                        \
    static qmoe_status name(qmi_jrun *run, qmi_jvalue self,                    \
        const qmi_jcall *call, qmi_jvalue *out)

/* ---- attributes of items ---- */

static bool given(qmi_jvalue value)
{
    return value.kind != QMI_J_ABSENT && value.kind != QMI_J_NONE;
}

static bool all_digits(const qmi_jstring *string, int64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < string->n_bytes; i++) {
        if (string->bytes[i] < '0' || string->bytes[i] > '9' || i == 9)
            return false;
        *out = 10 * *out + string->bytes[i] - '0';
    }
    return string->n_bytes > 0;
}

/* item.a.b for the path "a.b"; parts of digits are indices.  No path: the item
 * itself.  fallback: what stands for each part that is undefined. */
static qmoe_status follow_or(qmi_jrun *run, qmi_jvalue item, qmi_jvalue path,
    qmi_jvalue fallback, qmi_jvalue *out)
{
    bool falls_back = given(fallback);
    *out = item;
    if (!given(path))
        return QMOE_OK;
    if (qmi_jis_integer(path)) {
        QMI_TRY(qmi_jitem(run, item, path, out));
        if (falls_back && out->kind == QMI_J_UNDEFINED)
            *out = fallback;
        return QMOE_OK;
    }
    const qmi_jstring *text = NULL, *part = NULL;
    QMI_TRY(qmi_jneed_string(run, path, "the name of an attribute", &text));
    for (size_t from = 0, to = 0; from <= text->n_bytes; from = to + 1) {
        int64_t index = 0;
        for (to = from; to < text->n_bytes && text->bytes[to] != '.'; to++)
            if (text->bytes[to] == ',')
                return qmi_jfail(run, QMOE_E_UNSUPPORTED,
                    "lists of attributes are not supported");
        QMI_TRY(qmi_jspend(run, 1));
        QMI_TRY(qmi_jsubstring(run, text, from, to, &part));
        qmi_jvalue key =
            all_digits(part, &index) ? qmi_jint(index) : qmi_jof_string(part);
        QMI_TRY(qmi_jitem(run, *out, key, out));
        if (falls_back && out->kind == QMI_J_UNDEFINED)
            *out = fallback;
    }
    return QMOE_OK;
}

static qmoe_status follow(
    qmi_jrun *run, qmi_jvalue item, qmi_jvalue path, qmi_jvalue *out)
{
    return follow_or(run, item, path, (qmi_jvalue){QMI_J_ABSENT, {0}}, out);
}

/* What items are ordered by: strings without regard to case unless asked. */
static qmoe_status sort_key(qmi_jrun *run, qmi_jvalue item, qmi_jvalue path,
    bool with_case, qmi_jvalue *out)
{
    QMI_TRY(follow(run, item, path, out));
    if (with_case || out->kind != QMI_J_STRING)
        return QMOE_OK;
    return qmi_jchange_case(run, out->as.string, QMI_J_LOWER, out);
}

/* ---- parts ---- */

static qmoe_status new_copy(qmi_jrun *run, const qmi_jlist *from,
    qmi_jflavor flavor, bool reversed, qmi_jvalue *out)
{
    qmi_jlist *list = NULL;
    QMI_TRY(qmi_jnew_list(run, flavor, from->n, &list));
    for (size_t i = 0; i < from->n; i++)
        list->items[i] = from->items[reversed ? from->n - 1 - i : i];
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

BODY(to_list)
{
    const qmi_jlist *items = NULL;
    (void)arguments;
    QMI_TRY(qmi_jiterate(run, self, &items));
    return new_copy(run, items, QMI_J_PLAIN, false, out);
}

static bool is_generator(qmi_jvalue value)
{
    return qmi_jis_list(value, 1u << QMI_J_ITERATOR);
}

BODY(first)
{
    (void)arguments;
    const qmi_jlist *items = NULL;
    if (is_generator(self))
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the first item of a generator is not supported; 'list' makes a "
            "list of it");
    QMI_TRY(qmi_jiterate(run, self, &items));
    *out = items->n > 0 ? items->items[0] : qmi_jundefined(NULL);
    return QMOE_OK;
}

BODY(last)
{
    (void)arguments;
    const qmi_jlist *items = NULL;
    if (is_generator(self))
        return qmi_jfail(
            run, QMOE_E_FORMAT, "a generator cannot be walked from its end");
    QMI_TRY(qmi_jiterate(run, self, &items));
    *out = items->n > 0 ? items->items[items->n - 1] : qmi_jundefined(NULL);
    return QMOE_OK;
}

BODY(reverse)
{
    const qmi_jlist *items = NULL;
    const qmi_jvalue backward[3] = {
        {QMI_J_ABSENT, {0}}, {QMI_J_ABSENT, {0}}, qmi_jint(-1)};
    (void)arguments;
    if (self.kind == QMI_J_STRING)
        return qmi_jslice(run, self, backward, out);
    bool generator = is_generator(self);
    QMI_TRY(qmi_jiterate(run, self, &items));
    return new_copy(
        run, items, generator ? QMI_J_PLAIN : QMI_J_ITERATOR, true, out);
}

BODY(items)
{
    (void)arguments;
    qmi_jcall none = {0};
    qmi_jlist *list = NULL;
    static const qmi_jstring name = {"items", NULL, 5, false};
    if (self.kind == QMI_J_UNDEFINED) {
        QMI_TRY(qmi_jnew_list(run, QMI_J_ITERATOR, 0, &list));
        *out = qmi_jof_list(list);
        return QMOE_OK;
    }
    if (self.kind != QMI_J_DICT)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "items does not take a %s", qmi_jtype(self));
    QMI_TRY(qmi_jcall_function(
        run, qmi_jfind_method(self, &name), self, &none, out));
    out->as.list->flavor = QMI_J_ITERATOR;
    return QMOE_OK;
}

BODY(join)
{
    const qmi_jlist *list = NULL;
    const qmi_jstring *separator = NULL, *text = NULL;
    QMI_TRY(qmi_jiterate(run, self, &list));
    if (arguments[0].kind != QMI_J_ABSENT)
        QMI_TRY(qmi_jto_string(run, arguments[0], &separator));
    size_t start = run->n_bytes;
    for (size_t i = 0; i < list->n; i++) {
        qmi_jvalue item = {0};
        QMI_TRY(follow(run, list->items[i], arguments[1], &item));
        QMI_TRY(qmi_jspend(run, 1));
        if (i > 0 && separator != NULL)
            QMI_TRY(qmi_jwrite(run, separator));
        QMI_TRY(qmi_jwrite_value(run, item));
    }
    QMI_TRY(qmi_jtake_text(run, start, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

/* ---- order ---- */

typedef struct keyed {
    qmi_jvalue key, item;
} keyed;

/* Merges [from, middle) and [middle, to) of `a` into `b`; equal ones stay in
 * their order. */
static qmoe_status merge(qmi_jrun *run, const keyed *a, keyed *b, size_t from,
    size_t middle, size_t to, bool reversed)
{
    size_t left = from, right = middle;
    for (size_t i = from; i < to; i++) {
        int order = 0;
        if (left < middle && right < to)
            QMI_TRY(qmi_jorder(run, a[left].key, a[right].key, &order));
        if (reversed)
            order = -order;
        bool take_left = right == to || (left < middle && order <= 0);
        b[i] = take_left ? a[left++] : a[right++];
    }
    return qmi_jspend(run, to - from);
}

/* Stable, and also where reversed. */
static qmoe_status sort_keyed(
    qmi_jrun *run, keyed **values, size_t n, bool reversed)
{
    keyed *a = *values, *b = NULL;
    QMI_TRY(qmi_jtake(run, &b, n, sizeof *b));
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t middle = from + width < n ? from + width : n;
            size_t to = middle + width < n ? middle + width : n;
            QMI_TRY(merge(run, a, b, from, middle, to, reversed));
        }
        keyed *other = a;
        a = b;
        b = other;
    }
    *values = a;
    return QMOE_OK;
}

/* in_lists: jinja2's `sort` compares lists of one key, which makes equal keys
 * equal even where they have no order. */
static qmoe_status sort_items(qmi_jrun *run, const qmi_jlist *items,
    qmi_jvalue path, bool with_case, bool reversed, bool in_lists,
    qmi_jvalue *out)
{
    keyed *values = NULL;
    qmi_jlist *list = NULL;
    QMI_TRY(qmi_jtake(run, &values, items->n, sizeof *values));
    for (size_t i = 0; i < items->n; i++) {
        values[i].item = items->items[i];
        QMI_TRY(
            sort_key(run, items->items[i], path, with_case, &values[i].key));
        if (!in_lists)
            continue;
        QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, 1, &list));
        list->items[0] = values[i].key;
        values[i].key = qmi_jof_list(list);
    }
    QMI_TRY(sort_keyed(run, &values, items->n, reversed));
    QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, items->n, &list));
    for (size_t i = 0; i < items->n; i++)
        list->items[i] = values[i].item;
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

BODY(sort)
{
    const qmi_jlist *items = NULL;
    QMI_TRY(qmi_jiterate(run, self, &items));
    return sort_items(run, items, arguments[2], qmi_jtruth(arguments[1]),
        qmi_jtruth(arguments[0]), true, out);
}

BODY(dictsort)
{
    qmi_jvalue view = {0};
    int64_t column = 0;
    if (self.kind != QMI_J_DICT)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "dictsort does not take a %s", qmi_jtype(self));
    if (arguments[1].kind != QMI_J_ABSENT) {
        const qmi_jstring *by = NULL;
        QMI_TRY(qmi_jneed_string(run, arguments[1], "by", &by));
        column = qmi_jname_is(by, "value");
        if (column == 0 && !qmi_jname_is(by, "key"))
            return qmi_jfail(
                run, QMOE_E_FORMAT, "dictsort: 'by' is neither key nor value");
    }
    QMI_TRY(items(run, self, arguments, &view));
    return sort_items(run, view.as.list, qmi_jint(column),
        qmi_jtruth(arguments[0]), qmi_jtruth(arguments[2]), false, out);
}

static qmoe_status extreme(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, int sign, qmi_jvalue *out)
{
    const qmi_jlist *list = NULL;
    qmi_jvalue best = {0}, key = {0};
    bool with_case = qmi_jtruth(arguments[0]);
    QMI_TRY(qmi_jiterate(run, self, &list));
    *out = qmi_jundefined(NULL);
    for (size_t i = 0; i < list->n; i++) {
        int order = -sign;
        QMI_TRY(sort_key(run, list->items[i], arguments[1], with_case, &key));
        if (i > 0)
            QMI_TRY(qmi_jorder(run, key, best, &order));
        else
            order = sign;
        QMI_TRY(qmi_jspend(run, 1));
        if (order * sign <= 0)
            continue;
        best = key;
        *out = list->items[i];
    }
    return QMOE_OK;
}

BODY(least)
{
    return extreme(run, self, arguments, -1, out);
}

BODY(greatest)
{
    return extreme(run, self, arguments, 1, out);
}

BODY(sum)
{
    const qmi_jlist *list = NULL;
    QMI_TRY(qmi_jiterate(run, self, &list));
    *out = arguments[1].kind == QMI_J_ABSENT ? qmi_jint(0) : arguments[1];
    if (out->kind == QMI_J_STRING)
        return qmi_jfail(run, QMOE_E_FORMAT, "sum does not take strings");
    for (size_t i = 0; i < list->n; i++) {
        qmi_jvalue item = {0};
        QMI_TRY(follow(run, list->items[i], arguments[0], &item));
        QMI_TRY(qmi_jbinary(run, '+', *out, item, out));
    }
    return QMOE_OK;
}

/* ---- by other filters and tests ---- */

/* The call without its first n values. */
static qmi_jcall without(const qmi_jcall *call, size_t n)
{
    qmi_jcall rest = *call;
    rest.values += n;
    rest.n -= n;
    return rest;
}

/* A generator looks at what it walks only when it is walked itself, and finds
 * nothing in what is false. */
static qmoe_status walk_later(
    qmi_jrun *run, qmi_jvalue self, const qmi_jlist **all)
{
    qmi_jlist *broken = NULL;
    bool walkable = self.kind == QMI_J_LIST || self.kind == QMI_J_STRING ||
                    self.kind == QMI_J_DICT || self.kind == QMI_J_UNDEFINED;
    if (walkable)
        return qmi_jiterate(run, self, all);
    QMI_TRY(qmi_jnew_list(run, QMI_J_ITERATOR, 0, &broken));
    broken->is_broken = qmi_jtruth(self);
    *all = broken;
    return QMOE_OK;
}

/* Keeps the items for which a test (or their truth) is `wanted`. */
static qmoe_status keep(qmi_jrun *run, qmi_jvalue self, const qmi_jcall *call,
    bool by_attribute, bool wanted, qmi_jvalue *out)
{
    const qmi_jlist *all = NULL;
    const qmi_jfunction *test = NULL;
    const qmi_jstring *name = NULL;
    qmi_jlist *kept = NULL;
    size_t capacity = 0;
    if (by_attribute && call->n == 0)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "the name of an attribute is missing");
    qmi_jcall rest = without(call, by_attribute);
    if (rest.n > 0) {
        QMI_TRY(
            qmi_jneed_string(run, rest.values[0], "the name of a test", &name));
        test = qmi_jfind_test(name);
        if (test == NULL)
            return qmi_jfail(run, QMOE_E_UNSUPPORTED,
                "the test '%.*s' is not supported", QMI_J_SHOWN(name));
        rest = without(&rest, 1);
    }
    QMI_TRY(walk_later(run, self, &all));
    QMI_TRY(qmi_jnew_list(run, QMI_J_ITERATOR, 0, &kept));
    kept->is_broken = all->is_broken;
    for (size_t i = 0; i < all->n; i++) {
        qmi_jvalue value = all->items[i];
        if (by_attribute)
            QMI_TRY(follow(run, value, call->values[0], &value));
        if (test != NULL)
            QMI_TRY(qmi_jcall_function(run, test, value, &rest, &value));
        QMI_TRY(qmi_jspend(run, 1));
        if (qmi_jtruth(value) == wanted)
            QMI_TRY(qmi_jlist_add(run, kept, &capacity, all->items[i]));
    }
    *out = qmi_jof_list(kept);
    return QMOE_OK;
}

OPEN_BODY(select_)
{
    return keep(run, self, call, false, true, out);
}

OPEN_BODY(reject)
{
    return keep(run, self, call, false, false, out);
}

OPEN_BODY(selectattr)
{
    return keep(run, self, call, true, true, out);
}

OPEN_BODY(rejectattr)
{
    return keep(run, self, call, true, false, out);
}

/* map(attribute=..., default=...) */
static qmoe_status map_attribute(qmi_jrun *run, const qmi_jlist *all,
    const qmi_jcall *call, qmi_jlist *mapped)
{
    qmi_jvalue path = {QMI_J_ABSENT, {0}}, fallback = path;
    for (size_t i = 0; i < call->n_named; i++) {
        bool is_path = qmi_jname_is(call->names[i], "attribute");
        if (!is_path && !qmi_jname_is(call->names[i], "default"))
            return qmi_jfail(run, QMOE_E_FORMAT,
                "'map' does not take the argument '%.*s'",
                QMI_J_SHOWN(call->names[i]));
        *(is_path ? &path : &fallback) = call->named[i];
    }
    if (path.kind == QMI_J_ABSENT)
        return qmi_jfail(run, QMOE_E_FORMAT, "map needs a filter");
    for (size_t i = 0; i < all->n; i++)
        QMI_TRY(
            follow_or(run, all->items[i], path, fallback, &mapped->items[i]));
    return QMOE_OK;
}

OPEN_BODY(map)
{
    const qmi_jlist *all = NULL;
    qmi_jlist *mapped = NULL;
    const qmi_jstring *name = NULL;
    QMI_TRY(walk_later(run, self, &all));
    QMI_TRY(qmi_jnew_list(run, QMI_J_ITERATOR, all->n, &mapped));
    mapped->is_broken = all->is_broken;
    *out = qmi_jof_list(mapped);
    if (call->n == 0)
        return map_attribute(run, all, call, mapped);
    QMI_TRY(
        qmi_jneed_string(run, call->values[0], "the name of a filter", &name));
    const qmi_jfunction *filter = qmi_jfind_filter(name);
    if (filter == NULL)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the filter '%.*s' is not supported", QMI_J_SHOWN(name));
    qmi_jcall rest = without(call, 1);
    for (size_t i = 0; i < all->n; i++) {
        QMI_TRY(qmi_jenter(run));
        QMI_TRY(qmi_jcall_function(
            run, filter, all->items[i], &rest, &mapped->items[i]));
        qmi_jleave(run);
    }
    return QMOE_OK;
}

const qmi_jfunction qmi_jlist_filters[] = {
    {.name = "list", .body = to_list},
    {.name = "first", .body = first},
    {.name = "last", .body = last},
    {.name = "reverse", .body = reverse},
    {.name = "items", .body = items},
    {.name = "join",
        .n_parameters = 2,
        .body = join,
        .parameters = {"d", "attribute"}},
    {.name = "sort",
        .n_parameters = 3,
        .body = sort,
        .parameters = {"reverse", "case_sensitive", "attribute"}},
    {.name = "dictsort",
        .n_parameters = 3,
        .body = dictsort,
        .parameters = {"case_sensitive", "by", "reverse"}},
    {.name = "min",
        .n_parameters = 2,
        .body = least,
        .parameters = {"case_sensitive", "attribute"}},
    {.name = "max",
        .n_parameters = 2,
        .body = greatest,
        .parameters = {"case_sensitive", "attribute"}},
    {.name = "sum",
        .n_parameters = 2,
        .body = sum,
        .parameters = {"attribute", "start"}},
    {.name = "select", .open_body = select_},
    {.name = "reject", .open_body = reject},
    {.name = "selectattr", .open_body = selectattr},
    {.name = "rejectattr", .open_body = rejectattr},
    {.name = "map", .open_body = map},
};
const size_t qmi_jn_list_filters =
    sizeof qmi_jlist_filters / sizeof qmi_jlist_filters[0];
