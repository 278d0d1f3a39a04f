/* SPDX-License-Identifier: Apache-2.0
 * The kernel sources, embedded by the build (embed_kernels.cmake). */
#ifndef QMI_OPENCL_SOURCES_H
#define QMI_OPENCL_SOURCES_H

extern const char ocl_source_common[];
extern const char ocl_source_simple[];
extern const char ocl_source_attention[];
extern const char ocl_source_route[];
extern const char ocl_source_top_logits[];
extern const char ocl_source_pack[];
extern const char ocl_source_dense[];
extern const char ocl_source_ternary_dict[];
extern const char ocl_source_q2[];
extern const char ocl_source_pvq[];
extern const char ocl_source_gemm[];
extern const char ocl_source_pvq_lanes[];
extern const char ocl_source_pvq_rows[];

#endif
