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

/* What a kernel reads of one head of keys or values: rows of `stride` words,
 * columns [first, first + width). */
typedef struct kv_head {
    __global const uint *rows;
    ulong stride;
    int type, first, width;
} kv_head;

/* How many columns are read as vectors: in q8 these must not cross blocks. */
int vector_columns(kv_head h)
{
#if ATTENTION_LANES == 1
    if (h.type != KV_Q8 || h.width % 16 == 0)
        return h.width / 16 * 16;
#endif
    return 0;
}

float dot_product(__global const float *q, kv_head k, int key)
{
    __global const uint *row = k.rows + key * k.stride;
    const int n_vectors = vector_columns(k);
    float16 sums = (float16)0.0f;
    for (int i = 0; i < n_vectors; i += 16)
        sums += vload16(0, q + i) * load_values(row, k.type, k.first + i);
    const float8 s8 = sums.lo + sums.hi;
    const float4 s4 = s8.lo + s8.hi;
    float sum = s4.x + s4.y + (s4.z + s4.w);
    for (int i = n_vectors; i < k.width; i++)
        sum += q[i] * load_value(row, k.type, k.first + i);
    return sum;
}

/* dst = dst * keep + sum p[j] * v[key + j], then times `factor`.  `fresh`: dst
 * is taken as zero. */
void add_values(__global float *dst, kv_head v, int key, SHARED const float *p,
    int n, int lane, int fresh, float keep, float factor)
{
    const int n_vectors = vector_columns(v);
    v.rows += key * v.stride;
    for (int c = 0; c < n_vectors; c += 16) {
        float16 sum = fresh ? (float16)0.0f : vload16(0, dst + c) * keep;
        for (int j = 0; j < n; j++)
            sum += p[j] *
                   load_values(v.rows + j * v.stride, v.type, v.first + c);
        vstore16(sum * factor, 0, dst + c);
    }
    for (int c = n_vectors + lane; c < v.width; c += ATTENTION_LANES) {
        float sum = fresh ? 0.0f : dst[c] * keep;
        for (int j = 0; j < n; j++)
            sum +=
                p[j] * load_value(v.rows + j * v.stride, v.type, v.first + c);
        dst[c] = sum * factor;
    }
}

__kernel __attribute__((reqd_work_group_size(ATTENTION_LANES, 1, 1))) void
attention(__global float *dst, ulong dst_at, __global const float *q,
    ulong q_at, __global const uint *k, ulong k_at, __global const uint *v,
    ulong v_at, __global const int *spans, ulong spans_at,
    __global const float *bias, ulong bias_at, int has_bias,
    __global const float *sinks, int has_sinks, int n_spans, int n_heads,
    int n_kv_heads, int d_key, int d_value, int k_words, int v_words, int type,
    int max_distance, int window, float scale, int causal)
{
    SHARED float p[KEYS];
    const int lane = (int)get_local_id(0);
    const int head = (int)get_group_id(0), query = (int)get_global_id(1);
    const span s = find_span(spans + spans_at, n_spans, query);
    const int position = s.q_pos + query - s.q_begin;
    const int first = window > 0 ? max(0, position + 1 - window) : 0;
    const int last = causal ? min(s.k_len, position + 1) : s.k_len;
    const int kv = head / (n_heads / n_kv_heads);
    const kv_head keys = {k + k_at + (ulong)s.k_begin * k_words, k_words, type,
        kv * d_key, d_key};
    const kv_head values = {v + v_at + (ulong)s.k_begin * v_words, v_words,
        type, kv * d_value, d_value};
    dst += dst_at + ((ulong)query * n_heads + head) * d_value;
    q += q_at + ((ulong)query * n_heads + head) * d_key;
    bias += bias_at + (ulong)head * (2 * max_distance + 1) + max_distance;
    /* A sink is a score that comes first and has no value. */
    float largest = has_sinks ? sinks[head] : -INFINITY;
    float total = has_sinks ? 1.0f : 0.0f;
    for (int begin = first; begin < last; begin += KEYS) {
        const int n = min(KEYS, last - begin);
        for (int j = lane; j < n; j += ATTENTION_LANES) {
            const int key = begin + j;
            float score = dot_product(q, keys, key) * scale;
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
        const float keep = exp(largest - most);
        total *= keep;
        for (int j = 0; j < n; j++)
            total += p[j];
        largest = most;
        add_values(dst, values, begin, p, n, lane, begin == first, keep,
            begin + KEYS >= last ? 1.0f / total : 1.0f);
        WAIT;
    }
}
