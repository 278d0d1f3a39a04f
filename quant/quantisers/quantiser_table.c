/* SPDX-License-Identifier: Apache-2.0
 * The table of quantisers, each of which says which format it writes, and the
 * formats a bit budget or a number of bits chooses; nothing else: a test that adds
 * quantisers (QMI_MORE_QUANTISERS) links its table in place of this one. */
#include "quantiser.h"

#include "tlut.h"

#ifndef QMI_MORE_QUANTISERS
#define QMI_MORE_QUANTISERS(X)
#endif

/* Both quantisers of a rate. */
#define TLUT(rate, text) X(tlut_##rate##_rtn) X(tlut_##rate##_gptq)

#define QUANTISERS(X)                                                          \
    X(ternary_rtn)                                                             \
    X(ternary_gptq)                                                            \
    X(q2_rtn)                                                                  \
    X(q2_gptq)                                                                 \
    X(pvq_rtn)                                                                 \
    X(pvq_gptq)                                                                \
    X(pvq8_rtn)                                                                \
    X(pvq8_gptq)                                                               \
    X(int8_rtn)                                                                \
    QMI_TLUT_MAP(TLUT)

#define X(name) extern const qmi_quantiser qmi_quantiser_##name;
QUANTISERS(X)
QMI_MORE_QUANTISERS(X)
#undef X

const qmi_quantiser *const qmi_quantisers[] = {
#define X(name) &qmi_quantiser_##name,
    QUANTISERS(X) QMI_MORE_QUANTISERS(X)
#undef X
        NULL,
};

extern const qmi_format qmi_format_pvq, qmi_format_pvq8;
const qmi_format *const qmi_budget_formats[QMI_N_SIZES] = {
    [QMI_SMALL] = &qmi_format_pvq,
    [QMI_LARGE] = &qmi_format_pvq8,
};

extern const qmi_format qmi_format_int8;
const qmi_format *const qmi_dense_formats[QMI_MAX_DENSE_BITS + 1] = {
    [2] = &qmi_format_tlut_2,
    [3] = &qmi_format_tlut_3,
    [4] = &qmi_format_tlut_4,
    [8] = &qmi_format_int8,
};
