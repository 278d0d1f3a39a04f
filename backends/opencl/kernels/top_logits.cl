/* SPDX-License-Identifier: Apache-2.0
 * The largest logits of rows: for processors by a scan with a sorted list, for
 * other devices in steps over segments.  Values are moved as integers, since a
 * device may lose subnormal numbers otherwise. */

#define INFINITE 0x7f800000u
#define LARGEST 0x7f7fffffu /* FLT_MAX */
#define SIGN 0x80000000u

/* Bits of what a logit counts as: NaN as -infinity, infinity as FLT_MAX. */
uint counted(uint bits)
{
    if ((bits & ~SIGN) > INFINITE)
        return SIGN | INFINITE;
    return bits == INFINITE ? LARGEST : bits;
}

/* ---- a work-item per row ---- */

/* Ids come in ascending order: an equal value stays behind. */
void top_insert(__global float *value, __global int *id, int n, int capacity,
    uint bits, int which)
{
    const float x = as_float(bits);
    int at = n;
    while (at > 0 && x > value[at - 1])
        at--;
    if (at == capacity)
        return;
    for (int i = min(n, capacity - 1); i > at; i--) {
        value[i] = value[i - 1];
        id[i] = id[i - 1];
    }
    value[at] = x;
    id[at] = which;
}

__kernel void top_scan(__global float *values, ulong value_at,
    __global int *ids, ulong id_at, __global const uint *logits,
    ulong logits_at, int n_tokens, int n_cols, int top_k)
{
    const ulong t = get_global_id(0);
    if (t >= (ulong)n_tokens)
        return;
    __global const uint *row = logits + logits_at + t * n_cols;
    __global float *value = values + value_at + t * top_k;
    __global int *id = ids + id_at + t * top_k;
    int i = 0;
    for (; i < top_k; i++)
        top_insert(value, id, i, top_k, counted(row[i]), i);
    while (i < n_cols) {
        /* NaN is above nothing, as it must be. */
        const float least = value[top_k - 1];
        while (i + 16 <= n_cols && !any(as_float16(vload16(0, row + i)) > least))
            i += 16;
        for (const int end = min(i + 16, n_cols); i < end; i++)
            if (as_float(row[i]) > value[top_k - 1])
                top_insert(value, id, top_k, top_k, counted(row[i]), i);
    }
}

/* ---- a work-group per segment ---- */

/* Larger for a larger logit, both zeros equal, and of equal logits for the
 * lower id: no two keys are equal, and none is 0. */
ulong top_key(uint logit, int id)
{
    const uint bits = counted(logit);
    uint rank = bits & SIGN ? ~bits : bits | SIGN;
    if ((bits & ~SIGN) == 0)
        rank = SIGN;
    return (ulong)rank << 32 | (0xffffffffu - (uint)id);
}

/* The largest key below `limit` of those a lane looks after; 0: none. */
ulong top_below(ulong limit, __global const uint *logits,
    __global const ulong *keys, int has_keys, int begin, int end)
{
    ulong best = 0;
    for (int i = begin; i < end; i += LANES) {
        const ulong key = has_keys ? keys[i] : top_key(logits[i], i);
        if (key < limit && key > best)
            best = key;
    }
    return best;
}

/* The top_k largest keys of a segment, in order, into `best` (0 where there
 * are no more) or, in the last step, as values and ids.  `keys` [rows, n] come
 * from the step before; without them n is n_cols. */
__kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void top_segments(
    __global ulong *best, __global const ulong *keys, int has_keys,
    int is_last, __global uint *value, ulong value_at, __global int *id,
    ulong id_at, __global const uint *logits, ulong logits_at, int n_cols,
    int n, int segment, int top_k)
{
    __local ulong largest[LANES];
    const int lane = (int)get_local_id(0);
    const ulong row = get_global_id(1);
    const int begin = (int)get_group_id(0) * segment;
    const int end = min(begin + segment, n);
    const ulong place = (row * get_num_groups(0) + get_group_id(0)) * top_k;
    logits += logits_at + row * n_cols;
    keys += has_keys ? row * n : 0;
    ulong mine =
        top_below(ULONG_MAX, logits, keys, has_keys, begin + lane, end);
    for (int j = 0; j < top_k; j++) {
        largest[lane] = mine;
        for (int step = LANES / 2; step > 0; step /= 2) {
            barrier(CLK_LOCAL_MEM_FENCE);
            if (lane < step)
                largest[lane] = max(largest[lane], largest[lane + step]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        const ulong key = largest[0];
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane == 0 && !is_last)
            best[place + j] = key;
        if (key == 0 || key != mine)
            continue;
        if (is_last) {
            const uint which = 0xffffffffu - (uint)key;
            value[value_at + row * top_k + j] = counted(logits[which]);
            id[id_at + row * top_k + j] = (int)which;
        }
        mine = top_below(key, logits, keys, has_keys, begin + lane, end);
    }
}
