/* SPDX-License-Identifier: Apache-2.0
 * The router: softmax, the top_k experts, and the drop of tokens beyond an
 * expert's capacity. */

/* One work-item per token.  The next expert is the largest logit that comes
 * after the last one taken, in the order (logit down, index up). */
__kernel void route(__global int *expert, ulong expert_at,
    __global float *weight, ulong weight_at, __global const float *logits,
    ulong logits_at, int n_tokens, int n_experts, int top_k)
{
    const ulong t = get_global_id(0);
    if (t >= (ulong)n_tokens)
        return;
    __global const float *x = logits + logits_at + t * n_experts;
    float largest = x[0], sum = 0;
    for (int e = 1; e < n_experts; e++)
        largest = fmax(largest, x[e]);
    for (int e = 0; e < n_experts; e++)
        sum += exp(x[e] - largest);
    float last = INFINITY;
    int last_index = -1;
    for (int j = 0; j < top_k; j++) {
        int best = -1;
        for (int e = 0; e < n_experts; e++) {
            const int left =
                x[e] < last || (x[e] == last && e > last_index);
            if (left && (best < 0 || x[e] > x[best]))
                best = e;
        }
        best = max(best, 0); /* only NaN leaves none */
        last = x[best];
        last_index = best;
        expert[expert_at + t * top_k + j] = best;
        weight[weight_at + t * top_k + j] = exp(last - largest) / sum;
    }
}

/* One work-item per expert looks through all tokens; `chosen` is a copy, so
 * that no work-item reads what another writes. */
__kernel void route_drop(__global int *expert, ulong expert_at,
    __global const int *chosen, __global const int *sequence,
    ulong sequence_at, int n_tokens, int n_experts, int top_k, int capacity)
{
    const int e = (int)get_global_id(0);
    if (e >= n_experts)
        return;
    int used = 0, current = 0;
    for (int t = 0; t < n_tokens; t++) {
        const int s = sequence[sequence_at + t];
        if (t == 0 || s != current)
            used = 0;
        current = s;
        for (int j = 0; j < top_k; j++) {
            const int at = t * top_k + j;
            if (chosen[at] != e)
                continue;
            used++;
            expert[expert_at + at] = used > capacity ? -1 : e;
        }
    }
}
