/* SPDX-License-Identifier: Apache-2.0
 * The router's choice, the capacity rule, and the grouping of a step's tokens
 * by expert.  A warp per token or expert; all counts are integers. */
#include "device.cuh"

/* Index of the largest value after (value, index) in the order "larger first,
 * of equals the lower index"; -1: none.  In every lane. */
DEVICE int next_largest(const float *logits, int n, float value, int index)
{
    int best = -1;
    float best_value = 0.0f;
    for (int i = lane_of_thread(); i < n; i += WARP) {
        const float v = logits[i];
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

QCUDA_KERNEL(route, qcuda_route_args, 32, 1)
{
    const int64_t token = blockIdx.x;
    const float *logits = p.logits + token * p.n_experts;
    float largest = -INFINITY, sum = 0.0f;
    for (int e = lane_of_thread(); e < p.n_experts; e += WARP)
        largest = fmaxf(largest, logits[e]);
    largest = warp_max(largest);
    for (int e = lane_of_thread(); e < p.n_experts; e += WARP)
        sum += expf(logits[e] - largest);
    sum = warp_sum(sum);
    int chosen = -1;
    for (int j = 0; j < p.top_k; j++) {
        const float before = chosen >= 0 ? logits[chosen] : 0.0f;
        if (j == 0 || chosen >= 0) /* else: logits that are not numbers */
            chosen = next_largest(logits, p.n_experts, before, chosen);
        if (lane_of_thread() == 0) {
            const int64_t at = token * p.top_k + j;
            p.expert[at] = chosen;
            p.weight[at] =
                chosen >= 0 ? expf(logits[chosen] - largest) / sum : 0.0f;
        }
    }
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
