/* SPDX-License-Identifier: Apache-2.0
 * The kernel sources, embedded by the build (embed_kernels.cmake). */
#ifndef QOCL_SOURCES_H
#define QOCL_SOURCES_H

extern const char qocl_source_common[];
extern const char qocl_source_simple[];
extern const char qocl_source_kv_rows[];
extern const char qocl_source_attention[];
extern const char qocl_source_route[];
extern const char qocl_source_top_logits[];
extern const char qocl_source_pack[];
extern const char qocl_source_dense[];
extern const char qocl_source_ternary_dict[];
extern const char qocl_source_q2[];
extern const char qocl_source_pvq[];
extern const char qocl_source_tlut[];
extern const char qocl_source_gemm[];
extern const char qocl_source_pvq_lanes[];
extern const char qocl_source_pvq_rows[];

#endif
