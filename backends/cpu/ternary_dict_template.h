/* SPDX-License-Identifier: Apache-2.0
 * The inner loops of "ternary-dict", compiled for each instruction set: ISA is
 * a target attribute (or nothing), NAME(x) adds the suffix, VEC_BYTES is the
 * width of a register, FMA(a, b, c) = a * b + c; with HAVE_ONE the including
 * file has a NAME(one) of its own.  No include guard on purpose.
 *
 * Three sums, one per slot of an entry: a single one would wait for itself.
 * An unused slot multiplies the codeword's first weight by 0. */

#define POSITION(entry, j)                                                     \
    qcpu_td_byte(entry, offsetof(qmi_dict_entry, position) + (j))
#define VALUE(entry, j)                                                        \
    values[qcpu_td_byte(entry, offsetof(qmi_dict_entry, code) + (j))]

#if !defined(HAVE_ONE)
ISA static float NAME(one)(const qcpu_td_row *row, const float *x)
{
    const float values[3] = {row->values[0], row->values[1], row->values[2]};
    float sum0 = 0, sum1 = 0, sum2 = 0;
    for (uint32_t i = 0; i < row->n_codes; i++) {
        const uint64_t entry = qcpu_td_entry(row, i);
        sum0 = FMA(VALUE(entry, 0), x[POSITION(entry, 0)], sum0);
        sum1 = FMA(VALUE(entry, 1), x[POSITION(entry, 1)], sum1);
        sum2 = FMA(VALUE(entry, 2), x[POSITION(entry, 2)], sum2);
        x += qcpu_td_byte(entry, offsetof(qmi_dict_entry, n_weights));
    }
    return sum0 + sum1 + sum2;
}
#endif

typedef float NAME(vec) __attribute__((vector_size(VEC_BYTES)));
enum { NAME(n_vecs) = 4 * QCPU_TD_LANES / VEC_BYTES };

/* sums += value * row `position` of a panel, for 16 tokens. */
ISA static inline __attribute__((always_inline)) void NAME(add_row)(
    NAME(vec) sums[NAME(n_vecs)], const float *x, unsigned position,
    float value)
{
    const NAME(vec) *row = (const void *)(x + position * QCPU_TD_LANES);
    QCPU_UNROLL
    for (int i = 0; i < NAME(n_vecs); i++)
        sums[i] += value * row[i];
}

ISA static void NAME(lanes)(float *sums, const qcpu_td_row *row, const float *x)
{
    const float values[3] = {row->values[0], row->values[1], row->values[2]};
    NAME(vec) sum0[NAME(n_vecs)] = {{0}}, sum1[NAME(n_vecs)] = {{0}};
    NAME(vec) *out = (void *)sums;
    for (uint32_t i = 0; i < row->n_codes; i++) {
        const uint64_t entry = qcpu_td_entry(row, i);
        NAME(add_row)(sum0, x, POSITION(entry, 0), VALUE(entry, 0));
        NAME(add_row)(sum1, x, POSITION(entry, 1), VALUE(entry, 1));
        NAME(add_row)(sum0, x, POSITION(entry, 2), VALUE(entry, 2));
        x += qcpu_td_byte(entry, offsetof(qmi_dict_entry, n_weights)) *
             QCPU_TD_LANES;
    }
    QCPU_UNROLL
    for (int i = 0; i < NAME(n_vecs); i++)
        out[i] = sum0[i] + sum1[i];
}

static void NAME(run)(float *y, const qcpu_tile *tile, void *scratch)
{
    (void)scratch;
    qcpu_td_run(y, tile, NAME(one), NAME(lanes));
}

#undef POSITION
#undef VALUE
