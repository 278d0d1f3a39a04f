/* SPDX-License-Identifier: Apache-2.0
 * The emulator of tests/cuda/emu: right kernels give the right results, and
 * each fault it promises to find is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include <initializer_list>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block.h"
#include "memory.h"
#include "wrong_kernels.h"

enum { THREADS = 64, BLOCKS = 4, N = THREADS * BLOCKS };

static float src[N];

struct outcome {
    const char *failure;
    float dst[N];
};

static outcome run_toy(int mode, bool reverse)
{
    outcome out;
    float *dst = static_cast<float *>(emu::memory_alloc(sizeof out.dst));
    toy_args args = {dst, src, mode};
    const qcuda_grid grid = {BLOCKS, 1, 1, THREADS, THREADS * 4};
    out.failure =
        emu::launch(&qcuda_kernel_toy, grid, &args, 48 << 10, reverse);
    memcpy(out.dst, dst, sizeof out.dst);
    emu::memory_free(dst);
    return out;
}

static bool is_right(const outcome &out)
{
    if (out.failure != nullptr)
        return false;
    for (int i = 0; i < N; i++) {
        const int first = i / THREADS * THREADS;
        const int warp = (first + THREADS - 1 - (i - first)) / 32 * 32;
        float want = 0;
        for (int k = 0; k < 32; k++)
            want += src[warp + k];
        if (!(out.dst[i] == want))
            return false;
    }
    return true;
}

/* Small integers: sums are exact in any order. */
static int fill(void **)
{
    for (int i = 0; i < N; i++)
        src[i] = float(i * 37 % 251);
    return 0;
}

static void test_right(void **)
{
    assert_true(is_right(run_toy(TOY_RIGHT, false)));
    assert_true(is_right(run_toy(TOY_RIGHT, true)));
}

/* Faults that show as values: one order of threads is enough to see them. */
static void test_values(void **)
{
    for (int mode : {TOY_NO_BARRIER, TOY_UNWRITTEN_SHARED, TOY_BLOCKS_RACE}) {
        const outcome up = run_toy(mode, false), down = run_toy(mode, true);
        assert_false(is_right(up) && is_right(down));
    }
}

static void test_unwritten_is_nan(void **)
{
    const outcome out = run_toy(TOY_UNWRITTEN_SHARED, false);
    bool found = false;
    for (int i = 0; i < N; i++)
        found = found || isnan(out.dst[i]);
    assert_true(found);
}

static void test_order_shows_races(void **)
{
    const outcome up = run_toy(TOY_BLOCKS_RACE, false);
    const outcome down = run_toy(TOY_BLOCKS_RACE, true);
    assert_memory_not_equal(up.dst, down.dst, THREADS * 4);
}

static void expect_failure(int mode, const char *text)
{
    for (bool reverse : {false, true}) {
        const outcome out = run_toy(mode, reverse);
        assert_non_null(out.failure);
        assert_non_null(strstr(out.failure, text));
        /* And the next launch is not harmed. */
        assert_true(is_right(run_toy(TOY_RIGHT, reverse)));
    }
}

static void test_divergence(void **)
{
    expect_failure(TOY_HALF_A_BARRIER, "waits at");
    expect_failure(TOY_MISSING_LANES, "waits at");
    expect_failure(TOY_TWO_PLACES, "waits at");
    expect_failure(TOY_EARLY_RETURN, "its end");
}

template <typename F>
static bool dies(F work)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* cmocka would go on behind a signal. */
        for (int number : {SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT})
            signal(number, SIG_DFL);
        fclose(stderr);
        close(2);
        work();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void expect_death(int mode)
{
    assert_true(dies([mode] { run_toy(mode, false); }));
}

static void test_out_of_bounds(void **)
{
    expect_death(TOY_PAST_SHARED);
    expect_death(TOY_PAST_BUFFER);
}

/* What a host would do without complaint. */
static void test_undefined(void **)
{
    expect_death(TOY_MISALIGNED);
    expect_death(TOY_SHIFT);
    expect_death(TOY_OVERFLOW);
}

/* ---- results handed from block to block ---- */

static float run_sum(int mode, bool reverse)
{
    const size_t n_bytes = (2 + BLOCKS) * sizeof(float);
    float *dst = static_cast<float *>(emu::memory_alloc(n_bytes));
    memset(dst, 0, n_bytes);
    toy_args args = {dst, src, mode};
    const qcuda_grid grid = {BLOCKS, 1, 1, THREADS, 4};
    const char *failure =
        emu::launch(&qcuda_kernel_toy_sum, grid, &args, 48 << 10, reverse);
    const float sum = failure == nullptr ? dst[0] : -1.0f;
    emu::memory_free(dst);
    return sum;
}

static void test_blocks_hand_over(void **)
{
    float want = 0.0f;
    for (int i = 0; i < N; i++)
        want += src[i];
    assert_true(run_sum(SUM_RIGHT, false) == want);
    assert_true(run_sum(SUM_RIGHT, true) == want);
    for (int mode :
        {SUM_NO_RELEASE, SUM_EARLY_FENCE, SUM_NO_ACQUIRE, SUM_LATE_FENCE})
        assert_true(dies([mode] { run_sum(mode, false); }));
}

