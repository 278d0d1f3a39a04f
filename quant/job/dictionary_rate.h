/* SPDX-License-Identifier: Apache-2.0
 * What is expected of ternary-dict's codes before they are made: their length. */
#ifndef QMI_DICTIONARY_RATE_H
#define QMI_DICTIONARY_RATE_H

#include "error.h"
#include "ternary_dict.h"

enum { QMI_DICT_PAIRS = 9 };

/* Expected lengths of the codes that qmi_dict_encode_row gives rows of
 * independent weights: zero with probability p0, else low or high alike. */
typedef struct qmi_dictionary_rate {
    /* [first][n][next]: given that a codeword begins with the pair `first`, the
     * probability that it ends after n pairs because the next one is `next`. */
    double ends[QMI_DICT_PAIRS][QMI_DICT_MAX_PAIRS + 1][QMI_DICT_PAIRS];
    double p[QMI_DICT_PAIRS]; /* of each pair */
    struct {
        int64_t n_cols;
        double n_codewords;
    } known[2]; /* widths asked for last */
} qmi_dictionary_rate;

qmoe_status qmi_dictionary_rate_init(
    qmi_dictionary_rate *out, const qmi_dict *dict, double p0, qmi_error *err);
/* Expected number of codewords of one row. */
double qmi_dictionary_codewords(qmi_dictionary_rate *rate, int64_t n_cols);

#endif
