/* SPDX-License-Identifier: Apache-2.0
 * The state of the pickle machine: torch_pickle.c runs instructions on it,
 * torch_rebuild.c knows the names a state dict may use. */
#ifndef QMI_TORCH_MACHINE_H
#define QMI_TORCH_MACHINE_H

#include "torch_state.h"

typedef enum qmi_pickle_kind {
    QMI_P_UNSET, /* a memo place nothing was put in */
    QMI_P_MARK,
    QMI_P_NONE,
    QMI_P_BOOL,
    QMI_P_INT,     /* u: the value, as int64 */
    QMI_P_STRING,  /* u: offset in the pickle, n: bytes */
    QMI_P_TUPLE,   /* u: first of its n values */
    QMI_P_DICT,    /* u: number of the dict; OrderedDict, too */
    QMI_P_GLOBAL,  /* sub: qmi_pickle_global; n: dtype, where it has one */
    QMI_P_STORAGE, /* u: index */
    QMI_P_TENSOR,  /* u: index */
} qmi_pickle_kind;

typedef enum qmi_pickle_global {
    QMI_G_ORDERED_DICT,
    QMI_G_REBUILD_V2,
    QMI_G_REBUILD_V3,
    QMI_G_PARAMETER,
    QMI_G_STORAGE,
    QMI_G_UNTYPED,
    QMI_G_DTYPE,
} qmi_pickle_global;

typedef struct qmi_pickle_value {
    uint8_t kind, sub;
    uint32_t n;
    uint64_t u;
} qmi_pickle_value;

typedef struct qmi_pickle_pair {
    uint32_t dict;
    uint32_t at; /* byte of the pickle, for errors */
    qmi_pickle_value key, value;
} qmi_pickle_pair;

typedef struct qmi_pickle_machine {
    const uint8_t *data;
    size_t n_bytes, at;
    size_t op; /* byte of the current instruction, for errors */
    qmi_pickle_value *stack, *memo, *values; /* values: contents of tuples */
    size_t n_stack, n_memo, n_values;
    size_t stack_capacity, memo_capacity, values_capacity;
    qmi_pickle_pair *pairs; /* of all dicts, in order of appearance */
    size_t n_pairs, pairs_capacity;
    uint32_t n_dicts;
    qmi_pickle *out;
    size_t storages_capacity, tensors_capacity;
    uint64_t allocated, limit; /* bytes */
    qmi_error *err;            /* never NULL */
} qmi_pickle_machine;

/* How a file that holds something else becomes one that is read. */
#define QMI_PICKLE_ADVICE                                                      \
    "only a plain state dict is read (torch.save(model.state_dict(), FILE))"

/* E_FORMAT "byte <op>: ..." */
qmoe_status qmi_pickle_fail(
    const qmi_pickle_machine *m, const char *format, ...) QMI_PRINTF(2, 3);
/* Room for one more item within the machine's limit; NULL with the error set. */
void *qmi_pickle_room(qmi_pickle_machine *m, void *items, size_t n,
    size_t *capacity, size_t size);

#endif
