/* SPDX-License-Identifier: Apache-2.0
 * Products for 5 to 32 items of a tile on tensor cores.  A warp owns 32 rows
 * (a tile of pvq) and up to 32 items; each thread builds its part of the A
 * fragments from the codes, where weights are small integers (pvq) or stored
 * bf16, exact either way; the inputs come packed as three bf16 each, so that
 * products are exact and only sums round.  Tensor cores cut what they add, each
 * product too, at a bit below the last of the sum so far; sums are therefore
 * taken over after every 16 steps by an addition that rounds to nearest, and the
 * smallest parts come first. */
#include "product.cuh"
#include "pvq.cuh"
#include "tlut.cuh"

enum {
    MANY_WARPS = 8,
    MANY_GROUPS = 4,   /* of eight items */
    GROUP_COLS = 64,   /* columns a reader loads at a time */
    GROUP_STEPS = 4,   /* of 16 columns */
    GROUPS_PER_SUM = 4 /* 16 steps */
};

/* Registers of A for 32 rows and 16 columns: [half][a0..a3]; this thread has
 * rows group + {0, 8} of a half and columns 4 * member + 0..3. */
struct many_fragment {
    uint32_t a[2][4];
};

/* Columns 4 * member + {0, 1} and {2, 3} of the rows group + 8 * r + 16 * h. */
DEVICE void many_set(many_fragment &f, int row, uint32_t low, uint32_t high)
{
    f.a[row / 2][row % 2] = low;
    f.a[row / 2][row % 2 + 2] = high;
}

template <int F>
struct many_reader;

/* A block of 16 or 8 weights as pairs of bf16 integers; this thread's four
 * columns are number `quarter` of the block's. */
DEVICE void pvq_pairs(uint32_t &low, uint32_t &high, uint32_t positions,
    uint32_t sign, uint32_t quarter)
{
    const uint32_t a = positions & 15, b = positions >> 4 & 15;
    const uint32_t sign_b = a > b ? sign ^ 1 : sign;
    /* 1.0, or 2.0 when both pulses are one. */
    const uint32_t one = a == b ? 0x4000 : 0x3f80;
    const uint32_t va = (one | sign << 15) << 16 * (a & 1);
    const uint32_t vb = (one | sign_b << 15) << 16 * (b & 1);
    low = (a >> 1 == 2 * quarter ? va : 0) | (b >> 1 == 2 * quarter ? vb : 0);
    high = (a >> 1 == 2 * quarter + 1 ? va : 0) |
           (b >> 1 == 2 * quarter + 1 ? vb : 0);
}

template <int N>
struct pvq_many_reader {
    enum { PER_GROUP = GROUP_COLS / (4 * N) }; /* groups of four blocks */
    const uint8_t *tile;
    int n_blocks;
    pvq_group loaded[4][PER_GROUP]; /* rows group + 8 * i */
    DEVICE_MEMBER void open(const qcuda_product_args &p, int64_t mat, int row)
    {
        tile = pvq_tile(&p.w, mat, row / 32);
        n_blocks = (p.w.n_cols + N - 1) / N;
    }
    /* The warp's share, a few KiB in one piece, starts on its way into L2: the
     * loop below waits for each group of it. */
    DEVICE_MEMBER void ask(const qcuda_product_args &p, int first, int last)
    {
        if (first >= last)
            return;
        const uint32_t bytes = pvq_layout<N>::chunk_bytes;
        const uint32_t size = uint32_t(p.w.tile_bytes);
        const uint32_t begin = uint32_t(first) * PER_GROUP / 8 * bytes;
        const uint32_t end =
            min((uint32_t(last * PER_GROUP - 1) / 8 + 1) * bytes, size);
        for (uint32_t at = begin + LINE * uint32_t(lane_of_thread());
             at < end + LINE - 1; at += LINE * WARP)
            start_into_l2(tile + min(at, end - 1));
    }
    DEVICE_MEMBER void load(const qcuda_product_args &, int group)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < PER_GROUP; k++) {
                const int g = group * PER_GROUP + k;
                loaded[i][k].positions = loaded[i][k].signs = 0;
                if (g * 4 < n_blocks)
                    loaded[i][k] = pvq_load_group<N>(
                        tile, n_blocks, g, lane_of_thread() / 4 + 8 * i);
            }
    }
    DEVICE_MEMBER void get(many_fragment &f, int step) const
    {
        const uint32_t member = uint32_t(lane_of_thread()) % 4;
        const uint32_t block =
            N == 16 ? uint32_t(step) : 2 * (uint32_t(step) % 2) + member / 2;
        const int k = N == 16 ? 0 : step / 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t low, high;
            pvq_pairs(low, high,
                loaded[i][k % PER_GROUP].positions >> 8 * block,
                loaded[i][k % PER_GROUP].signs >> block & 1,
                N == 16 ? member : member % 2);
            many_set(f, i, low, high);
        }
    }
    /* bf16 */
    DEVICE_MEMBER uint16_t stored_scale(
        const qcuda_product_args &p, int64_t mat, int row) const
    {
        return pvq_stored_scale(&p.w, mat, row);
    }
};

