/* SPDX-License-Identifier: Apache-2.0
 * Operation linear by the dense products of the driver (cuBLAS). */
#ifndef QCUDA_OP_GEMM_H
#define QCUDA_OP_GEMM_H

#include "qcuda_device.h"

/* Variant "cublas": bf16 and f32 weights, many tokens, within the bounds of
 * docs/numerics.md. */
bool qcuda_gemm_supports(const qmi_device *device, const qmi_op *op);
qmoe_status qcuda_gemm_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err);

/* The backend's `baselines`: "cublas-bf16", bf16 weights and bf16 activations,
 * one product and nothing else. */
const qmi_variant *qcuda_gemm_baselines(
    const qmi_device *device, qmi_op_kind kind, size_t *n);

#endif
