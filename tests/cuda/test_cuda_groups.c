/* SPDX-License-Identifier: Apache-2.0
 * Grouping of tokens by expert (kernels/route.cu, emulated) under many routings:
 * every pair lies in one tile of its expert, and the slots that tiles take among
 * the packed activations are apart and no more than the host reserves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "geometry.h"

enum {
    MAX_EXPERTS = 40,
    MAX_PAIRS = 700,
    MAX_SLOTS = MAX_PAIRS, /* more than any bound */
    N_ROUTINGS = 1000
};

extern const qcuda_entry qcuda_kernel_group_count;
extern const qcuda_entry qcuda_kernel_group_fill;

static qdrv_device *driver;
static int32_t experts[MAX_PAIRS], counts[MAX_EXPERTS + 1], order[MAX_PAIRS];
static qcuda_tile tiles[MAX_PAIRS];

static uint32_t below(uint32_t n)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static void group(int32_t n_pairs, int32_t n_experts)
{
    const qcuda_group_args args = {
        .expert = experts,
        .counts = counts,
        .order = order,
        .tiles = tiles,
        .n_pairs = n_pairs,
        .n_experts = n_experts,
        .n_tiles = n_pairs,
        .tile_items = QCUDA_MANY_ITEMS,
        .few = QCUDA_FEW_ITEMS,
    };
    const qcuda_grid grid = {.x = (uint32_t)n_experts / 4 + 1,
        .y = 1,
        .z = 1,
        .threads = QCUDA_ROW_THREADS};
    memset(tiles, 0xff, sizeof tiles);
    assert_null(qdrv_launch(driver, &qcuda_kernel_group_count, grid, &args));
    assert_null(qdrv_launch(driver, &qcuda_kernel_group_fill, grid, &args));
}

static void take_pairs(const qcuda_tile *t, bool *seen)
{
    for (int32_t i = t->begin; i < t->begin + t->count; i++) {
        const int32_t pair = order[i];
        assert_int_equal(experts[pair], t->mat);
        assert_false(seen[pair]);
        seen[pair] = true;
    }
}

/* Slots the tile takes; none of them is another tile's. */
static int64_t take_slots(const qcuda_tile *t, bool *used)
{
    const int64_t n = qcuda_run_slots(t->count);
    if (t->mat < 0 || t->count <= QCUDA_FEW_ITEMS)
        return 0;
    for (int64_t s = t->slot; s < t->slot + n; s++) {
        assert_in_range(s, 0, MAX_SLOTS - 1);
        assert_false(used[s]);
        used[s] = true;
    }
    return t->slot + n;
}

/* The number of slots behind the last one that is used. */
static int64_t check_groups(int32_t n_pairs, int32_t n_experts)
{
    bool seen[MAX_PAIRS] = {false}, used[MAX_SLOTS] = {false};
    int64_t most = 0;
    group(n_pairs, n_experts);
    for (int32_t i = 0; i < n_pairs; i++) {
        const int64_t end = take_slots(&tiles[i], used);
        take_pairs(&tiles[i], seen);
        most = end > most ? end : most;
    }
    for (int32_t i = 0; i < n_pairs; i++)
        assert_true(seen[i]);
    if (most > qcuda_list_slots(n_pairs))
        fail_msg("%d pairs, %d experts: %lld slots used, %lld reserved",
            (int)n_pairs, (int)n_experts, (long long)most,
            (long long)qcuda_list_slots(n_pairs));
    return most;
}

/* As many tokens for each expert. */
static void test_even(void **state)
{
    (void)state;
    for (int32_t e = 1; e <= MAX_EXPERTS; e++)
        for (int32_t each = 1; each * e <= MAX_PAIRS; each++) {
            for (int32_t i = 0; i < each * e; i++)
                experts[i] = i % e;
            const int64_t used = check_groups(each * e, e);
            /* The bound is no larger than it must be. */
            if (each == 9)
                assert_int_equal(used, qcuda_list_slots(9 * e));
        }
}

/* Each pair by itself: the more skew, the more go to the first experts. */
static uint32_t draw_pairs(uint32_t n_experts)
{
    const uint32_t n_pairs = 1 + below(MAX_PAIRS), skew = 1 + below(4);
    for (uint32_t i = 0; i < n_pairs; i++) {
        uint32_t limit = n_experts;
        for (uint32_t s = 0; s < skew; s++)
            limit = 1 + below(limit);
        experts[i] = (int32_t)limit - 1;
    }
    return n_pairs;
}

/* Each expert's number of pairs, more or less often one more than whole slots,
 * which wastes most; in any order. */
static uint32_t draw_counts(uint32_t n_experts)
{
    const uint32_t often = below(101);
    uint32_t n_pairs = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        const uint32_t any = below(40), more = below(4) != 0 ? 9 : 17;
        const uint32_t n = below(100) < often ? more : any;
        for (uint32_t i = 0; i < n && n_pairs < MAX_PAIRS; i++) {
            const uint32_t at = below(n_pairs + 1);
            experts[n_pairs++] = experts[at];
            experts[at] = (int32_t)e;
        }
    }
    return n_pairs;
}

static void test_random(void **state)
{
    (void)state;
    for (int n = 0; n < N_ROUTINGS; n++) {
        const uint32_t n_experts = 1 + below(MAX_EXPERTS);
        const uint32_t n_pairs =
            n % 2 == 0 ? draw_pairs(n_experts) : draw_counts(n_experts);
        const uint32_t dropped = below(2) * below(20); /* percent */
        for (uint32_t i = 0; i < n_pairs; i++)
            if (below(100) < dropped)
                experts[i] = -1;
        check_groups((int32_t)n_pairs, (int32_t)n_experts);
    }
}

static int open_driver(void **state)
{
    (void)state;
    return qdrv_open(&driver, 0, 0) != NULL;
}

static int close_driver(void **state)
{
    (void)state;
    qdrv_close(driver);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_even),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, open_driver, close_driver);
}
