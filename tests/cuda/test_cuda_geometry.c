/* SPDX-License-Identifier: Apache-2.0
 * Launch geometry of products on devices of several sizes, and the numbering
 * of devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "device_order.h"
#include "geometry.h"
#include "tlut.h"

static const int multiprocessors[] = {1, 8, 82, 84, 132};
static const int shapes[][2] = {{1, 1}, {33, 31}, {768, 3072}, {3072, 768},
    {2080, 6144}, {6144, 2080}, {32128, 2080}, {64, 100000}};
static const int rotations[] = {0, 1, 64, 1024};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static qcuda_product_args product(
    qmi_format_id format, size_t shape, int rotation, int tile_items)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(qmi_formats[format]);
    return (qcuda_product_args){
        .w = {.format = (int32_t)format,
            .n_rows = shapes[shape][0],
            .n_cols = shapes[shape][1],
            .rotation = rotation,
            .k = rate != NULL ? rate->k : 0,
            .v = rate != NULL ? rate->v : 0},
        .n_items = 64,
        .tile_items = tile_items,
    };
}

/* All rows and columns are covered once, splits begin where chunks and parts
 * of the rotation do, and every device has the shared memory. */
static void check_pvq(const qcuda_product_args *p, qcuda_grid grid)
{
    const int64_t chunk = p->w.format == QMI_FORMAT_PVQ ? 512 : 256;
    const int64_t rows = 32 * (int64_t)p->row_tiles;
    const int64_t padded = p->split_cols * (p->tile_items > 1 ? 4 : 1);
    assert_int_equal(p->split_cols % chunk, 0);
    if (p->w.rotation > 0)
        assert_int_equal(p->split_cols % p->w.rotation, 0);
    assert_true((int64_t)grid.z * p->split_cols >= p->w.n_cols);
    assert_true(((int64_t)grid.z - 1) * p->split_cols < p->w.n_cols);
    assert_true((int64_t)grid.x * rows >= p->w.n_rows);
    assert_true(((int64_t)grid.x - 1) * rows < p->w.n_rows);
    assert_true(grid.shared_bytes >= padded * 4);
    assert_true(grid.shared_bytes <= 48 << 10);
    assert_int_equal(8 % p->row_tiles, 0);
}

/* The same for a tile of rows per block, with room for a table. */
static void check_tlut(const qcuda_product_args *p, qcuda_grid grid)
{
    const int64_t items = p->tile_items > 1 ? 4 : 1, table = 64 * 32;
    assert_int_equal(p->split_cols % 64, 0);
    if (p->w.rotation > 0)
        assert_int_equal(p->split_cols % p->w.rotation, 0);
    assert_true((int64_t)grid.z * p->split_cols >= p->w.n_cols);
    assert_true(((int64_t)grid.z - 1) * p->split_cols < p->w.n_cols);
    assert_int_equal(p->row_tiles, 2);
    assert_int_equal(grid.x, (p->w.n_rows + 63) / 64);
    assert_true(grid.shared_bytes >= (table + p->split_cols * items) * 4);
    assert_true(grid.shared_bytes >= (table + 8 * 64 * items + 1) * 4);
    assert_true(grid.shared_bytes <= 48 << 10);
}

static void check_rows(const qcuda_product_args *p, qcuda_grid grid)
{
    assert_int_equal(grid.z, 1);
    assert_true((int64_t)grid.x * p->block_rows >= p->w.n_rows);
    assert_true(((int64_t)grid.x - 1) * p->block_rows < p->w.n_rows);
    assert_true(grid.shared_bytes <= 48 << 10);
}

static void check_many(
    qcuda_product_args p, int64_t n_tiles, const qdrv_info *device)
{
    const qcuda_grid pack = qcuda_pack_grid(&p, n_tiles);
    assert_true((int64_t)pack.x * p.split_cols >= p.w.n_cols);
    assert_true((int64_t)p.n_steps * 16 >= p.w.n_cols);
    if (p.w.rotation > 0)
        assert_int_equal(p.split_cols % p.w.rotation, 0);
    assert_true(pack.shared_bytes <= 48 << 10);
    const qcuda_grid grid = qcuda_many_grid(&p, n_tiles, device);
    assert_int_equal(p.split_cols % 64, 0);
    assert_true((int64_t)grid.z * p.split_cols >= p.w.n_cols);
    assert_true(((int64_t)grid.z - 1) * p.split_cols < p.w.n_cols);
    assert_true((int64_t)grid.x * 32 * p.row_tiles >= p.w.n_rows);
    assert_true(grid.shared_bytes <= 48 << 10);
}

static void test_products(void **state)
{
    (void)state;
    for (size_t m = 0; m < COUNT(multiprocessors); m++)
        for (size_t s = 0; s < COUNT(shapes); s++)
            for (size_t r = 0; r < COUNT(rotations); r++)
                for (int f = 0; f < QMI_N_FORMATS; f++)
                    for (int items = 1; items <= 32; items *= 4) {
                        const qdrv_info device = {
                            .n_multiprocessors = multiprocessors[m]};
                        qcuda_product_args p =
                            product((qmi_format_id)f, s, rotations[r], items);
                        const int64_t n_tiles = (64 + items - 1) / items;
                        const qcuda_grid grid =
                            qcuda_product_grid(&p, n_tiles, &device);
                        assert_int_equal(grid.y, n_tiles);
                        if (f == QMI_FORMAT_PVQ || f == QMI_FORMAT_PVQ8)
                            check_pvq(&p, grid);
                        else if (p.w.k != 0)
                            check_tlut(&p, grid);
                        else
                            check_rows(&p, grid);
                        if (items == 16)
                            check_many(p, n_tiles, &device);
                    }
}

