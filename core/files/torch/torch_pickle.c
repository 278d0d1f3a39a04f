/* SPDX-License-Identifier: Apache-2.0
 * In: the bytes of a pickled state dict (protocol 2, as torch.save writes it).
 * Out: its items: names, integers, and tensors by storage, offset, shape and
 * strides.  Nothing is executed: instructions move values that are numbers and
 * places in the pickle; names that are not in a table do not exist
 * (torch_rebuild.c).  Whatever grows is counted against a limit that follows
 * from the pickle's size. */
#include "torch_pickle.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "torch_rebuild.h"

/* The longest name of the table has far fewer. */
enum { MAX_GLOBAL_BYTES = 256 };

#define MAX_MEMORY ((uint64_t)1 << 30)

/* ---- reading ---- */

/* The next `n` bytes; NULL with the error set when they are not there. */
static const uint8_t *take(qmi_pickle_machine *m, size_t n)
{
    /* Compared without an addition: n may be anything. */
    if (n > m->n_bytes - m->at) {
        qmi_pickle_fail(m, "the pickle ends within an instruction");
        return NULL;
    }
    const uint8_t *p = m->data + m->at;
    m->at += n;
    return p;
}

/* `n` bytes as a number, little endian. */
static bool take_number(qmi_pickle_machine *m, size_t n, uint64_t *out)
{
    const uint8_t *p = take(m, n);
    *out = 0;
    if (p == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        *out |= (uint64_t)p[i] << (8 * i);
    return true;
}

static bool take_line(qmi_pickle_machine *m, qmi_slice *out)
{
    /* Only so far is the end of a name looked for. */
    size_t rest = m->n_bytes - m->at;
    if (rest > MAX_GLOBAL_BYTES)
        rest = MAX_GLOBAL_BYTES;
    const uint8_t *p = m->data + m->at;
    const uint8_t *end = rest == 0 ? NULL : memchr(p, '\n', rest);
    if (end == NULL) {
        qmi_pickle_fail(
            m, "a name does not end within %d bytes", MAX_GLOBAL_BYTES);
        return false;
    }
    *out = (qmi_slice){(const char *)p, (uint32_t)(end - p)};
    m->at += out->n_bytes + 1;
    return true;
}

/* ---- the stack ---- */

/* Status for a failure whose text is already there. */
static qmoe_status failed(const qmi_pickle_machine *m)
{
    return m->err->status;
}

static qmoe_status push(qmi_pickle_machine *m, qmi_pickle_value value)
{
    qmi_pickle_value *stack = qmi_pickle_room(
        m, m->stack, m->n_stack, &m->stack_capacity, sizeof *stack);
    if (stack == NULL)
        return failed(m);
    m->stack = stack;
    stack[m->n_stack++] = value;
    return QMOE_OK;
}

static qmoe_status push_number(
    qmi_pickle_machine *m, qmi_pickle_kind kind, uint64_t u)
{
    return push(m, (qmi_pickle_value){.kind = (uint8_t)kind, .u = u});
}

/* The uppermost value, which must be there above any mark. */
static qmoe_status top(const qmi_pickle_machine *m, qmi_pickle_value *out)
{
    if (m->n_stack == 0 || m->stack[m->n_stack - 1].kind == QMI_P_MARK)
        return qmi_pickle_fail(m, "the stack holds too few values");
    *out = m->stack[m->n_stack - 1];
    return QMOE_OK;
}

static qmoe_status pop(qmi_pickle_machine *m, qmi_pickle_value *out)
{
    QMI_TRY(top(m, out));
    m->n_stack--;
    return QMOE_OK;
}

/* Number of values above the uppermost mark. */
static qmoe_status count_to_mark(const qmi_pickle_machine *m, size_t *n)
{
    /* From the top down; marks nest. */
    for (*n = 0; *n < m->n_stack; ++*n)
        if (m->stack[m->n_stack - 1 - *n].kind == QMI_P_MARK)
            return QMOE_OK;
    return qmi_pickle_fail(m, "the stack holds no mark");
}

/* ---- values ---- */

static qmoe_status make_tuple(qmi_pickle_machine *m, size_t n)
{
    /* Values of tuples lie in one array of the machine, and their numbers in it
     * never change. */
    qmi_pickle_value tuple = {
        .kind = QMI_P_TUPLE, .n = (uint32_t)n, .u = m->n_values};
    /* The second comparison also keeps the subtraction below from wrapping. */
    if (n > UINT32_MAX || n > m->n_stack)
        return qmi_pickle_fail(m, "the stack holds too few values");
    for (size_t i = 0; i < n; i++) {
        qmi_pickle_value item = m->stack[m->n_stack - n + i];
        if (item.kind == QMI_P_MARK)
            return qmi_pickle_fail(m, "the stack holds too few values");
        qmi_pickle_value *values = qmi_pickle_room(
            m, m->values, m->n_values, &m->values_capacity, sizeof *values);
        if (values == NULL)
            return failed(m);
        m->values = values;
        values[m->n_values++] = item;
    }
    m->n_stack -= n;
    return push(m, tuple);
}

static qmoe_status make_marked_tuple(qmi_pickle_machine *m)
{
    size_t n = 0;
    QMI_TRY(count_to_mark(m, &n));
    /* The mark lies below the items: they move down over it. */
    size_t mark = m->n_stack - n - 1;
    memmove(m->stack + mark, m->stack + mark + 1, n * sizeof *m->stack);
    m->n_stack--;
    return make_tuple(m, n);
}

static qmoe_status set_item(qmi_pickle_machine *m, qmi_pickle_value dict,
    qmi_pickle_value key, qmi_pickle_value value)
{
    /* Dicts are lists of pairs with the number of their dict: looking up is
     * never needed. */
    if (dict.kind != QMI_P_DICT)
        return qmi_pickle_fail(
            m, "an item is set in %s", qmi_pickle_kind_name(dict));
    if (key.kind != QMI_P_STRING)
        return qmi_pickle_fail(m,
            "the key of a dict is %s, not a string; " QMI_PICKLE_ADVICE,
            qmi_pickle_kind_name(key));
    qmi_pickle_pair *pairs = qmi_pickle_room(
        m, m->pairs, m->n_pairs, &m->pairs_capacity, sizeof *pairs);
    if (pairs == NULL)
        return failed(m);
    m->pairs = pairs;
    pairs[m->n_pairs++] = (qmi_pickle_pair){
        .dict = (uint32_t)dict.u, .at = (uint32_t)m->op, key, value};
    return QMOE_OK;
}

static qmoe_status set_items(qmi_pickle_machine *m)
{
    size_t n = 0;
    qmi_pickle_value dict;
    QMI_TRY(count_to_mark(m, &n));
    size_t first = m->n_stack - n;
    /* Below the items lie the mark and the dict. */
    if (n % 2 != 0 || first < 2)
        return qmi_pickle_fail(m, "items are set without a dict or in odd "
                                  "number");
    dict = m->stack[first - 2];
    for (size_t i = first; i < m->n_stack; i += 2)
        QMI_TRY(set_item(m, dict, m->stack[i], m->stack[i + 1]));
    m->n_stack = first - 1;
    return QMOE_OK;
}

static qmoe_status set_one_item(qmi_pickle_machine *m)
{
    qmi_pickle_value key, value, dict;
    QMI_TRY(pop(m, &value));
    QMI_TRY(pop(m, &key));
    QMI_TRY(top(m, &dict));
    return set_item(m, dict, key, value);
}

/* Attributes of a state dict (_metadata) say nothing about weights. */
static qmoe_status build(qmi_pickle_machine *m)
{
    qmi_pickle_value state, object;
    QMI_TRY(pop(m, &state));
    QMI_TRY(top(m, &object));
    /* Two dicts: a state dict and its attributes. */
    if (state.kind == QMI_P_DICT && object.kind == QMI_P_DICT)
        return QMOE_OK;
    return qmi_pickle_fail(m, "the state of %s is set from %s",
        qmi_pickle_kind_name(object), qmi_pickle_kind_name(state));
}

static qmoe_status take_string(qmi_pickle_machine *m)
{
    uint64_t n = 0;
    if (!take_number(m, 4, &n))
        return failed(m);
    /* The text stays where it is; only its place is kept. */
    qmi_pickle_value value = {
        .kind = QMI_P_STRING, .n = (uint32_t)n, .u = m->at};
    if (n > QMI_PICKLE_MAX_STRING)
        return qmi_pickle_fail(m, "a string of %llu bytes, more than %d",
            (unsigned long long)n, QMI_PICKLE_MAX_STRING);
    return take(m, (size_t)n) == NULL ? failed(m) : push(m, value);
}

static qmoe_status take_global(qmi_pickle_machine *m)
{
    qmi_slice module, name;
    qmi_pickle_value value;
    if (!take_line(m, &module) || !take_line(m, &name))
        return failed(m);
    QMI_TRY(qmi_pickle_global_of(m, &value, module, name));
    return push(m, value);
}

/* An unsigned number of `n` bytes. */
static qmoe_status take_unsigned(qmi_pickle_machine *m, size_t n)
{
    uint64_t u = 0;
    return take_number(m, n, &u) ? push_number(m, QMI_P_INT, u) : failed(m);
}

static qmoe_status take_int32(qmi_pickle_machine *m)
{
    uint64_t u = 0;
    if (!take_number(m, 4, &u))
        return failed(m);
    return push_number(m, QMI_P_INT, (uint64_t)(int64_t)(int32_t)(uint32_t)u);
}

static qmoe_status take_long(qmi_pickle_machine *m)
{
    uint64_t n = 0, u = 0;
    if (!take_number(m, 1, &n))
        return failed(m);
    if (n > 8)
        return qmi_pickle_fail(
            m, "an integer of %llu bytes, more than 8", (unsigned long long)n);
    if (!take_number(m, (size_t)n, &u))
        return failed(m);
    /* Two's complement of n bytes: the sign is extended. */
    if (n != 0 && n < 8 && (u >> (8 * n - 1)) != 0)
        u |= ~(uint64_t)0 << (8 * n);
    return push_number(m, QMI_P_INT, u);
}

/* ---- memo ---- */

/* A pickler numbers memo places one by one; a number beyond any it can have
 * reached would only cost memory. */
static qmoe_status put(qmi_pickle_machine *m, size_t n_number_bytes)
{
    uint64_t place = 0;
    qmi_pickle_value value;
    if (!take_number(m, n_number_bytes, &place))
        return failed(m);
    QMI_TRY(top(m, &value));
    /* One byte of pickle at least belongs to each place, so no honest number is
     * above this. */
    if (place > m->op)
        return qmi_pickle_fail(
            m, "memo place %llu is out of order", (unsigned long long)place);
    /* Doubles until the place is there; new places are zero, which is UNSET. */
    while (place >= m->memo_capacity) {
        qmi_pickle_value *memo = qmi_pickle_room(
            m, m->memo, m->memo_capacity, &m->memo_capacity, sizeof *memo);
        if (memo == NULL)
            return failed(m);
        m->memo = memo;
    }
    m->memo[place] = value;
    return QMOE_OK;
}

static qmoe_status get(qmi_pickle_machine *m, size_t n_number_bytes)
{
    uint64_t place = 0;
    if (!take_number(m, n_number_bytes, &place))
        return failed(m);
    /* Also a place that an honest pickler numbered but a hostile one left
     * out. */
    if (place >= m->memo_capacity || m->memo[place].kind == QMI_P_UNSET)
        return qmi_pickle_fail(
            m, "memo place %llu was never put", (unsigned long long)place);
    return push(m, m->memo[place]);
}

/* ---- instructions ---- */

static qmoe_status reduce(qmi_pickle_machine *m)
{
    qmi_pickle_value arguments, callable, value;
    QMI_TRY(pop(m, &arguments));
    QMI_TRY(pop(m, &callable));
    QMI_TRY(qmi_pickle_reduce(m, &value, callable, arguments));
    return push(m, value);
}

/* The only persistent ids of torch are storages. */
static qmoe_status load_persistent(qmi_pickle_machine *m)
{
    qmi_pickle_value id, value;
    QMI_TRY(pop(m, &id));
    QMI_TRY(qmi_pickle_storage_of(m, &value, id));
    return push(m, value);
}

static qmoe_status refuse(const qmi_pickle_machine *m, uint8_t code)
{
    bool printable = code > ' ' && code < 0x7f;
    return qmi_pickle_fail(m,
        "opcode 0x%02x%s%c%s is not one a state dict needs; " QMI_PICKLE_ADVICE,
        code, printable ? " '" : "", printable ? (char)code : ' ',
        printable ? "'" : "");
}

/* The opcodes that pickle's protocol 2 uses for a state dict; the rest of the
 * protocol is refused by name. */
static qmoe_status step(qmi_pickle_machine *m, uint8_t code)
{
    switch (code) {
    case '(':
        return push_number(m, QMI_P_MARK, 0);
    case ')':
        return make_tuple(m, 0);
    case 0x85: /* TUPLE1 */
    case 0x86:
    case 0x87:
        return make_tuple(m, (size_t)(code - 0x84));
    case 't':
        return make_marked_tuple(m);
    case '}':
        return push_number(m, QMI_P_DICT, m->n_dicts++);
    case 'u':
        return set_items(m);
    case 's':
        return set_one_item(m);
    case 'b':
        return build(m);
    case 'X': /* BINUNICODE */
        return take_string(m);
    case 'c':
        return take_global(m);
    case 'R':
        return reduce(m);
    case 'Q': /* BINPERSID */
        return load_persistent(m);
    case 'J': /* BININT */
        return take_int32(m);
    case 'K': /* BININT1 */
        return take_unsigned(m, 1);
    case 'M': /* BININT2 */
        return take_unsigned(m, 2);
    case 0x8a: /* LONG1 */
        return take_long(m);
    case 'N':
        return push_number(m, QMI_P_NONE, 0);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push_number(m, QMI_P_BOOL, code == 0x88);
    case 'q': /* BINPUT */
        return put(m, 1);
    case 'r':
        return put(m, 4);
    case 'h': /* BINGET */
        return get(m, 1);
    case 'j':
        return get(m, 4);
    default:
        return refuse(m, code);
    }
}

static qmoe_status run(qmi_pickle_machine *m)
{
    if (m->n_bytes < 2 || m->data[0] != 0x80)
        return qmi_pickle_fail(m, "the pickle does not begin with a protocol");
    if (m->data[1] != 2)
        return qmi_fail(m->err, QMOE_E_UNSUPPORTED,
            "pickle protocol %u; only 2 is read, which torch.save uses unless "
            "told otherwise",
            (unsigned)m->data[1]);
    /* Every instruction takes at least one byte, so this ends. */
    for (m->at = 2; m->at < m->n_bytes;) {
        m->op = m->at;
        uint8_t code = m->data[m->at++];
        if (code == '.') {
            /* One pickle and nothing behind it: there is one reading of the
             * file. */
            if (m->at == m->n_bytes)
                return QMOE_OK;
            return qmi_pickle_fail(m, "the pickle goes on after its end");
        }
        QMI_TRY(step(m, code));
    }
    return qmi_pickle_fail(m, "the pickle has no end");
}

/* ---- the result ---- */

static qmoe_status add_item(qmi_pickle_machine *m, const qmi_pickle_pair *pair)
{
    qmi_pickle_item *item = &m->out->items[m->out->n_items];
    item->name = (qmi_slice){(const char *)m->data + pair->key.u, pair->key.n};
    /* Errors from here on name the instruction that set the item. */
    m->op = pair->at;
    if (pair->value.kind == QMI_P_TENSOR)
        item->tensor = &m->out->tensors[pair->value.u];
    else if (pair->value.kind == QMI_P_INT)
        item->integer = (int64_t)pair->value.u;
    else
        return qmi_pickle_fail(m,
            "'%.*s' is %s, neither a tensor nor an integer; " QMI_PICKLE_ADVICE,
            (int)(item->name.n_bytes < 200 ? item->name.n_bytes : 200),
            item->name.text, qmi_pickle_kind_name(pair->value));
    m->out->n_items++;
    return QMOE_OK;
}

static qmoe_status collect(qmi_pickle_machine *m)
{
    qmi_pickle_value root;
    size_t n = 0;
    QMI_TRY(pop(m, &root));
    /* Exactly one value is left, and it is a dict. */
    if (m->n_stack != 0 || root.kind != QMI_P_DICT)
        return qmi_pickle_fail(m,
            "the pickle holds %s, not one dict of tensors; " QMI_PICKLE_ADVICE,
            m->n_stack != 0 ? "several values" : qmi_pickle_kind_name(root));
    /* Counted first: the array has exactly the right size. */
    for (size_t i = 0; i < m->n_pairs; i++)
        n += m->pairs[i].dict == root.u;
    m->out->items =
        qmi_calloc(n, sizeof *m->out->items, "a state dict", m->err);
    if (m->out->items == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < m->n_pairs; i++)
        if (m->pairs[i].dict == root.u)
            QMI_TRY(add_item(m, &m->pairs[i]));
    return QMOE_OK;
}

qmoe_status qmi_pickle_read(
    qmi_pickle *out, const uint8_t *data, size_t n_bytes, qmi_error *err)
{
    qmi_error local = {.status = QMOE_OK};
    /* The limit: 64 bytes for each byte of pickle, and a start: honest files
     * need far less. */
    qmi_pickle_machine m = {
        .data = data,
        .n_bytes = n_bytes,
        .out = out,
        .limit = 64 * (uint64_t)n_bytes + 65536,
        .err = err != NULL ? err : &local,
    };
    *out = (qmi_pickle){0};
    if (m.limit > MAX_MEMORY)
        m.limit = MAX_MEMORY;
    if (n_bytes > UINT32_MAX)
        return qmi_fail(err, QMOE_E_FORMAT, "the pickle has more than 4 GiB");
    qmoe_status status = run(&m);
    if (status == QMOE_OK)
        status = collect(&m);
    /* What the machine needed is gone; `out` has numbers and places in the
     * pickle only. */
    qmi_free(m.stack);
    qmi_free(m.memo);
    qmi_free(m.values);
    qmi_free(m.pairs);
    if (status != QMOE_OK)
        qmi_pickle_free(out);
    return status;
}

void qmi_pickle_free(qmi_pickle *pickle)
{
    qmi_free(pickle->items);
    qmi_free(pickle->storages);
    qmi_free(pickle->tensors);
    *pickle = (qmi_pickle){0};
}
