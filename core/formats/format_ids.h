/* SPDX-License-Identifier: Apache-2.0
 * The list of weight formats, the only one: ids for C and for the kernels of
 * CUDA, and the table of format_table.c.  Includes nothing. */
#ifndef QMI_FORMAT_IDS_H
#define QMI_FORMAT_IDS_H

/* In the order in which formats are listed; the first is what experts are
 * compressed to when nothing is said.  X(NAME, object): its id is QMI_FORMAT_<NAME>, its entry of the table
 * qmi_format_<object>.  Backends keep tables by id, so that a change of the
 * order is one of QMI_BACKEND_API (backend.h). */
#define QMI_FORMAT_MAP(X)                                                      \
    X(PVQ, pvq)                                                                \
    X(PVQ8, pvq8)                                                              \
    X(TERNARY_DICT, ternary_dict)                                              \
    X(Q2, q2)                                                                  \
    X(TLUT_025, tlut_025)                                                      \
    X(TLUT_05, tlut_05)                                                        \
    X(TLUT_075, tlut_075)                                                      \
    X(TLUT_1, tlut_1)                                                          \
    X(TLUT_15, tlut_15)                                                        \
    X(TLUT_2, tlut_2)                                                          \
    X(TLUT_3, tlut_3)                                                          \
    X(TLUT_4, tlut_4)                                                          \
    X(INT8, int8)                                                              \
    X(BF16, bf16)                                                              \
    X(F16, f16)                                                                \
    X(F32, f32)

typedef enum qmi_format_id {
#define X(name, object) QMI_FORMAT_##name,
    QMI_FORMAT_MAP(X)
#undef X
        QMI_N_FORMATS /* and the id of a format that no backend knows */
} qmi_format_id;

#endif
