/* SPDX-License-Identifier: Apache-2.0
 * Attention in one kernel.  A group takes a query and a head, and the keys in
 * blocks: scores, their exponentials against the largest score so far, and
 * values added to dst, which is scaled down when a larger score comes
 * (the online softmax of Milakov and Gimelshein, arXiv 1805.02867). */
#if ATTENTION_LANES > 16
#define KEYS ATTENTION_LANES
#else
#define KEYS 16
#endif

#if ATTENTION_LANES == 1
#define SHARED
#define WAIT
#else
#define SHARED __local
#define WAIT barrier(CLK_LOCAL_MEM_FENCE)
#endif

typedef struct span {
    int q_begin, q_len, k_begin, k_len, q_pos;
} span;

/* The span that a query is in. */
span find_span(__global const int *spans, int n_spans, int query)
{
    int i = 0;
    while (i + 1 < n_spans &&
           (query < spans[5 * i] || query >= spans[5 * i] + spans[5 * i + 1]))
        i++;
    spans += 5 * i;
    span out = {spans[0], spans[1], spans[2], spans[3], spans[4]};
    return out;
}

float dot_product(__global const float *a, __global const float *b, int n)
{
    float sum = 0;
    int i = 0;
#if ATTENTION_LANES == 1
    float16 sums = (float16)0.0f;
    for (; i + 16 <= n; i += 16)
        sums += vload16(0, a + i) * vload16(0, b + i);
    const float8 s8 = sums.lo + sums.hi;
    const float4 s4 = s8.lo + s8.hi;
    sum = s4.x + s4.y + (s4.z + s4.w);
#endif
    for (; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* dst = dst * keep + sum p[j] * v[j], then times `factor`; v has rows of
 * `stride`.  `fresh`: dst is taken as zero. */
void add_values(__global float *dst, __global const float *v, ulong stride,
    SHARED const float *p, int n, int d_head, int lane, int fresh, float keep,
    float factor)
{
    int c = lane;
#if ATTENTION_LANES == 1
    for (; c + 16 <= d_head; c += 16) {
        float16 sum = fresh ? (float16)0.0f : vload16(0, dst + c) * keep;
        for (int j = 0; j < n; j++)
            sum += p[j] * vload16(0, v + j * stride + c);
        vstore16(sum * factor, 0, dst + c);
    }
#endif
    for (; c < d_head; c += ATTENTION_LANES) {
        float sum = fresh ? 0.0f : dst[c] * keep;
        for (int j = 0; j < n; j++)
            sum += p[j] * v[j * stride + c];
        dst[c] = sum * factor;
    }
}

__kernel __attribute__((reqd_work_group_size(ATTENTION_LANES, 1, 1))) void
attention(__global float *dst, ulong dst_at, __global const float *q,
    ulong q_at, __global const float *k, ulong k_at, __global const float *v,
    ulong v_at, __global const int *spans, ulong spans_at,
    __global const float *bias, ulong bias_at, int n_spans, int n_heads,
    int d_head, int max_distance, float scale, int causal, int has_bias)
{
    SHARED float p[KEYS];
    const int lane = (int)get_local_id(0);
    const int head = (int)get_group_id(0), query = (int)get_global_id(1);
    const span s = find_span(spans + spans_at, n_spans, query);
    const int position = s.q_pos + query - s.q_begin;
    const int n_keys = causal ? min(s.k_len, position + 1) : s.k_len;
    const ulong width = (ulong)n_heads * d_head;
    dst += dst_at + query * width + (ulong)head * d_head;
    q += q_at + query * width + (ulong)head * d_head;
    k += k_at + s.k_begin * width + (ulong)head * d_head;
    v += v_at + s.k_begin * width + (ulong)head * d_head;
    bias += bias_at + (ulong)head * (2 * max_distance + 1) + max_distance;
    float largest = -INFINITY, total = 0;
    for (int begin = 0; begin < n_keys; begin += KEYS) {
        const int n = min(KEYS, n_keys - begin);
        for (int j = lane; j < n; j += ATTENTION_LANES) {
            const int key = begin + j;
            float score = dot_product(q, k + key * width, d_head) * scale;
            if (has_bias)
                score +=
                    bias[clamp(key - position, -max_distance, max_distance)];
            p[j] = score;
        }
        WAIT;
        float most = largest;
        for (int j = 0; j < n; j++)
            most = fmax(most, p[j]);
        WAIT;
        for (int j = lane; j < n; j += ATTENTION_LANES)
            p[j] = exp(p[j] - most);
        WAIT;
        const float keep = begin == 0 ? 0.0f : exp(largest - most);
        total *= keep;
        for (int j = 0; j < n; j++)
            total += p[j];
        largest = most;
        add_values(dst, v + begin * width, width, p, n, d_head, lane,
            begin == 0, keep, begin + KEYS >= n_keys ? 1.0f / total : 1.0f);
        WAIT;
    }
}
