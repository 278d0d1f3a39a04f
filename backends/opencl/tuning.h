/* SPDX-License-Identifier: Apache-2.0
 * What the kernels are specialised by: defaults by kind of device, winners of
 * measurements kept on disk, and assignments for tests.  All choices give
 * results within the same bounds. */
#ifndef QOCL_TUNING_H
#define QOCL_TUNING_H

#include "error.h"

/* X(member, least, most): powers of two.
 * many            tokens that a product takes together
 * pvq_many        the same of the pvq and tlut formats
 * group           work-items per group of the elementwise kernels
 * lanes           work-items per group of dense products, q2, norms and the
 *                 choice of logits
 * dense_rows      rows per work-group of a dense product
 * width           columns per vector of a dense product
 * pvq_rows        rows per work-item: 1, or 16 in the lanes of a vector
 * pvq_lookup      with 16 rows: 2 look pulses up in registers, 1 in memory
 * pvq_split       with 1 row: work-items that share it; of tlut twice as many
 * td_group        work-items per group of ternary-dict
 * pack_lanes      work-items that rotate one block of activations
 * attention_lanes work-items per query and head */
#define QOCL_TUNING_MAP(X)                                                     \
    X(many, 2, 16)                                                             \
    X(pvq_many, 2, 16)                                                         \
    X(group, 1, 1024)                                                          \
    X(lanes, 1, 1024)                                                          \
    X(dense_rows, 1, 16)                                                       \
    X(width, 2, 16)                                                            \
    X(pvq_rows, 1, 16)                                                         \
    X(pvq_lookup, 1, 2)                                                        \
    X(pvq_split, 1, 32)                                                        \
    X(td_group, 1, 1024)                                                       \
    X(pack_lanes, 1, 1024)                                                     \
    X(attention_lanes, 1, 1024)

/* What a device has and allows. */
typedef struct qocl_limits {
    uint64_t max_alloc, memory, local_memory;
    uint64_t max_chunk; /* of a weight; max_alloc but in tests */
    size_t max_group;
    uint64_t clblast_tokens; /* products of as many go to CLBlast; 0: none */
    bool is_cpu;             /* which kernels it gets */
    bool is_unified;         /* its memory is the host's */
    bool has_budget; /* memory is less than the device has, on request */
    bool stream_all; /* for tests: no stack stays on the device */
    char problem[96];
} qocl_limits;

typedef struct qocl_tuning {
#define X(member, least, most) int member;
    QOCL_TUNING_MAP(X)
#undef X
} qocl_tuning;

/* Longest text of all assignments. */
enum { QOCL_TUNING_TEXT = 320 };

/* The safe choice for a device; false when the device is too small. */
bool qocl_tuning_default(
    qocl_tuning *out, const qocl_limits *limits, bool is_cpu);
/* Whether the device can run all kernels so specialised. */
bool qocl_tuning_fits(const qocl_tuning *t, const qocl_limits *limits);
/* "many=16,group=64,..." */
void qocl_tuning_print(char out[QOCL_TUNING_TEXT], const qocl_tuning *t);
/* Changes what the text assigns; E_INVALID names what is wrong. */
qmoe_status qocl_tuning_parse(qocl_tuning *t, const char *text, qmi_error *err);

#endif
