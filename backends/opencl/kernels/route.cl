/* SPDX-License-Identifier: Apache-2.0
 * The router: scores, groups of experts, the top_k experts, and the drop of
 * tokens beyond an expert's capacity. */
#define SCORE_SIGMOID 1

#if LANES == 1
#define ROUTE_WAIT
#else
#define ROUTE_WAIT barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#endif

/* How one token's logits become scores. */
typedef struct scoring {
    int is_sigmoid;
    float largest, sum; /* of the softmax */
} scoring;

float score_of(float logit, scoring s)
{
    return s.is_sigmoid ? activate(logit, ACT_SIGMOID)
                        : exp(logit - s.largest) / s.sum;
}

/* An expert and what decides about it; none: id -1. */
typedef struct choice {
    float value;
    int id;
} choice;

/* Larger values first, of equal ones the lowest id. */
int comes_before(float value, int id, float other, int other_id)
{
    return value > other || (value == other && id < other_id);
}

/* The first after `last` of the experts a lane looks after. */
choice next_choice(__global const float *order, int n, int lane, choice last)
{
    choice best = {-INFINITY, -1};
    for (int e = lane; e < n; e += LANES) {
        const float x = order[e];
        if (comes_before(last.value, last.id, x, e) &&
            (best.id < 0 || x > best.value)) {
            best.value = x;
            best.id = e;
        }
    }
    return best;
}

/* The first of what all lanes have; every lane gets it. */
choice first_choice(choice mine, __local float *values, __local int *ids)
{
#if LANES > 1
    const int lane = (int)get_local_id(0);
    values[lane] = mine.value;
    ids[lane] = mine.id;
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        const int other = lane + step;
        if (lane < step && ids[other] >= 0 &&
            (ids[lane] < 0 || comes_before(values[other], ids[other],
                                  values[lane], ids[lane]))) {
            values[lane] = values[other];
            ids[lane] = ids[other];
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    mine.value = values[0];
    mine.id = ids[0];
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    return mine;
}

/* The sum, or the largest, of what all lanes have. */
float over_lanes(float mine, int is_sum, __local float *values)
{
#if LANES > 1
    const int lane = (int)get_local_id(0);
    values[lane] = mine;
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < step)
            values[lane] = is_sum ? values[lane] + values[lane + step]
                                  : fmax(values[lane], values[lane + step]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    mine = values[0];
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    return mine;
}

/* The sum of the largest, or of the two largest, of a group. */
float group_score(__global const float *order, int n, int n_best)
{
    float first = -INFINITY, second = -INFINITY;
    for (int e = 0; e < n; e++) {
        const float x = order[e];
        second = fmax(second, fmin(x, first));
        first = fmax(first, x);
    }
    return n_best == 2 && n > 1 ? first + second : first;
}

/* Puts the experts of all but the `n_kept` best groups behind the others.
 * `scores` [n_groups] is work space. */
void drop_groups(__global float *order, __global float *scores, int n_experts,
    int n_groups, int n_kept, int n_best, int lane)
{
    const int size = n_experts / n_groups;
    for (int g = lane; g < n_groups; g += LANES)
        scores[g] = group_score(order + g * size, size, n_best);
    ROUTE_WAIT;
    for (int g = lane; g < n_groups; g += LANES) {
        int n_before = 0;
        for (int i = 0; i < n_groups; i++)
            n_before += comes_before(scores[i], i, scores[g], g);
        for (int e = 0; n_before >= n_kept && e < size; e++)
            order[g * size + e] = -INFINITY;
    }
    ROUTE_WAIT;
}

/* A group of lanes per token.  Logits decide, or with a bias or groups the
 * biased scores, which are then in `work` [n_tokens, 2, n_experts]. */
__kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void route(
    __global int *expert, ulong expert_at, __global float *weight,
    ulong weight_at, __global const float *logits, ulong logits_at,
    __global float *work, __global const float *bias, int has_bias,
    int n_experts, int top_k, int scoring_kind, int n_groups, int top_groups,
    int group_best, int normalises, float scale)
{
    __local float values[LANES];
    __local int ids[LANES];
    const int lane = (int)get_local_id(0);
    const ulong t = get_global_id(1);
    __global const float *x = logits + logits_at + t * n_experts;
    expert += expert_at + t * top_k;
    weight += weight_at + t * top_k;
    scoring s = {scoring_kind == SCORE_SIGMOID, -INFINITY, 0.0f};
    for (int e = lane; e < n_experts; e += LANES)
        s.largest = fmax(s.largest, x[e]);
    s.largest = over_lanes(s.largest, 0, values);
    for (int e = lane; e < n_experts; e += LANES)
        s.sum += exp(x[e] - s.largest);
    s.sum = over_lanes(s.sum, 1, values);
    __global const float *order = x;
    if (has_bias || n_groups != 0) {
        __global float *biased = work + t * 2 * n_experts;
        for (int e = lane; e < n_experts; e += LANES)
            biased[e] = score_of(x[e], s) + (has_bias ? bias[e] : 0.0f);
        ROUTE_WAIT;
        if (n_groups != 0)
            drop_groups(biased, biased + n_experts, n_experts, n_groups,
                top_groups, group_best, lane);
        order = biased;
    }
    choice last = {INFINITY, -1};
    choice mine = next_choice(order, n_experts, lane, last);
    float chosen = 0;
    for (int j = 0; j < top_k; j++) {
        last = first_choice(mine, values, ids);
        if (mine.id == last.id)
            mine = next_choice(order, n_experts, lane, last);
        const int best = max(last.id, 0); /* only NaN leaves none */
        const float score = score_of(x[best], s);
        chosen += score;
        if (lane == 0) {
            expert[j] = best;
            weight[j] = score;
        }
    }
    if (lane == 0)
        for (int j = 0; j < top_k; j++)
            weight[j] = weight[j] * scale / (normalises ? chosen : 1.0f);
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
