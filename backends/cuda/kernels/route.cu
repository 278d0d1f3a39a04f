/* SPDX-License-Identifier: Apache-2.0
 * The router's choice, the capacity rule, and the grouping of a step's tokens
 * by expert.  A warp per token or expert; all counts are integers. */
#include "device.cuh"

/* Index of the largest value after (value, index) in the order "larger first,
 * of equals the lower index"; -1: none.  In every lane. */
DEVICE int next_largest(const float *values, int n, float value, int index)
{
    int best = -1;
    float best_value = 0.0f;
    for (int i = lane_of_thread(); i < n; i += WARP) {
        const float v = values[i];
        if (index >= 0 && !(v < value || (v == value && i > index)))
            continue;
        if (best < 0 || v > best_value) {
            best = i;
            best_value = v;
        }
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        const int other = __shfl_xor_sync(ALL_LANES, best, step);
        const float v = __shfl_xor_sync(ALL_LANES, best_value, step);
        const bool better =
            other >= 0 &&
            (best < 0 || v > best_value || (v == best_value && other < best));
        best = better ? other : best;
        best_value = better ? v : best_value;
    }
    return best;
}

/* What the softmax needs to know of a token's logits. */
struct route_scale {
    float largest, sum;
};

DEVICE float route_score(
    const qcuda_route_args &p, const route_scale &s, float logit)
{
    return p.scoring == QCUDA_SIGMOID ? activated(logit, QCUDA_ACT_SIGMOID)
                                      : expf(logit - s.largest) / s.sum;
}

DEVICE route_scale route_scale_of(
    const qcuda_route_args &p, const float *logits)
{
    route_scale s = {-INFINITY, 0.0f};
    for (int e = lane_of_thread(); e < p.n_experts; e += WARP)
        s.largest = fmaxf(s.largest, logits[e]);
    s.largest = warp_max(s.largest);
    for (int e = lane_of_thread(); e < p.n_experts; e += WARP)
        s.sum += expf(logits[e] - s.largest);
    s.sum = warp_sum(s.sum);
    return s;
}

/* Sum of the one or two largest. */
DEVICE float route_group_score(const float *order, int n, int n_best)
{
    float first = -INFINITY, second = -INFINITY;
    for (int e = 0; e < n; e++) {
        second = fmaxf(second, fminf(first, order[e]));
        first = fmaxf(first, order[e]);
    }
    return n_best == 2 && n > 1 ? first + second : first;
}

/* Leaves the experts of the best groups a choice; a lane per group. */
DEVICE void route_drop_groups(
    const qcuda_route_args &p, float *order, float *group)
{
    const int size = p.n_experts / p.n_groups;
    for (int g = lane_of_thread(); g < p.n_groups; g += WARP)
        group[g] = route_group_score(order + g * size, size, p.group_best);
    __syncwarp();
    for (int g = lane_of_thread(); g < p.n_groups; g += WARP) {
        int better = 0;
        for (int i = 0; i < p.n_groups; i++)
            better += group[i] > group[g] || (group[i] == group[g] && i < g);
        for (int e = 0; better >= p.top_groups && e < size; e++)
            order[g * size + e] = -INFINITY;
    }
}

QCUDA_KERNEL(route, qcuda_route_args, 32, 1)
{
    QCUDA_SHARED(float, order); /* what decides, [n_experts] */
    float *group = order + p.n_experts;
    const float *logits = p.logits + int64_t(blockIdx.x) * p.n_experts;
    int32_t *expert = p.expert + int64_t(blockIdx.x) * p.top_k;
    float *weight = p.weight + int64_t(blockIdx.x) * p.top_k;
    const route_scale s = route_scale_of(p, logits);
    /* Without a bias or groups logits decide: scores rise with them, but not
     * where they are rounded to 0 or 1. */
    const bool plain = p.bias == nullptr && p.n_groups == 0;
    for (int e = lane_of_thread(); e < p.n_experts; e += WARP)
        order[e] = plain ? logits[e]
                         : route_score(p, s, logits[e]) +
                               (p.bias != nullptr ? p.bias[e] : 0.0f);
    __syncwarp();
    if (p.n_groups != 0)
        route_drop_groups(p, order, group);
    __syncwarp();
    int chosen = -1;
    float total = 0.0f;
    for (int j = 0; j < p.top_k; j++) {
        const float before = chosen >= 0 ? order[chosen] : 0.0f;
        if (j == 0 || chosen >= 0) /* else: logits that are not numbers */
            chosen = next_largest(order, p.n_experts, before, chosen);
        const float score =
            chosen >= 0 ? route_score(p, s, logits[chosen]) : 0.0f;
        total += score;
        if (lane_of_thread() == j % WARP) {
            expert[j] = chosen;
            weight[j] = score * p.scale;
        }
    }
    /* A lane reads what it wrote. */
    for (int j = lane_of_thread(); p.normalises != 0 && j < p.top_k; j += WARP)
        weight[j] /= total;
}