/* One token of a c-2048 expert must give every multiprocessor more than a block. */
static void test_fills_the_device(void **state)
{
    (void)state;
    for (size_t s = 4; s <= 5; s++) {
        const qdrv_info device = {.n_multiprocessors = 132};
        qcuda_product_args p = product(QMI_FORMAT_PVQ, s, 64, 1);
        const qcuda_grid grid = qcuda_product_grid(&p, 1, &device);
        assert_true((int64_t)grid.x * grid.z >= 132 * 3 / 2);
        assert_int_equal(qcuda_partial_bytes(&p, grid),
            grid.z == 1 ? 0 : (uint64_t)grid.z * 64 * p.w.n_rows * 4);
    }
}

/* Steps of top_logits end, take every key once and need the memory that
 * op_top_logits.c reckons with: no step gives more keys than the one before. */
static void test_top_logits(void **state)
{
    (void)state;
    static const int64_t vocabularies[] = {
        1, 2048, 2049, 32128, 262144, INT32_MAX};
    for (size_t v = 0; v < COUNT(vocabularies); v++)
        for (int32_t k = 1; k <= QCUDA_TOP_MAX; k *= 2) {
            qcuda_top_args args = {.n = vocabularies[v], .top_k = k};
            for (int n_steps = 1;; n_steps++) {
                const qcuda_grid grid = qcuda_top_grid(&args, 3);
                const int64_t covered =
                    (int64_t)args.n_segments * QCUDA_TOP_SEGMENT;
                assert_int_equal(grid.x, 3 * (int64_t)args.n_segments);
                assert_true(covered >= args.n);
                assert_true(covered - QCUDA_TOP_SEGMENT < args.n);
                assert_true(grid.shared_bytes >= 8 * (uint32_t)k);
                assert_true(n_steps <= (vocabularies[v] <= 32768 ? 2 : 6));
                if (args.n_segments == 1)
                    break;
                assert_true((int64_t)args.n_segments * k < args.n);
                args.n = (int64_t)args.n_segments * k;
            }
        }
}

static qcuda_attention_args attention(int n_kv_heads, int group, int width)
{
    return (qcuda_attention_args){.n_kv_heads = n_kv_heads,
        .group = group,
        .d_key = width,
        .d_value = width};
}

/* Heads share a block where there are blocks enough and room for them. */
static void test_attention(void **state)
{
    (void)state;
    static const struct {
        int n_kv_heads, group, width, n_queries, heads, blocks;
    } cases[] = {
        {12, 1, 64, 1, 1, 12},
        {4, 8, 128, 1, 1, 32},
        {4, 8, 128, 17, 4, 136},
        {4, 8, 128, 33, 8, 132},
        {4, 9, 128, 512, 8, 4096},
        {4, 16, 128, 512, 8, 4096},
        {9, 3, 64, 512, 3, 4608},
        {1, 128, 576, 512, 8, 8192},
        {1, 64, 2048, 512, 4, 8192},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const qdrv_info device = {
            .n_multiprocessors = 132, .max_shared_bytes = 99 << 10};
        qcuda_attention_args args =
            attention(cases[i].n_kv_heads, cases[i].group, cases[i].width);
        const qcuda_grid grid =
            qcuda_attention_grid(&args, cases[i].n_queries, &device);
        assert_int_equal(args.block_heads, cases[i].heads);
        assert_int_equal(grid.x, cases[i].blocks);
        assert_true(grid.shared_bytes <= device.max_shared_bytes);
    }
}

static void test_blocks_of_memory(void **state)
{
    (void)state;
    assert_int_equal(qcuda_block_bytes(0), 0);
    assert_int_equal(qcuda_block_bytes(1), 512);
    assert_int_equal(qcuda_block_bytes(512), 512);
    assert_int_equal(qcuda_block_bytes((1 << 20) - 1), 1 << 20);
    assert_int_equal(qcuda_block_bytes(1 << 20), 2 << 20);
    assert_int_equal(qcuda_block_bytes((4 << 20) + 1), 6 << 20);
    assert_true(qcuda_block_bytes(UINT64_MAX) == UINT64_MAX);
}

static void test_order(void **state)
{
    (void)state;
    const qcuda_candidate four[] = {
        {0, true, 10}, {1, false, 99}, {2, true, 30}, {3, true, 30}};
    int order[4];
    qcuda_order_devices(order, four, 4);
    const int want[] = {2, 0, 1, 3};
    assert_memory_equal(order, want, sizeof want);
    qcuda_order_devices(order, four, 1);
    assert_int_equal(order[0], 0);
    qcuda_order_devices(order, four, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_fills_the_device),
        cmocka_unit_test(test_top_logits),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_blocks_of_memory),
        cmocka_unit_test(test_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
