/* SPDX-License-Identifier: Apache-2.0
 * The expected length of ternary-dict's codes (docs/publish.md, "Sizes").
 *
 * The encoder takes the longest codeword that the row goes on with, so that a
 * codeword ends where the next pair would leave the dictionary, and the next
 * codeword begins with that pair.  What follows depends on that first pair and
 * on the number of pairs left alone: a recursion over both gives the exact
 * expectation. */
#include "dictionary_rate.h"

#include "alloc.h"

/* Longer rows go on as the last pairs of one so long did. */
enum { MAX_ROW_PAIRS = 1 << 13 };

static const uint32_t no_codeword = UINT32_MAX;

/* Codewords come after those they extend, so that one pass sees each with its
 * probability `at`. */
static void walk(
    qmi_dictionary_rate *r, const qmi_dict *dict, double *at, unsigned first)
{
    /* The array is reused for each first pair. */
    for (uint32_t c = 0; c < QMI_DICT_SIZE; c++)
        at[c] = 0;
    if (dict->root[first] != no_codeword)
        at[dict->root[first]] = 1;
    /* A child has a higher number than its parent, so at[c] is final when c is
     * reached. */
    for (uint32_t c = 0; c < QMI_DICT_SIZE; c++) {
        const unsigned n_pairs = dict->entries[c].n_weights / 2;
        for (unsigned next = 0; at[c] != 0 && next < QMI_DICT_PAIRS; next++) {
            const uint32_t longer = dict->child[c][next];
            if (longer == no_codeword)
                r->ends[first][n_pairs][next] += at[c] * r->p[next];
            else
                at[longer] = at[c] * r->p[next];
        }
    }
}

qmoe_status qmi_dictionary_rate_init(
    qmi_dictionary_rate *out, const qmi_dict *dict, double p0, qmi_error *err)
{
    const double weight[3] = {p0, (1 - p0) / 2, (1 - p0) / 2};
    *out = (qmi_dictionary_rate){0};
    double *at =
        qmi_calloc(QMI_DICT_SIZE, sizeof *at, "the dictionary's rate", err);
    if (at == NULL)
        return QMOE_E_NOMEM;
    /* A pair is its first weight + 3 * its second (ternary_dict.h). */
    for (unsigned pair = 0; pair < QMI_DICT_PAIRS; pair++)
        out->p[pair] = weight[pair % 3] * weight[pair / 3];
    for (unsigned first = 0; first < QMI_DICT_PAIRS; first++)
        walk(out, dict, at, first);
    qmi_free(at);
    return QMOE_OK;
}

/* Codewords of a row of n_pairs pairs, one recursion step per pair.  Row n of
 * the ring has the expectations of n pairs left, by the first of them. */
static double expect(const qmi_dictionary_rate *r, int64_t n_pairs)
{
    enum { RING = QMI_DICT_MAX_PAIRS + 1 };
    double ring[RING][QMI_DICT_PAIRS] = {{0}};
    double all = 0, before = 0;
    const int64_t n_steps = n_pairs < MAX_ROW_PAIRS ? n_pairs : MAX_ROW_PAIRS;
    for (int64_t left = 1; left <= n_steps; left++) {
        before = all;
        all = 0;
        for (int first = 0; first < QMI_DICT_PAIRS; first++) {
            double sum = 1;
            /* n < left: where the row ends first, no codeword follows.  The 1
             * is the codeword at hand. */
            for (int n = 1; n <= QMI_DICT_MAX_PAIRS && n < left; n++)
                for (int next = 0; next < QMI_DICT_PAIRS; next++)
                    sum +=
                        r->ends[first][n][next] * ring[(left - n) % RING][next];
            ring[left % RING][first] = sum;
            all += r->p[first] * sum;
        }
    }
    /* Beyond MAX_ROW_PAIRS each pair adds what the last one added. */
    return all + (double)(n_pairs - n_steps) * (all - before);
}

double qmi_dictionary_codewords(qmi_dictionary_rate *rate, int64_t n_cols)
{
    /* A model has two widths, asked for in turn. */
    for (int i = 0; i < 2; i++)
        if (rate->known[i].n_cols == n_cols)
            return rate->known[i].n_codewords;
    rate->known[1] = rate->known[0];
    rate->known[0].n_cols = n_cols;
    rate->known[0].n_codewords = expect(rate, (n_cols + 1) / 2);
    return rate->known[0].n_codewords;
}