/* Drops a pair when as many earlier ones of its sequence as an expert takes
 * chose the same. */
QCUDA_KERNEL(drop, qcuda_drop_args, 128, 1)
{
    const int64_t pair = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (pair >= p.n_pairs || p.chosen[pair] < 0)
        return;
    const int32_t sequence = p.sequence[pair / p.top_k];
    int64_t used = 0;
    for (int64_t i = pair - 1; i >= 0 && used < p.capacity; i--) {
        if (p.sequence[i / p.top_k] != sequence)
            break;
        used += p.chosen[i] == p.chosen[pair];
    }
    if (used >= p.capacity)
        p.expert[pair] = -1;
}

/* ---- grouping ---- */

/* The warp's expert; n_experts stands for the dropped pairs. */
DEVICE int group_expert()
{
    return int(blockIdx.x) * int(blockDim.x / WARP) + warp_of_thread();
}

DEVICE bool group_member(const qcuda_group_args &p, int pair, int expert)
{
    if (pair >= p.n_pairs)
        return false;
    const int chosen = p.expert[pair];
    return (chosen < 0 ? p.n_experts : chosen) == expert;
}

QCUDA_KERNEL(group_count, qcuda_group_args, 128, 1)
{
    const int expert = group_expert();
    if (expert > p.n_experts)
        return;
    int count = 0;
    for (int base = 0; base < p.n_pairs; base += WARP)
        count += group_member(p, base + lane_of_thread(), expert);
    count = warp_total(count);
    if (lane_of_thread() == 0)
        p.counts[expert] = count;
}

/* Slots of eight items that the tiles of `count` items take; geometry.h bounds
 * their sum (qcuda_list_slots). */
DEVICE int group_slots(const qcuda_group_args &p, int expert, int count)
{
    if (expert >= p.n_experts)
        return 0;
    const int rest = count % p.tile_items;
    return count / p.tile_items * (p.tile_items / 8) +
           (rest > p.few ? (rest + 7) / 8 : 0);
}

DEVICE void group_fill_tiles(const qcuda_group_args &p, int expert, int begin,
    int tile, int slot, int count)
{
    const int n = (count + p.tile_items - 1) / p.tile_items;
    for (int i = lane_of_thread(); i < n; i += WARP) {
        qcuda_tile one;
        one.mat = expert < p.n_experts ? expert : -1;
        one.begin = begin + i * p.tile_items;
        one.count = min(p.tile_items, count - i * p.tile_items);
        one.slot = slot + i * (p.tile_items / 8);
        p.tiles[tile + i] = one;
    }
    if (expert < p.n_experts)
        return;
    for (int i = tile + n + lane_of_thread(); i < p.n_tiles; i += WARP) {
        qcuda_tile none;
        none.mat = -1;
        none.begin = none.count = none.slot = 0;
        p.tiles[i] = none;
    }
}

QCUDA_KERNEL(group_fill, qcuda_group_args, 128, 1)
{
    const int expert = group_expert();
    if (expert > p.n_experts)
        return;
    int begin = 0, tile = 0, slot = 0;
    for (int e = lane_of_thread(); e < expert; e += WARP) {
        slot += group_slots(p, e, p.counts[e]);
        begin += p.counts[e];
        tile += (p.counts[e] + p.tile_items - 1) / p.tile_items;
    }
    begin = warp_total(begin);
    tile = warp_total(tile);
    slot = warp_total(slot);
    group_fill_tiles(p, expert, begin, tile, slot, p.counts[expert]);
    int at = begin;
    for (int base = 0; base < p.n_pairs; base += WARP) {
        const int pair = base + lane_of_thread();
        const bool mine = group_member(p, pair, expert);
        const unsigned all = __ballot_sync(ALL_LANES, mine);
        const unsigned below = all & ((1u << lane_of_thread()) - 1);
        if (mine)
            p.order[at + __popc(below)] = pair;
        at += __popc(all);
    }
}