template <>
struct many_reader<QMI_FORMAT_PVQ> : pvq_many_reader<16> {
};
template <>
struct many_reader<QMI_FORMAT_PVQ8> : pvq_many_reader<8> {
};

/* bf16 weights as they lie; 16 columns at a time, rows of the matrix's end
 * repeat its last. */
template <>
struct many_reader<QMI_FORMAT_BF16> {
    const uint16_t *rows[4];
    int n_cols, first_column;
    DEVICE_MEMBER void open(const qcuda_product_args &p, int64_t mat, int row)
    {
        n_cols = p.w.n_cols;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r =
                min(row + lane_of_thread() / 4 + 8 * i, p.w.n_rows - 1);
            rows[i] = reinterpret_cast<const uint16_t *>(
                          p.w.codes + mat * p.w.mat_bytes) +
                      int64_t(r) * n_cols;
        }
    }
    DEVICE_MEMBER void ask(const qcuda_product_args &, int, int)
    {
    }
    DEVICE_MEMBER void load(const qcuda_product_args &, int group)
    {
        first_column = group * GROUP_COLS + lane_of_thread() % 4 * 4;
    }
    DEVICE_MEMBER uint32_t element(int i, int c) const
    {
        return c < n_cols ? __ldg(rows[i] + c) : 0;
    }
    DEVICE_MEMBER void get(many_fragment &f, int step) const
    {
        const int c = first_column + 16 * step;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint2 v;
            if (n_cols % 4 == 0 && c < n_cols) {
                v = __ldg(reinterpret_cast<const uint2 *>(rows[i] + c));
            } else {
                v.x = element(i, c) | element(i, c + 1) << 16;
                v.y = element(i, c + 2) | element(i, c + 3) << 16;
            }
            many_set(f, i, v.x, v.y);
        }
    }
    DEVICE_MEMBER uint16_t stored_scale(
        const qcuda_product_args &, int64_t, int) const
    {
        return 0x3f80; /* 1 */
    }
};

template <>
struct many_reader<QMI_FORMAT_Q2> {
    const uint8_t *rows[4];
    uint32_t levels[4][2]; /* two bf16 each */
    int n_cols, first_column;
    DEVICE_MEMBER void open(const qcuda_product_args &p, int64_t mat, int row)
    {
        n_cols = p.w.n_cols;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r =
                min(row + lane_of_thread() / 4 + 8 * i, p.w.n_rows - 1);
            const uint2 two =
                __ldg(reinterpret_cast<const uint2 *>(p.w.levels) +
                      mat * p.w.n_rows + r);
            levels[i][0] = two.x;
            levels[i][1] = two.y;
            rows[i] = p.w.codes + mat * p.w.mat_bytes +
                      int64_t(r) * ((n_cols + 3) / 4);
        }
    }
    DEVICE_MEMBER void ask(const qcuda_product_args &, int, int)
    {
    }
    DEVICE_MEMBER void load(const qcuda_product_args &, int group)
    {
        first_column = group * GROUP_COLS + lane_of_thread() % 4 * 4;
    }
    DEVICE_MEMBER uint32_t level(int i, uint32_t code) const
    {
        const uint32_t two = (code & 2) != 0 ? levels[i][1] : levels[i][0];
        return (code & 1) != 0 ? two >> 16 : two & 0xffff;
    }
    DEVICE_MEMBER void get(many_fragment &f, int step) const
    {
        const int c = first_column + 16 * step;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t codes = c < n_cols ? __ldg(rows[i] + c / 4) : 0;
            many_set(f, i, level(i, codes) | level(i, codes >> 2) << 16,
                level(i, codes >> 4) | level(i, codes >> 6) << 16);
        }
    }
    DEVICE_MEMBER uint16_t stored_scale(
        const qcuda_product_args &, int64_t, int) const
    {
        return 0x3f80; /* 1 */
    }
};

