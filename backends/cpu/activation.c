/* SPDX-License-Identifier: Apache-2.0
 * Activations of rows (cpu.h).  In: values.  Out: their activations, by the best
 * instruction set of this machine; the choice is the same in every thread. */
#include "cpu.h"

#include <string.h>

#include "cpu_features.h"
#include "exp.h"

#define ISA
#define NAME(x) x##_portable
#define LANES 4
#define FMA(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) larger(a, b)
#include "activation_template.h"
#undef ISA
#undef NAME
#undef LANES
#undef FMA
#undef MAX

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define LANES 16
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_ps(a, b)
#include "activation_template.h"
#undef ISA
#undef NAME
#undef LANES
#undef FMA
#undef MAX

#define ISA __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define LANES 8
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_ps(a, b)
#include "activation_template.h"
#endif

static void smooth_rows(float *dst, const float *x, int64_t n, bool silu)
{
#if defined(__x86_64__)
    const unsigned features = qmi_cpu_features();
    if ((features & QMI_CPU_AVX512) != 0)
        act_rows_avx512(dst, x, n, silu);
    else if ((features & QMI_CPU_AVX2) != 0)
        act_rows_avx2(dst, x, n, silu);
    else
#endif
        act_rows_portable(dst, x, n, silu);
}

void qcpu_act_rows(float *dst, const float *x, int64_t n, qmi_act act)
{
    if (act == QMI_ACT_SILU || act == QMI_ACT_SIGMOID)
        smooth_rows(dst, x, n, act == QMI_ACT_SILU);
    else
        for (int64_t i = 0; i < n; i++)
            dst[i] = qcpu_act(act, x[i]);
}
