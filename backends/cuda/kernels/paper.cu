/* SPDX-License-Identifier: Apache-2.0
 * The matrix-vector product of the QMoE paper (section 4), written anew from
 * its description, to be measured against: one warp per row, one codeword per
 * step; lanes 0..13 take the weights of a codeword's first table word, lanes
 * 14..27 those of its second; inputs in shared memory, levels in a table with
 * a copy per lane.  Unlike the paper's it takes any shape and overwrites its
 * output.  Nothing uses it unless asked to by name. */
#include "product.cuh"

enum { PAPER_LANES = 28, PAPER_WARPS = 32 };

DEVICE float paper_row(const qcuda_paper_args &a, int64_t mat, int row,
    const float *x, const float *levels)
{
    const qcuda_stack &w = a.p.w;
    const uint32_t *offsets = w.row_offsets + mat * (w.n_rows + 1) + row;
    const uint16_t *codes =
        reinterpret_cast<const uint16_t *>(w.codes) + w.mat_offsets[mat];
    const int lane = lane_of_thread();
    const uint32_t end = offsets[1];
    float sum = 0.0f;
    int column = 0;
    for (uint32_t base = offsets[0]; base < end; base += WARP) {
        const int n = int(min(end - base, uint32_t(WARP)));
        const uint32_t mine = lane < n ? codes[base + uint32_t(lane)] : 0;
        for (int k = 0; k < n; k++) {
            const uint32_t code = __shfl_sync(ALL_LANES, mine, k);
            const uint32_t word =
                __ldg(a.table + 2 * code + (lane < PAPER_LANES / 2 ? 0 : 1));
            if (lane < PAPER_LANES) {
                const uint32_t value =
                    word >> (4 + 2 * (lane % (PAPER_LANES / 2))) & 3;
                sum = fused(levels[value * WARP + uint32_t(lane)],
                    x[column + lane], sum);
            }
            column += 2 * int(word & 15);
        }
    }
    return warp_sum(sum);
}

QCUDA_KERNEL(paper_matvec, qcuda_paper_args, 1024, 1)
{
    QCUDA_SHARED(float, x);
    const product_tile t = product_find_tile(p.p);
    if (t.count == 0)
        return;
    const int n_cols = p.p.w.n_cols;
    const float *src = product_source(p.p, t, 0);
    for (int c = int(threadIdx.x); c < n_cols + PAPER_LANES;
         c += int(blockDim.x))
        x[c] = c < n_cols ? src[c] : 0.0f;
    __syncthreads();
    float *levels =
        x + n_cols + PAPER_LANES + warp_of_thread() * 3 * WARP; /* [3, 32] */
    const int first_row = int(blockIdx.x) * p.p.block_rows;
    const int last_row = min(first_row + p.p.block_rows, p.p.w.n_rows);
    for (int row = first_row + warp_of_thread(); row < last_row;
         row += int(blockDim.x) / WARP) {
        const uint16_t *stored =
            p.p.w.levels + (t.mat * p.p.w.n_rows + row) * 2;
        levels[lane_of_thread()] = 0.0f;
        levels[WARP + lane_of_thread()] = bf16_value(stored[0]);
        levels[2 * WARP + lane_of_thread()] = bf16_value(stored[1]);
        __syncwarp();
        const float sum = paper_row(p, t.mat, row, x, levels);
        if (lane_of_thread() == 0)
            product_finish(p.p, product_item(p.p, t, 0), row, sum);
        __syncwarp();
    }
}