/* Values of a table as bf16 integers; the columns' scales are in the inputs.
 * Stands for all rates. */
template <>
struct many_reader<QMI_FORMAT_TLUT_1> {
    const uint8_t *tile;
    const uint32_t *table; /* this thread's copy */
    tlut_place places[4];  /* rows group + 8 * i */
    uint32_t half;         /* shift of the rows' value in a word */
    int n_groups, n_words, first_group;
    DEVICE_MEMBER void open(const qcuda_product_args &p, int64_t mat, int row)
    {
        const int in_tile = row % TLUT_TILE + lane_of_thread() / 4;
        const int of_step = in_tile % p.w.v;
        tile = tlut_tile(&p.w, mat, row / TLUT_TILE);
        n_groups = (p.w.n_cols + TLUT_GROUP - 1) / TLUT_GROUP;
        n_words = tlut_words(p.w);
        half = p.w.v == 1 || of_step % 2 != 0 ? 16 : 0;
        table += p.w.v == 4 ? lane_of_thread() % 16 * 2 + of_step / 2
                            : lane_of_thread();
#pragma unroll
        for (int i = 0; i < 4; i++)
            places[i] = tlut_find(p.w, (in_tile + 8 * i) / p.w.v);
    }
    DEVICE_MEMBER void ask(const qcuda_product_args &, int first, int last)
    {
        enum { GROUPS = GROUP_COLS / TLUT_GROUP };
        const size_t bytes = size_t(n_words) * 8;
        const size_t end = size_t(min(last * GROUPS, n_groups)) * bytes;
        for (size_t at = size_t(first * GROUPS) * bytes +
                         size_t(LINE * lane_of_thread());
             at < end; at += LINE * WARP)
            start_into_l2(tile + at);
    }
    DEVICE_MEMBER void load(const qcuda_product_args &, int group)
    {
        first_group = group * (GROUP_COLS / TLUT_GROUP) + lane_of_thread() % 4;
    }
    DEVICE_MEMBER uint32_t value(uint32_t pair, int i) const
    {
        return table[tlut_window(pair, places[i].shift) * WARP] >> half;
    }
    DEVICE_MEMBER void get(many_fragment &f, int step) const
    {
        const int g = first_group + 4 * step;
        /* Beyond the last group the inputs are zero, whatever is read. */
        const uint8_t *group =
            tile + size_t(min(g, n_groups - 1)) * n_words * 8;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint2 first = tlut_load(group, places[i].word);
            const uint2 next = tlut_load(group, places[i].next);
            uint32_t v[TLUT_GROUP];
#pragma unroll
            for (int j = 0; j < TLUT_GROUP; j++)
                v[j] = value(tlut_pair(first, next, j), i);
            many_set(f, i, (v[0] & 0xffff) | v[1] << 16,
                (v[2] & 0xffff) | v[3] << 16);
        }
    }
    DEVICE_MEMBER uint16_t stored_scale(
        const qcuda_product_args &p, int64_t mat, int row) const
    {
        return __ldg(p.w.levels + mat * p.w.n_rows + row);
    }
};

/* Where a warp keeps its sums in shared memory, [item][row]: each thread adds
 * to places of its own, without conflicts of banks. */
enum { ROW_PITCH = 36, WARP_SUMS = 32 * ROW_PITCH };
enum { FLAG = 1 }; /* word behind the sums of all warps */

DEVICE void many_add(
    float *sums, const float run[2][MANY_GROUPS][4], int n_groups, bool first)
{
    const int row = lane_of_thread() / 4, item = lane_of_thread() % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < MANY_GROUPS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float *at = sums + (j * 8 + item + i % 2) * ROW_PITCH + h * 16 +
                            row + i / 2 * 8;
                if (j < n_groups)
                    *at = first ? run[h][j][i] : *at + run[h][j][i];
            }
}

/* run += the products of one step of 16 columns. */
DEVICE void many_step(float run[2][MANY_GROUPS][4], const many_fragment &f,
    const uint2 *packed, int64_t slot_words, int n_groups)
{
#pragma unroll
    for (int j = 0; j < MANY_GROUPS; j++) {
        if (j >= n_groups)
            break;
#pragma unroll
        for (int s = 2; s >= 0; s--) {
            const uint2 b = __ldg(packed + j * slot_words + s * WARP);
            mma_bf16(run[0][j], f.a[0], b);
            mma_bf16(run[1][j], f.a[1], b);
        }
    }
}

