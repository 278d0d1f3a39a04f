/* SPDX-License-Identifier: Apache-2.0
 * Vectors of one instruction set and e^x of them.  Set by the including file:
 * ISA, NAME(x), LANES, FMA, MAX, as attention_template.h says.  Leaves INLINE
 * defined.  No include guard on purpose; the constants are in exp.h. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES)));
typedef uint32_t NAME(bits) __attribute__((vector_size(4 * LANES)));
typedef NAME(vec) NAME(loose)
    __attribute__((aligned(1), may_alias)); /* at any address */

#define INLINE ISA static inline __attribute__((always_inline))

INLINE NAME(vec) NAME(all)(float x)
{
    return x - (NAME(vec)){0}; /* + would add instructions, for -0 */
}

/* e^x for x <= 0, within 1.1 units in the last place as long as it is a normal
 * number; exactly 1 for 0, 0 for -infinity, NaN for NaN. */
INLINE NAME(vec) NAME(exp)(NAME(vec) x)
{
    x = MAX(NAME(all)(EXP_LEAST), x);
    /* The integer nearest to x / ln 2 ends up in the lowest bits. */
    const NAME(vec) shifted = FMA(x, NAME(all)(LOG2_E), NAME(all)(ROUNDING));
    const NAME(vec) n = shifted - NAME(all)(ROUNDING);
    NAME(vec) r = FMA(n, NAME(all)(-LN2_HIGH), x);
    r = FMA(n, NAME(all)(-LN2_LOW), r);
    NAME(vec) y = NAME(all)(exp_terms[0]);
    QCPU_UNROLL
    for (int i = 1; i < N_EXP_TERMS; i++)
        y = FMA(y, r, NAME(all)(exp_terms[i]));
    y = FMA(y * r, r, r) + NAME(all)(1);
    return y * (NAME(vec))(((NAME(bits))shifted << 23) + (127u << 23));
}
