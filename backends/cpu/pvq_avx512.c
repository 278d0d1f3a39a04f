/* SPDX-License-Identifier: Apache-2.0
 * pvq and pvq8 on AVX-512, without and with VBMI, whose byte permutes and
 * multishifts prepare the indices (pvq_avx512_template.h).  In: codes of a
 * tile, packed tokens.  Out: sums of its rows.  Both sets compile one text. */
#include "pvq_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* How far ahead codes are fetched; reaching past the end is harmless. */
enum { PREFETCH_BYTES = 4096 };

#define KERNEL(symbol, features, function)                                     \
    const qcpu_matmul qcpu_matmul_##symbol = {                                 \
        .needs = features,                                                     \
        .takes = qcpu_pvq_takes,                                               \
        .max_tokens = QCPU_ANY_TOKENS,                                         \
        .speed = 150,                                                          \
        .tile_rows = qcpu_pvq_tile_rows,                                       \
        .packed_bytes = qcpu_pvq_packed_bytes,                                 \
        .pack = qcpu_pvq_pack,                                                 \
        .tile_scratch = qcpu_pvq_tile_scratch,                                 \
        .run = function,                                                       \
    }

#define ISA __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(x) x##_avx512
#define HAVE_VBMI 0
#include "pvq_avx512_template.h"
#undef ISA
#undef NAME
#undef HAVE_VBMI

#define ISA                                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")))
#define NAME(x) x##_avx512vbmi
#define HAVE_VBMI 1
#include "pvq_avx512_template.h"

KERNEL(pvq_avx512, QMI_CPU_AVX512, run_avx512);
KERNEL(pvq_avx512vbmi, QMI_CPU_AVX512 | QMI_CPU_AVX512VBMI, run_avx512vbmi);

#else
typedef int qcpu_no_avx512; /* a file must not be empty */
#endif
