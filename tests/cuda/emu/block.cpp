/* SPDX-License-Identifier: Apache-2.0
 * The scheduler: a warp's lanes run until all of them wait at the same call of
 * a warp function, then go on; when all threads wait at the same barrier, the
 * block goes on. */
#include "block.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"
#include "fiber.h"
#include "memory.h"

namespace emu
{

enum { WARP_SIZE = 32, MAX_THREADS = 1024 };
enum state { READY, AT_WARP, AT_BLOCK, DONE };

place now;

struct thread {
    state at;
    const char *where; /* it waits */
};

static thread threads[MAX_THREADS];
/* What lanes exchange; two, because a lane may be one call ahead. */
static uint64_t slots[MAX_THREADS / WARP_SIZE][2][WARP_SIZE];
static unsigned parity[MAX_THREADS];
static fiber *fibers;
static size_t running;
static void *shared;
static void (*code)(const void *args);
static const void *arguments;
static char failure[512];

/* ---- what blocks hand each other ---- */

/* Since the block began: barriers passed, and as many of them had been when
 * the thread last fenced (none: -1). */
static int n_barriers;
static int fenced_at[MAX_THREADS];
/* The barriers passed when a thread that had added fenced; later reads are
 * in order. */
static bool has_added[MAX_THREADS];
static int acquired_at;

static void forget_fences()
{
    n_barriers = 0;
    acquired_at = -1;
    for (int i = 0; i < MAX_THREADS; i++) {
        fenced_at[i] = -1;
        has_added[i] = false;
    }
}

void fence()
{
    fenced_at[running] = n_barriers;
    if (has_added[running] && acquired_at < 0)
        acquired_at = n_barriers;
}

static void die(const char *where, const char *why)
{
    fprintf(stderr, "emulated device: %s: %s\n", where, why);
    abort();
}

uint32_t atomic_add(uint32_t *at, uint32_t value, const char *where)
{
    if (n_barriers == 0 || fenced_at[running] != n_barriers)
        die(where, "no barrier and fence between the block's stores and this");
    has_added[running] = true;
    const uint32_t old = *at;
    *at = old + value;
    return old;
}

void of_other_blocks(const char *where)
{
    if (acquired_at < 0 || n_barriers <= acquired_at)
        die(where, "no fence and barrier since another block's sum was seen");
}

/* ---- threads ---- */

static void pause(state at, const char *where)
{
    threads[running] = {at, where};
    fiber_leave(fibers, running); /* run_thread sets the place again */
}

static void fiber_main(size_t index)
{
    (void)index;
    for (;;) {
        code(arguments);
        pause(DONE, "its end");
    }
}

void block_barrier(const char *where)
{
    pause(AT_BLOCK, where);
}

void warp_barrier(const char *where)
{
    pause(AT_WARP, where);
}

const uint64_t *exchange(uint64_t mine, const char *where)
{
    const size_t self = running;
    uint64_t *slot = slots[self / WARP_SIZE][parity[self]++ % 2];
    slot[self % WARP_SIZE] = mine;
    pause(AT_WARP, where);
    return slot;
}

void *shared_memory()
{
    return shared;
}

/* Sizes and names where a warp's lanes stand; they must agree. */
static bool same_place(size_t first, size_t n, const char *name)
{
    for (size_t i = first + 1; i < first + n; i++)
        if (threads[i].at != threads[first].at ||
            (threads[i].where != threads[first].where &&
                strcmp(threads[i].where, threads[first].where) != 0)) {
            snprintf(failure, sizeof failure,
                "kernel %s, block (%u, %u, %u): thread %zu waits at %s, thread "
                "%zu at %s",
                name, now.block_index.x, now.block_index.y, now.block_index.z,
                first, threads[first].where, i, threads[i].where);
            return false;
        }
    return true;
}

static void run_thread(size_t index, const place *block)
{
    now = *block;
    now.thread_index = {uint32_t(index), 0, 0};
    running = index;
    fiber_enter(fibers, index);
}

/* Until all lanes wait at a barrier of the block or are done. */
static bool run_warp(
    size_t warp, const place *block, bool reverse, const char *name)
{
    const size_t first = warp * WARP_SIZE;
    do {
        for (size_t i = 0; i < WARP_SIZE; i++)
            run_thread(first + (reverse ? WARP_SIZE - 1 - i : i), block);
        if (!same_place(first, WARP_SIZE, name))
            return false;
    } while (threads[first].at == AT_WARP);
    return true;
}

static bool run_block(
    const place *block, size_t n_threads, bool reverse, const char *name)
{
    const size_t n_warps = n_threads / WARP_SIZE;
    do {
        for (size_t i = 0; i < n_warps; i++)
            if (!run_warp(reverse ? n_warps - 1 - i : i, block, reverse, name))
                return false;
        if (!same_place(0, n_threads, name))
            return false;
        n_barriers++;
    } while (threads[0].at == AT_BLOCK);
    return true;
}

static bool check(const qcuda_entry *kernel, qcuda_grid grid, uint32_t most)
{
    const bool fits = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 &&
                      grid.x <= 0x7fffffff && grid.y <= 65535 &&
                      grid.z <= 65535 && grid.threads >= WARP_SIZE &&
                      grid.threads % WARP_SIZE == 0 &&
                      grid.threads <= unsigned(kernel->max_threads) &&
                      grid.threads <= MAX_THREADS &&
                      grid.shared_bytes <= most && kernel->args_bytes <= 4096;
    if (!fits)
        snprintf(failure, sizeof failure,
            "kernel %s: no launch of (%u, %u, %u) blocks of %u threads with %u "
            "bytes of shared memory",
            kernel->name, grid.x, grid.y, grid.z, grid.threads,
            grid.shared_bytes);
    return fits;
}

static bool run_grid(const qcuda_entry *kernel, qcuda_grid grid, bool reverse)
{
    place block = {};
    block.block_size = {grid.threads, 1, 1};
    block.grid_size = {grid.x, grid.y, grid.z};
    const uint64_t n = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t at = reverse ? n - 1 - i : i;
        block.block_index = {uint32_t(at % grid.x),
            uint32_t(at / grid.x % grid.y), uint32_t(at / grid.x / grid.y)};
        memset(shared, 0xff, grid.shared_bytes);
        memset(parity, 0, sizeof parity);
        forget_fences();
        if (!run_block(&block, grid.threads, reverse, kernel->name))
            return false;
    }
    return true;
}

