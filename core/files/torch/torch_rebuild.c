/* SPDX-License-Identifier: Apache-2.0
 * The names that pickled state dicts use, and what calling them means here.
 * In: a name, or a callable and its arguments.  Out: a value that describes a
 * storage or a tensor.  Nothing is imported and nothing called: a name that is
 * not in the table does not exist, and arguments of other kinds than torch
 * writes are refused. */
#include <string.h>

#include "torch_rebuild.h"

/* `sub` says what calling it does; `dtype` only where the name implies one. */
typedef struct global {
    const char *module, *name;
    uint8_t sub;
    uint8_t dtype;
} global;

#define STORAGE(name, dtype)                                                   \
    {                                                                          \
        "torch", name "Storage", QMI_G_STORAGE, QMI_##dtype                    \
    }
#define DTYPE(name, dtype)                                                     \
    {                                                                          \
        "torch", name, QMI_G_DTYPE, QMI_##dtype                                \
    }
static const global globals[] = {
    {"collections", "OrderedDict", QMI_G_ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", QMI_G_REBUILD_V2, 0},
    {"torch._utils", "_rebuild_tensor_v3", QMI_G_REBUILD_V3, 0},
    {"torch._utils", "_rebuild_parameter", QMI_G_PARAMETER, 0},
    {"torch.storage", "UntypedStorage", QMI_G_UNTYPED, QMI_U8},
    STORAGE("Float", F32),
    STORAGE("BFloat16", BF16),
    STORAGE("Half", F16),
    STORAGE("Double", F64),
    STORAGE("Long", I64),
    STORAGE("Int", I32),
    STORAGE("Short", I16),
    STORAGE("Char", I8),
    STORAGE("Byte", U8),
    STORAGE("Bool", BOOL),
    STORAGE("ComplexFloat", C64),
    DTYPE("float32", F32),
    DTYPE("bfloat16", BF16),
    DTYPE("float16", F16),
    DTYPE("float64", F64),
    DTYPE("int64", I64),
    DTYPE("int32", I32),
    DTYPE("int16", I16),
    DTYPE("int8", I8),
    DTYPE("uint8", U8),
    DTYPE("uint16", U16),
    DTYPE("uint32", U32),
    DTYPE("uint64", U64),
    DTYPE("bool", BOOL),
    DTYPE("complex64", C64),
    DTYPE("float8_e4m3fn", F8_E4M3),
    DTYPE("float8_e5m2", F8_E5M2),
    DTYPE("float8_e4m3fnuz", F8_E4M3FNUZ),
    DTYPE("float8_e5m2fnuz", F8_E5M2FNUZ),
};

static bool equals(qmi_slice slice, const char *text)
{
    return strlen(text) == slice.n_bytes &&
           memcmp(slice.text, text, slice.n_bytes) == 0;
}

/* Bytes of a slice to show in an error. */
static int shown(qmi_slice slice)
{
    return slice.n_bytes < 100 ? (int)slice.n_bytes : 100;
}

qmoe_status qmi_pickle_global_of(qmi_pickle_machine *m, qmi_pickle_value *out,
    qmi_slice module, qmi_slice name)
{
    /* A linear search: a state dict names a few of them and recalls them from
     * its memo. */
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        const global *g = &globals[i];
        if (!equals(module, g->module) || !equals(name, g->name))
            continue;
        *out = (qmi_pickle_value){
            .kind = QMI_P_GLOBAL, .sub = g->sub, .n = g->dtype};
        return QMOE_OK;
    }
    return qmi_pickle_fail(m,
        "the pickle names '%.*s.%.*s', which no state dict "
        "needs; " QMI_PICKLE_ADVICE,
        shown(module), module.text, shown(name), name.text);
}

const char *qmi_pickle_kind_name(qmi_pickle_value value)
{
    switch ((qmi_pickle_kind)value.kind) {
    case QMI_P_NONE:
        return "None";
    case QMI_P_BOOL:
        return "a bool";
    case QMI_P_INT:
        return "an integer";
    case QMI_P_STRING:
        return "a string";
    case QMI_P_TUPLE:
        return "a tuple";
    case QMI_P_DICT:
        return "a dict";
    case QMI_P_GLOBAL:
        return "a class or function";
    case QMI_P_STORAGE:
        return "a storage";
    case QMI_P_TENSOR:
        return "a tensor";
    case QMI_P_MARK:
    case QMI_P_UNSET:
        break;
    }
    return "a mark";
}

