/* SPDX-License-Identifier: Apache-2.0
 * Activations of rows, for one instruction set; macros of exp_template.h.  A
 * value's bits do not depend on where it stands: the last register is filled
 * up. */
#include "exp_template.h"

/* 1 / (1 + e^-x), by the exponential that cannot overflow. */
INLINE NAME(vec) NAME(sigmoid)(NAME(vec) x)
{
    typedef int32_t mask __attribute__((vector_size(4 * LANES)));
    const mask negative = x < 0;
    const NAME(vec) one = NAME(all)(1);
    const NAME(vec) e = NAME(exp)((NAME(vec))((mask)x | INT32_MIN));
    return (NAME(vec))((negative & (mask)e) | (~negative & (mask)one)) /
           (one + e);
}

INLINE NAME(vec) NAME(act)(NAME(vec) x, bool silu)
{
    return silu ? x * NAME(sigmoid)(x) : NAME(sigmoid)(x);
}

ISA static void NAME(act_rows)(float *dst, const float *x, int64_t n, bool silu)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const NAME(loose) *from = (const void *)(x + i);
        NAME(loose) *to = (void *)(dst + i);
        *to = NAME(act)(*from, silu);
    }
    if (i < n) {
        const size_t n_bytes = (size_t)(n - i) * sizeof *x;
        NAME(vec) last = {0};
        memcpy(&last, x + i, n_bytes);
        last = NAME(act)(last, silu);
        memcpy(dst + i, &last, n_bytes);
    }
}

#undef INLINE
