/* SPDX-License-Identifier: Apache-2.0
 * What surrounds a general matrix product of float32: dense weights widened
 * slab by slab, and bias, activation function and residual afterwards. */

/* n elements from `first`; type: 0 bf16, 1 f16. */
__kernel void widen(__global float *dst, __global const ushort *src,
    ulong first, ulong n, int type)
{
    const ulong i = get_global_id(0) +
                    (ulong)get_global_size(0) * get_global_id(1);
    if (i >= n)
        return;
    dst[i] = type == 0 ? BF16(src[first + i])
                       : vload_half(first + i, (__global const half *)src);
}

/* dst = residual + act(alpha * product + bias) */
__kernel void finish_product(__global float *dst, ulong dst_at,
    __global const float *products, __global const float *residual,
    ulong residual_at, int n_rows, float alpha, __global const float *bias,
    int has_bias, int act, int has_residual)
{
    const int r = (int)get_global_id(0);
    if (r >= n_rows)
        return;
    const ulong at = (ulong)get_global_id(1) * n_rows + r;
    const float y = activate(
        alpha * products[at] + (has_bias ? bias[r] : 0.0f), act);
    dst[dst_at + at] = has_residual ? residual[residual_at + at] + y : y;
}