/* ---- arguments ---- */

static bool is_global(qmi_pickle_value value, qmi_pickle_global sub)
{
    return value.kind == QMI_P_GLOBAL && value.sub == (uint8_t)sub;
}

/* Values of a tuple; valid until the next tuple is made. */
static const qmi_pickle_value *contents(
    const qmi_pickle_machine *m, qmi_pickle_value tuple)
{
    return tuple.n == 0 ? NULL : m->values + tuple.u;
}

/* An integer in [0, 2^62). */
static bool to_count(uint64_t *out, qmi_pickle_value value)
{
    /* Below 2^62, so that sums of two stay within 64 bits. */
    *out = value.u;
    return value.kind == QMI_P_INT && value.u < (uint64_t)1 << 62;
}

static qmoe_status to_counts(qmi_pickle_machine *m, uint64_t *out, int *n,
    qmi_pickle_value tuple, const char *what)
{
    if (tuple.kind != QMI_P_TUPLE)
        return qmi_pickle_fail(m, "the %s of a tensor is %s, not a tuple", what,
            qmi_pickle_kind_name(tuple));
    if (tuple.n > QMI_PICKLE_MAX_RANK)
        return qmi_pickle_fail(m,
            "the %s of a tensor has %u entries, more "
            "than %d",
            what, (unsigned)tuple.n, QMI_PICKLE_MAX_RANK);
    /* Shapes and strides may be as many as the arrays hold. */
    for (uint32_t i = 0; i < tuple.n; i++)
        if (!to_count(&out[i], contents(m, tuple)[i]))
            return qmi_pickle_fail(m,
                "the %s of a tensor holds something that is not an integer in "
                "[0, 2^62)",
                what);
    *n = (int)tuple.n;
    return QMOE_OK;
}

/* ---- storages ---- */

/* Torch numbers storages: 0, 1, 2, ...  Anything else must not reach a path. */
static bool is_key(qmi_slice key)
{
    /* 20 digits are the longest 64-bit number. */
    if (key.n_bytes == 0 || key.n_bytes > 20)
        return false;
    for (uint32_t i = 0; i < key.n_bytes; i++)
        if (key.text[i] < '0' || key.text[i] > '9')
            return false;
    return true;
}

static qmi_slice text_of(const qmi_pickle_machine *m, qmi_pickle_value string)
{
    return (qmi_slice){(const char *)m->data + string.u, string.n};
}

qmoe_status qmi_pickle_storage_of(
    qmi_pickle_machine *m, qmi_pickle_value *out, qmi_pickle_value id)
{
    /* All five are checked before any is used. */
    if (id.kind != QMI_P_TUPLE || id.n != 5)
        return qmi_pickle_fail(
            m, "a persistent id is not ('storage', class, key, place, count)");
    const qmi_pickle_value *v = contents(m, id);
    qmi_pickle_storage s = {.untyped = is_global(v[1], QMI_G_UNTYPED)};
    if (v[0].kind != QMI_P_STRING || !equals(text_of(m, v[0]), "storage") ||
        (!s.untyped && !is_global(v[1], QMI_G_STORAGE)) ||
        v[2].kind != QMI_P_STRING || v[3].kind != QMI_P_STRING ||
        !to_count(&s.n_elements, v[4]))
        return qmi_pickle_fail(
            m, "a persistent id is not ('storage', class, key, place, count)");
    s.key = text_of(m, v[2]);
    s.dtype = (qmi_dtype)v[1].n;
    if (!is_key(s.key))
        return qmi_pickle_fail(m,
            "the key of a storage is '%.*s', not a number", shown(s.key),
            s.key.text);
    qmi_pickle_storage *storages = qmi_pickle_room(m, m->out->storages,
        m->out->n_storages, &m->storages_capacity, sizeof *storages);
    if (storages == NULL)
        return m->err->status;
    m->out->storages = storages;
    *out = (qmi_pickle_value){.kind = QMI_P_STORAGE, .u = m->out->n_storages};
    storages[m->out->n_storages++] = s;
    return QMOE_OK;
}

/* ---- tensors ---- */

