/* SPDX-License-Identifier: Apache-2.0
 * Norm, rotary positions, gates, the inverse rotation of decoded rows, and what
 * surrounds the products of experts: grouping of (token, slot) pairs by expert
 * and the weighted sum of their results. */

/* One work-group per token. */
__kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void rmsnorm(
    __global float *dst, ulong dst_at, __global const float *src, ulong src_at,
    __global const float *weight, int n_cols, float epsilon)
{
    __local float sums[LANES];
    const int lane = (int)get_local_id(0);
    __global const float *x = src + src_at + get_group_id(0) * (ulong)n_cols;
    __global float *y = dst + dst_at + get_group_id(0) * (ulong)n_cols;
    float sum = 0;
    for (int c = lane; c < n_cols; c += LANES)
        sum += x[c] * x[c];
    sums[lane] = sum;
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < step)
            sums[lane] += sums[lane + step];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const float factor = 1.0f / sqrt(sums[0] / (float)n_cols + epsilon);
    for (int c = lane; c < n_cols; c += LANES)
        y[c] = x[c] * factor * weight[c];
}

/* Of each head a work-item takes a pair that rotates, or a value that does
 * not, which is moved as bits.  dst may be src: a work-item reads what it
 * writes, and nothing else. */
__kernel void rope(__global uint *dst, ulong dst_at, __global const uint *src,
    ulong src_at, __global const float *turns, ulong turns_at, int n_heads,
    int d_head, int n_pairs, int interleaved)
{
    const int m = (int)get_global_id(0);
    const ulong t = get_global_id(1), head = get_global_id(2);
    if (m >= d_head - n_pairs)
        return;
    const ulong at = (t * n_heads + head) * d_head;
    src += src_at + at;
    dst += dst_at + at;
    if (m >= n_pairs) {
        dst[n_pairs + m] = src[n_pairs + m];
        return;
    }
    turns += turns_at + t * 2 * n_pairs;
    const float c = turns[m], s = turns[n_pairs + m];
    const int first = interleaved ? 2 * m : m;
    const int second = interleaved ? 2 * m + 1 : m + n_pairs;
    const float a = as_float(src[first]), b = as_float(src[second]);
    dst[first] = as_uint(a * c - b * s);
    dst[second] = as_uint(b * c + a * s);
}

__kernel void glu(__global float *dst, ulong dst_at, __global const float *up,
    ulong up_at, __global const float *gate, ulong gate_at, int n_cols,
    int has_one_gate, int act)
{
    const int c = (int)get_global_id(0);
    const ulong t = get_global_id(1);
    if (c >= n_cols)
        return;
    const ulong at = t * n_cols + c;
    dst[dst_at + at] =
        activate(gate[gate_at + (has_one_gate ? t : at)], act) * up[up_at + at];
}

/* The inverse rotation of one block of one row, in the order of operations of
 * qmi_unrotate, so that decoded rows agree bit for bit. */
__kernel void unrotate(__global float *rows, ulong rows_at, int n_cols,
    int block, uint seed)
{
    const int begin = (int)get_global_id(0) * block;
    if (begin >= n_cols)
        return;
    __global float *x = rows + rows_at + get_global_id(1) * (ulong)n_cols;
    const int end = min(begin + block, n_cols);
    int size = block;
    for (int at = begin; at < end; at += size) {
        while (size > end - at)
            size /= 2;
        for (int step = 1; step < size; step *= 2)
            for (int i = at; i < at + size; i += 2 * step)
                for (int j = i; j < i + step; j++) {
                    const float a = x[j], b = x[j + step];
                    x[j] = a + b;
                    x[j + step] = a - b;
                }
        const float norm = hadamard_norm(size);
        for (int i = at; i < at + size; i++)
            x[i] = x[i] * norm * rotation_sign(seed, i);
    }
}

/* ---- experts ---- */

/* counts[e] = pairs of expert e. */
__kernel void group_count(__global int *counts, __global const int *expert,
    ulong expert_at, int n_pairs, int n_experts)
{
    const int e = (int)get_global_id(0);
    if (e >= n_experts)
        return;
    int n = 0;
    for (int p = 0; p < n_pairs; p++)
        n += expert[expert_at + p] == e;
    counts[e] = n;
}

/* order: pairs sorted by expert; tiles {expert, begin in order, count, -}, at
 * most `width` pairs each, those beyond the last with count 0.  Work-item
 * n_experts fills up the end. */
__kernel void group_fill(__global int *order, __global int4 *tiles,
    __global const int *counts, __global const int *expert, ulong expert_at,
    int n_pairs, int n_experts, int width, int n_tiles)
{
    const int e = (int)get_global_id(0);
    if (e > n_experts)
        return;
    int begin = 0, tile = 0;
    for (int i = 0; i < e; i++) {
        begin += counts[i];
        tile += (counts[i] + width - 1) / width;
    }
    if (e == n_experts) {
        for (; tile < n_tiles; tile++)
            tiles[tile] = (int4)(0, 0, 0, 0);
        return;
    }
    const int n = counts[e];
    for (int i = 0; i < n; i += width)
        tiles[tile++] = (int4)(e, begin + i, min(width, n - i), 0);
    for (int p = 0; p < n_pairs; p++)
        if (expert[expert_at + p] == e)
            order[begin++] = p;
}

/* dst = residual + sum of weight * result; a dropped pair's result is src. */
__kernel void combine(__global float *dst, ulong dst_at,
    __global const float *residual, ulong residual_at,
    __global const float *src, ulong src_at, __global const float *results,
    __global const int *expert, ulong expert_at, __global const float *weight,
    ulong weight_at, int n_cols, int top_k, int has_residual)
{
    const int c = (int)get_global_id(0);
    const ulong t = get_global_id(1);
    if (c >= n_cols)
        return;
    const ulong at = t * n_cols + c;
    float sum = has_residual ? residual[residual_at + at] : 0.0f;
    for (int j = 0; j < top_k; j++) {
        const ulong p = t * top_k + j;
        const float y = expert[expert_at + p] >= 0 ? results[p * n_cols + c]
                                                   : src[src_at + at];
        sum += weight[weight_at + p] * y;
    }
    dst[dst_at + at] = sum;
}
