/* SPDX-License-Identifier: Apache-2.0
 * Attention in three plain passes over a block of queries: scores, softmax,
 * weighted values.  Scores lie in global memory, [queries, heads, max_keys]. */

typedef struct span {
    int q_begin, q_len, k_begin, k_len, q_pos;
} span;

span load_span(__global const int *spans, int i)
{
    __global const int *s = spans + 5 * i;
    span out = {s[0], s[1], s[2], s[3], s[4]};
    return out;
}

int visible_keys(span s, int query, int causal)
{
    const int position = s.q_pos + query - s.q_begin;
    return causal ? min(s.k_len, position + 1) : s.k_len;
}

/* span_of[query], one work-item per span. */
__kernel void attention_spans(__global int *span_of,
    __global const int *spans, ulong spans_at, int n_spans)
{
    const int i = (int)get_global_id(0);
    if (i >= n_spans)
        return;
    const span s = load_span(spans + spans_at, i);
    for (int q = 0; q < s.q_len; q++)
        span_of[s.q_begin + q] = i;
}

__kernel void attention_scores(__global float *scores,
    __global const float *q, ulong q_at, __global const float *k, ulong k_at,
    __global const int *spans, ulong spans_at, __global const int *span_of,
    __global const float *bias, ulong bias_at, int first_query, int n_heads,
    int d_head, int max_distance, int max_keys, float scale, int causal,
    int has_bias)
{
    const int key = (int)get_global_id(0), head = (int)get_global_id(1);
    const int row = (int)get_global_id(2), query = first_query + row;
    const span s = load_span(spans + spans_at, span_of[query]);
    if (key >= visible_keys(s, query, causal))
        return;
    const ulong width = (ulong)n_heads * d_head;
    __global const float *a = q + q_at + query * width + head * d_head;
    __global const float *b =
        k + k_at + (s.k_begin + key) * width + head * d_head;
    float sum = 0;
    for (int i = 0; i < d_head; i++)
        sum += a[i] * b[i];
    sum *= scale;
    if (has_bias) {
        const int distance = key - (s.q_pos + query - s.q_begin);
        sum += bias[bias_at + (ulong)head * (2 * max_distance + 1) +
                    clamp(distance, -max_distance, max_distance) +
                    max_distance];
    }
    scores[((ulong)row * n_heads + head) * max_keys + key] = sum;
}

/* Scores become exponentials; sums[row, head] = their sum. */
__kernel void attention_softmax(__global float *scores, __global float *sums,
    __global const int *spans, ulong spans_at, __global const int *span_of,
    int first_query, int n_queries, int n_heads, int max_keys, int causal)
{
    const int head = (int)get_global_id(0), row = (int)get_global_id(1);
    if (head >= n_heads || row >= n_queries)
        return;
    const int query = first_query + row;
    const span s = load_span(spans + spans_at, span_of[query]);
    const int n = visible_keys(s, query, causal);
    __global float *x = scores + ((ulong)row * n_heads + head) * max_keys;
    float largest = x[0], sum = 0;
    for (int i = 1; i < n; i++)
        largest = fmax(largest, x[i]);
    for (int i = 0; i < n; i++) {
        const float e = exp(x[i] - largest);
        x[i] = e;
        sum += e;
    }
    sums[row * n_heads + head] = sum;
}

__kernel void attention_values(__global float *dst, ulong dst_at,
    __global const float *scores, __global const float *sums,
    __global const float *v, ulong v_at, __global const int *spans,
    ulong spans_at, __global const int *span_of, int first_query, int n_heads,
    int d_head, int max_keys, int causal)
{
    const int column = (int)get_global_id(0), row = (int)get_global_id(1);
    const int width = n_heads * d_head;
    if (column >= width)
        return;
    const int head = column / d_head, query = first_query + row;
    const span s = load_span(spans + spans_at, span_of[query]);
    const int n = visible_keys(s, query, causal);
    __global const float *p =
        scores + ((ulong)row * n_heads + head) * max_keys;
    __global const float *x = v + v_at + (ulong)s.k_begin * width + column;
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += p[i] * x[(ulong)i * width];
    dst[dst_at + (ulong)query * width + column] =
        sum / sums[row * n_heads + head];
}