/* (storage, offset, shape, strides, requires_grad, hooks[, metadata]); v3 has
 * the dtype before the metadata, which torch writes only where there is some:
 * bits that change what the stored values mean. */
static qmoe_status rebuild_tensor(qmi_pickle_machine *m, qmi_pickle_value *out,
    qmi_pickle_value arguments, bool v3)
{
    const qmi_pickle_value *v = contents(m, arguments);
    qmi_pickle_tensor t = {.rank = 0};
    uint32_t least = v3 ? 7 : 6;
    int n_strides = 0;
    if (arguments.n < least || arguments.n > least + 1)
        return qmi_pickle_fail(m, "a tensor is made from %u values, not %u",
            (unsigned)arguments.n, (unsigned)least);
    if (v[0].kind != QMI_P_STORAGE || !to_count(&t.offset, v[1]) ||
        v[4].kind != QMI_P_BOOL || v[5].kind != QMI_P_DICT ||
        (v3 && !is_global(v[6], QMI_G_DTYPE)))
        return qmi_pickle_fail(m,
            "a tensor is not made from (storage, offset, "
            "shape, strides, bool, dict%s)",
            v3 ? ", dtype" : "");
    if (arguments.n > least && v[least].kind != QMI_P_NONE)
        return qmi_pickle_fail(m,
            "a tensor has metadata: it is conjugated or negated, so its "
            "values are not those of its storage");
    QMI_TRY(to_counts(m, t.shape, &t.rank, v[2], "shape"));
    QMI_TRY(to_counts(m, t.strides, &n_strides, v[3], "strides"));
    if (n_strides != t.rank)
        return qmi_pickle_fail(
            m, "a tensor has %d sizes, but %d strides", t.rank, n_strides);
    /* v3 belongs to untyped storages and v2 to typed ones. */
    const qmi_pickle_storage *s = &m->out->storages[v[0].u];
    if (s->untyped != v3)
        return qmi_pickle_fail(
            m, "a tensor of this kind cannot lie in such a storage");
    t.storage = (uint32_t)v[0].u;
    t.dtype = v3 ? (qmi_dtype)v[6].n : s->dtype;
    qmi_pickle_tensor *tensors = qmi_pickle_room(m, m->out->tensors,
        m->out->n_tensors, &m->tensors_capacity, sizeof *tensors);
    if (tensors == NULL)
        return m->err->status;
    m->out->tensors = tensors;
    *out = (qmi_pickle_value){.kind = QMI_P_TENSOR, .u = m->out->n_tensors};
    tensors[m->out->n_tensors++] = t;
    return QMOE_OK;
}

qmoe_status qmi_pickle_reduce(qmi_pickle_machine *m, qmi_pickle_value *out,
    qmi_pickle_value callable, qmi_pickle_value arguments)
{
    if (callable.kind != QMI_P_GLOBAL || arguments.kind != QMI_P_TUPLE)
        return qmi_pickle_fail(m, "%s is called with %s",
            qmi_pickle_kind_name(callable), qmi_pickle_kind_name(arguments));
    switch ((qmi_pickle_global)callable.sub) {
    case QMI_G_ORDERED_DICT:
        if (arguments.n != 0)
            return qmi_pickle_fail(
                m, "an OrderedDict is made with %u values", arguments.n);
        *out = (qmi_pickle_value){.kind = QMI_P_DICT, .u = m->n_dicts++};
        return QMOE_OK;
    case QMI_G_REBUILD_V2:
        return rebuild_tensor(m, out, arguments, false);
    case QMI_G_REBUILD_V3:
        return rebuild_tensor(m, out, arguments, true);
    case QMI_G_PARAMETER: {
        const qmi_pickle_value *v = contents(m, arguments);
        if (arguments.n != 3 || v[0].kind != QMI_P_TENSOR ||
            v[1].kind != QMI_P_BOOL || v[2].kind != QMI_P_DICT)
            return qmi_pickle_fail(
                m, "a parameter is not made from (tensor, bool, dict)");
        /* A parameter is its tensor: gradients and hooks say nothing about
         * weights. */
        *out = v[0];
        return QMOE_OK;
    }
    case QMI_G_STORAGE:
    case QMI_G_UNTYPED:
    case QMI_G_DTYPE:
        break;
    }
    return qmi_pickle_fail(m, "a storage class or dtype is called");
}