const char *launch(const qcuda_entry *kernel, qcuda_grid grid, const void *args,
    uint32_t max_shared_bytes, bool reverse)
{
    if (!check(kernel, grid, max_shared_bytes))
        return failure;
    if (fibers == nullptr)
        fibers = fibers_create(MAX_THREADS, fiber_main);
    /* Exactly as large as asked for, so that its end is guarded. */
    shared = memory_alloc(grid.shared_bytes + (grid.shared_bytes == 0));
    /* By value: what the host does with its struct later is not seen. */
    void *copy = malloc(kernel->args_bytes);
    if (fibers == nullptr || shared == nullptr || copy == nullptr)
        return "the emulator is out of memory";
    memcpy(copy, args, kernel->args_bytes);
    code = (void (*)(const void *))kernel->code;
    arguments = copy;
    const bool ok = run_grid(kernel, grid, reverse);
    if (!ok)
        fibers_reset(fibers);
    memory_free(shared);
    free(copy);
    return ok ? nullptr : failure;
}

/* ---- tensor cores ---- */

/* Loops of fixed lengths over arrays of their own: most of the time under
 * sanitizers, if these look at each element. */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))

UNCHECKED static float bf16(uint32_t half)
{
    return value_of<float>(uint64_t(half & 0xffff) << 16);
}

/* How tensor cores of sm_80 were measured to add (Fasi, Higham, Mikaitis and
 * Pranesh 2021, and later work; others are no coarser): eight exact products
 * and the sum so far are shifted to the largest exponent among them, cut behind
 * one bit more than f32 has, added, and the result is cut, too. */
enum { TERMS = 8 };

UNCHECKED static float cut_to_float(double x)
{
    float y = float(x);
    if (fabs(double(y)) > fabs(x))
        y = nextafterf(y, 0.0f);
    return y;
}

UNCHECKED static float add_truncated(const double term[TERMS + 1])
{
    double largest = 0.0, plain = 0.0, sum = 0.0;
    for (int i = 0; i <= TERMS; i++) {
        plain += term[i];
        largest = fmax(largest, fabs(term[i]));
    }
    if (largest == 0.0 || !isfinite(plain))
        return float(plain);
    int exponent; /* largest < 2^exponent */
    frexp(largest, &exponent);
    const double up = ldexp(1.0, 25 - exponent), down = 1.0 / up;
    /* Whole numbers of less than 26 bits. */
    for (int i = 0; i <= TERMS; i++)
        sum += double(int32_t(term[i] * up)) * down;
    return cut_to_float(sum);
}

/* Element of a fragment of two registers per... see the PTX manual, "Matrix
 * fragments for mma.m16n8k16": lane = 4 * group + member. */
UNCHECKED void mma_m16n8k16(
    float d[4], const uint32_t a[4], const uint32_t b[2], const char *where)
{
    /* Of A this lane's rows, group + {0, 8}; of B its columns, member * 2 + {0,
     * 1}.  Element k of a row or column is with member k % 8 / 2. */
    const int group = int(lane()) / 4, member = int(lane()) % 4;
    float left[2][16], right[2][16];
    for (int half = 0; half < 2; half++) {
        const uint64_t *all =
            exchange(uint64_t(a[2 * half + 1]) << 32 | a[2 * half], where);
        for (int k = 0; k < 8; k++)
            for (int i = 0; i < 2; i++) /* register i, element k % 2 */
                left[i][8 * half + k] = bf16(uint32_t(
                    all[4 * group + k / 2] >> (32 * i + 16 * (k % 2))));
    }
    const uint64_t *all = exchange(uint64_t(b[1]) << 32 | b[0], where);
    for (int k = 0; k < 16; k++)
        for (int i = 0; i < 2; i++)
            right[i][k] = bf16(uint32_t(all[4 * (2 * member + i) + k % 8 / 2] >>
                                        (32 * (k / 8) + 16 * (k % 2))));
    for (int i = 0; i < 4; i++)
        for (int first = 0; first < 16; first += TERMS) {
            double term[TERMS + 1] = {d[i]};
            for (int k = first; k < first + TERMS; k++)
                term[1 + k - first] = double(left[i / 2][k]) * right[i % 2][k];
            d[i] = add_truncated(term);
        }
}

} // namespace emu