static void test_launch_limits(void **)
{
    toy_args args = {nullptr, nullptr, TOY_RIGHT};
    const qcuda_grid wrong[] = {
        {1, 1, 1, 48, 0},        /* not whole warps */
        {1, 1, 1, 256, 0},       /* more than the kernel's bound */
        {1, 70000, 1, 32, 0},    /* y too large */
        {0, 1, 1, 32, 0},        /* nothing */
        {1, 1, 1, 32, 48 << 11}, /* shared memory */
    };
    for (const qcuda_grid &grid : wrong) {
        const char *failure =
            emu::launch(&qcuda_kernel_toy, grid, &args, 48 << 10, false);
        assert_non_null(failure);
        assert_non_null(strstr(failure, "no launch"));
    }
}

static void test_mma(void **)
{
    float operands[256 + 128], dst[128];
    for (int i = 0; i < 384; i++)
        operands[i] = float(i * 29 % 7 - 3);
    toy_args args = {dst, operands, 0};
    const qcuda_grid grid = {1, 1, 1, 32, 0};
    assert_null(
        emu::launch(&qcuda_kernel_toy_mma, grid, &args, 48 << 10, false));
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            float want = 0;
            for (int k = 0; k < 16; k++)
                want += operands[r * 16 + k] * operands[256 + k * 8 + c];
            assert_true(dst[r * 8 + c] == want);
        }
}

/* The PTX manual's "Matrix Fragments for mma.m16n8k16", element by element:
 * where element i of a lane's fragment lies in its matrix. */
struct element {
    int row, column;
};

static element of_a(int lane, int i)
{
    const int group = lane >> 2, member = lane % 4;
    const bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
    return {upper ? group : group + 8, member * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}

static element of_b(int lane, int i)
{
    return {lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2};
}

static element of_d(int lane, int i)
{
    return {(lane >> 2) + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1)};
}

static void set_half(float *word, int half, uint32_t bf16)
{
    uint32_t bits;
    memcpy(&bits, word, 4);
    bits = half != 0 ? (bits & 0xffff) | bf16 << 16 : (bits & ~0xffffu) | bf16;
    memcpy(word, &bits, 4);
}

/* One element of A is 1 and all of B differ (or the other way round): what
 * comes out tells where it went. */
static void check_element(int lane, int i, bool in_a)
{
    float fragments[32][6] = {}, dst[32][4];
    const element one = in_a ? of_a(lane, i) : of_b(lane, i);
    const int n = in_a ? 4 : 8, base = in_a ? 4 : 0;
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < n; k++) {
            const element e = in_a ? of_b(l, k) : of_a(l, k);
            const float value = float(e.row * (in_a ? 8 : 16) + e.column + 1);
            uint32_t bits;
            memcpy(&bits, &value, 4);
            set_half(&fragments[l][base + k / 2], k % 2, bits >> 16);
        }
    set_half(&fragments[lane][(in_a ? 0 : 4) + i / 2], i % 2, 0x3f80);
    toy_args args = {&dst[0][0], &fragments[0][0], 0};
    const qcuda_grid grid = {1, 1, 1, 32, 0};
    assert_null(
        emu::launch(&qcuda_kernel_toy_fragments, grid, &args, 48 << 10, false));
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < 4; k++) {
            const element e = of_d(l, k);
            float want = 0;
            if (in_a && e.row == one.row)
                want = float(one.column * 8 + e.column + 1);
            if (!in_a && e.column == one.column)
                want = float(e.row * 16 + one.row + 1);
            assert_true(dst[l][k] == want);
        }
}

static void test_fragments(void **)
{
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 8; i++)
            check_element(lane, i, true);
        for (int i = 0; i < 4; i++)
            check_element(lane, i, false);
    }
}

/* 1 and fifteen times 2^-26: rounding would give 1 + 2^-22. */
static void test_truncation(void **)
{
    float fragments[32][6] = {}, dst[32][4];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 8; i++) {
            const element e = of_a(l, i);
            const bool first = e.row == 0 && e.column == 0;
            if (e.row == 0)
                set_half(&fragments[l][i / 2], i % 2, first ? 0x3f80 : 0x3280);
            if (i < 4)
                set_half(&fragments[l][4 + i / 2], i % 2, 0x3f80);
        }
    toy_args args = {&dst[0][0], &fragments[0][0], 0};
    const qcuda_grid grid = {1, 1, 1, 32, 0};
    assert_null(
        emu::launch(&qcuda_kernel_toy_fragments, grid, &args, 48 << 10, false));
    assert_true(dst[0][0] == 1.0f);
}

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_right),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_unwritten_is_nan),
        cmocka_unit_test(test_order_shows_races),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_out_of_bounds),
        cmocka_unit_test(test_launch_limits),
        cmocka_unit_test(test_undefined),
        cmocka_unit_test(test_blocks_hand_over),
        cmocka_unit_test(test_mma),
        cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_truncation),
    };
    return cmocka_run_group_tests(tests, fill, nullptr);
}