/* sums, in shared memory, of groups of columns [begin, end). */
template <int F>
DEVICE void many_sum(float *sums, many_reader<F> &reader,
    const qcuda_product_args &p, const product_tile &t, int begin, int end)
{
    const int n_groups = (t.count + 7) / 8;
    const int64_t slot_words = int64_t(p.n_steps) * 3 * WARP;
    const uint2 *packed = p.packed + t.slot * slot_words + lane_of_thread();
    int first = begin;
    do {
        float run[2][MANY_GROUPS][4] = {};
        for (int g = first; g < min(first + GROUPS_PER_SUM, end); g++) {
            reader.load(p, g);
#pragma unroll
            for (int i = 0; i < GROUP_STEPS; i++) {
                const int step = g * GROUP_STEPS + i;
                if (step >= p.n_steps)
                    break;
                many_fragment f;
                reader.get(f, i);
                many_step(
                    run, f, packed + step * 3 * WARP, slot_words, n_groups);
            }
        }
        many_add(sums, run, n_groups, first == begin);
        first += GROUPS_PER_SUM;
    } while (first < end);
}

/* What a reader needs in shared memory, behind the sums and the flag. */
template <int F>
DEVICE void many_prepare(
    many_reader<F> &reader, const qcuda_product_args &p, float *place)
{
    if constexpr (F == QMI_FORMAT_TLUT_1) {
        uint32_t *table = reinterpret_cast<uint32_t *>(place);
        tlut_copy_table(table, p.w);
        reader.table = table;
        __syncthreads();
    }
}

template <int F>
DEVICE void many_block(const qcuda_product_args &p, float *shared)
{
    const product_tile t = product_find_tile(p);
    const int first_row = int(blockIdx.x) * p.row_tiles * 32;
    const int n_rows = min(p.row_tiles * 32, p.w.n_rows - first_row);
    if (t.count == 0)
        return;
    if (t.mat < 0) {
        product_pass_through(p, t, first_row, n_rows);
        return;
    }
    const int begin = int(blockIdx.z) * p.split_cols / GROUP_COLS;
    const int all = (p.w.n_cols + GROUP_COLS - 1) / GROUP_COLS;
    const int n = min(p.split_cols / GROUP_COLS, all - begin);
    const int slices = MANY_WARPS / p.row_tiles;
    const int slice = warp_of_thread() % slices;
    const int row = first_row + warp_of_thread() / slices * 32;
    many_reader<F> reader;
    many_prepare<F>(reader, p, shared + MANY_WARPS * WARP_SUMS + FLAG);
    const product_share share = product_share_of(p);
    const uint16_t stored_scale =
        share.inside ? reader.stored_scale(p, t.mat, share.row) : uint16_t(0);
    if (row < p.w.n_rows) {
        const int first = begin + n * slice / slices;
        const int last = begin + n * (slice + 1) / slices;
        reader.open(p, t.mat, row);
        reader.ask(p, first, last);
        many_sum<F>(
            shared + warp_of_thread() * WARP_SUMS, reader, p, t, first, last);
    }
    __syncthreads();
    const float scale = bf16_value(arrived_by_now(stored_scale));
    const int r = share.row - first_row;
    for (int i = share.first; share.inside && i < t.count; i += share.step) {
        float sum = 0.0f;
        for (int s = 0; s < slices; s++)
            sum += shared[(r / 32 * slices + s) * WARP_SUMS + i * ROW_PITCH +
                          r % 32];
        product_store(p, product_item(p, t, i), share.row, sum * scale);
    }
    product_merge(p, t, share,
        reinterpret_cast<uint32_t *>(shared + MANY_WARPS * WARP_SUMS));
}

#define MANY_KERNEL(name, format)                                              \
    QCUDA_KERNEL(product_many_##name, qcuda_product_args, 256, 2)              \
    {                                                                          \
        QCUDA_SHARED(float, shared);                                           \
        many_block<format>(p, shared);                                         \
    }

MANY_KERNEL(bf16, QMI_FORMAT_BF16)
MANY_KERNEL(q2, QMI_FORMAT_Q2)
MANY_KERNEL(pvq, QMI_FORMAT_PVQ)
MANY_KERNEL(pvq8, QMI_FORMAT_PVQ8)
MANY_KERNEL(tlut, QMI_FORMAT_TLUT_1)
