/* SPDX-License-Identifier: Apache-2.0
 * The bound on mapped experts: the order of eviction, the counting of memory,
 * and what the system says is mapped while an operation runs over a file of
 * experts much larger than the bound. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "alloc.h"
#include "cpu.h"
#include "q2.h"

#define PATH QMOE_TEST_DIR "/expert-cache.bin"

/* A stack of q2 matrices in a file of its own; experts of 128 KiB and one
 * page of levels for eight of them. */
enum {
    N_ROWS = 64,
    N_COLS = 8192,
    MAT_BYTES = N_ROWS * N_COLS / 4,
    LEVEL_BYTES = N_ROWS * QMI_Q2_VALUES * 2,
    N_EXPERTS = 96,
    LOOK_EVERY = 5 /* steps: looking takes longer than a step */
};

typedef struct file_stack {
    uint8_t *map;
    size_t n_bytes;
    qmi_weight w;
} file_stack;

/* Levels first, so that matrices begin inside of windows. */
static file_stack open_levels(
    int64_t n_mats, int64_t n_rows, int64_t n_cols, uint8_t level)
{
    const size_t levels = (size_t)(n_mats * n_rows) * QMI_Q2_VALUES * 2;
    const size_t codes = (size_t)(n_mats * n_rows * n_cols / 4);
    const int fd = open(PATH, O_RDWR | O_CREAT | O_TRUNC, 0600);
    file_stack s = {.n_bytes = levels + codes};
    uint8_t *bytes = malloc(s.n_bytes);
    uint32_t random = 1;
    assert_true(fd >= 0 && bytes != NULL);
    for (size_t i = 0; i < s.n_bytes; i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(random >> 24);
    }
    for (size_t i = 1; i < levels; i += 2)
        bytes[i] = level;
    assert_int_equal(write(fd, bytes, s.n_bytes), s.n_bytes);
    free(bytes);
    s.map = mmap(NULL, s.n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(s.map != MAP_FAILED);
    close(fd);
    unlink(PATH);
    s.w = (qmi_weight){
        .format = &qmi_format_q2,
        .name = "experts",
        .n_mats = n_mats,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .parts = {[QMI_Q2_CODES] = {s.map + levels, codes},
            [QMI_Q2_LEVELS] = {s.map, levels}},
        .role = QMOE_ROLE_EXPERTS,
    };
    return s;
}

/* Levels of about 1. */
static file_stack open_stack(int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    return open_levels(n_mats, n_rows, n_cols, 0x3f);
}

/* Levels that are not finite, in every matrix. */
static file_stack open_broken_stack(
    int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    return open_levels(n_mats, n_rows, n_cols, 0x7f);
}

static void close_stack(file_stack *s)
{
    munmap(s->map, s->n_bytes);
}

/* Kilobytes of the map that are in this process's memory. */
static long mapped_kilobytes(const file_stack *s)
{
    char line[512];
    long sum = 0, n = 0;
    bool inside = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            inside = (uintptr_t)s->map >= begin && (uintptr_t)s->map < end;
        if (inside && sscanf(line, "Rss: %ld", &n) == 1)
            sum += n;
    }
    fclose(file);
    return sum;
}

/* ---- the list ---- */

static qcpu_expert_cache *open_cache(uint64_t budget)
{
    qcpu_expert_cache *cache = NULL;
    qmi_error err = {0};
    assert_int_equal(qcpu_expert_cache_open(&cache, budget, &err), QMOE_OK);
    return cache;
}

static int add(qcpu_expert_cache *cache, const qmi_weight *w)
{
    int stack = -1;
    qmi_error err = {0};
    assert_int_equal(qcpu_expert_cache_add(cache, &stack, w, &err), QMOE_OK);
    assert_true(stack >= 0);
    return stack;
}

static void use(qcpu_expert_cache *cache, int stack, int64_t mat)
{
    qcpu_expert_cache_begin_step(cache);
    qcpu_expert_cache_announce(cache, stack, mat);
    qcpu_expert_cache_evict(cache);
}

/* Matrices of 1 MiB, so that shared windows do not matter much. */
enum { BIG = 1 << 20, SLACK = 3 * QCPU_WINDOW_BYTES };

static void test_oldest_goes_first(void **state)
{
    (void)state;
    file_stack f = open_stack(6, 4, BIG);
    qcpu_expert_cache *cache = open_cache(3 * (uint64_t)BIG + SLACK);
    const int s = add(cache, &f.w);
    for (int64_t mat = 0; mat < 3; mat++)
        use(cache, s, mat);
    assert_int_equal(qcpu_expert_cache_look(cache).n_resident, 3);
    use(cache, s, 0); /* now 1 is the oldest */
    use(cache, s, 3);
    assert_false(qcpu_expert_cache_holds(cache, s, 1));
    assert_true(qcpu_expert_cache_holds(cache, s, 0));
    assert_true(qcpu_expert_cache_holds(cache, s, 2));
    assert_true(qcpu_expert_cache_holds(cache, s, 3));
    use(cache, s, 1);
    assert_false(qcpu_expert_cache_holds(cache, s, 2));
    const qcpu_expert_cache_state now = qcpu_expert_cache_look(cache);
    assert_int_equal(now.n_read, 5); /* hits read nothing */
    assert_int_equal(now.n_evicted, 2);
    assert_int_equal(now.n_resident, 3);
    assert_true(now.n_bytes <= 3 * (uint64_t)BIG + SLACK);
    qcpu_expert_cache_close(cache);
    close_stack(&f);
}

/* Such a step gets all it needs; the next one brings the bound back. */
static void test_step_beyond_budget(void **state)
{
    (void)state;
    file_stack f = open_stack(6, 4, BIG);
    qcpu_expert_cache *cache = open_cache(1);
    const int s = add(cache, &f.w);
    qcpu_expert_cache_begin_step(cache);
    for (int64_t mat = 0; mat < 5; mat++)
        qcpu_expert_cache_announce(cache, s, mat);
    qcpu_expert_cache_announce(cache, s, 2); /* twice in one step */
    qcpu_expert_cache_evict(cache);
    assert_int_equal(qcpu_expert_cache_look(cache).n_resident, 5);
    use(cache, s, 4);
    assert_int_equal(qcpu_expert_cache_look(cache).n_resident, 1);
    assert_true(qcpu_expert_cache_holds(cache, s, 4));
    qcpu_expert_cache_remove(cache, s);
    assert_int_equal(qcpu_expert_cache_look(cache).n_resident, 0);
    assert_int_equal(qcpu_expert_cache_look(cache).n_bytes, 0);
    qcpu_expert_cache_close(cache);
    close_stack(&f);
}

/* Matrices of 16 bytes share their windows: the last one to go frees them. */
static void test_shared_windows(void **state)
{
    (void)state;
    file_stack f = open_stack(1000, 1, 64);
    qcpu_expert_cache *cache = open_cache(1);
    const int s = add(cache, &f.w);
    qcpu_expert_cache_begin_step(cache);
    for (int64_t mat = 0; mat < 1000; mat++)
        qcpu_expert_cache_announce(cache, s, mat);
    const uint64_t all = qcpu_expert_cache_look(cache).n_bytes;
    assert_true(all >= 2 * QCPU_WINDOW_BYTES && all <= 5 * QCPU_WINDOW_BYTES);
    use(cache, s, 500);
    assert_int_equal(
        qcpu_expert_cache_look(cache).n_bytes, 2 * QCPU_WINDOW_BYTES);
    qcpu_expert_cache_close(cache);
    close_stack(&f);
}

/* Against a plain list, over many random steps and two stacks, one of which
 * is removed and added again. */
static void test_random_steps(void **state)
{
    enum { N = 20, N_STEPS = 3000, ROOM = 7 };
    (void)state;
    file_stack f = open_stack(N, 4, BIG / 8);
    qmi_weight other = f.w;
    qcpu_expert_cache *cache =
        open_cache((uint64_t)ROOM * BIG / 8 + ROOM * SLACK);
    int stacks[2] = {add(cache, &f.w), add(cache, &other)};
    uint64_t last[2][N] = {{0}}, step = 0;
    uint32_t random = 7;
    for (int i = 0; i < N_STEPS; i++) {
        random = random * 1664525u + 1013904223u;
        const int which = random >> 9 & 1;
        const int64_t mat = (int64_t)(random >> 10) % N;
        const uint64_t evicted = qcpu_expert_cache_look(cache).n_evicted;
        uint64_t newest_gone = 0, oldest_kept = UINT64_MAX;
        last[which][mat] = ++step;
        use(cache, stacks[which], mat);
        for (int k = 0; k < 2 * N; k++) {
            const uint64_t at = last[k / N][k % N];
            if (at != 0 && qcpu_expert_cache_holds(cache, stacks[k / N], k % N))
                oldest_kept = at < oldest_kept ? at : oldest_kept;
            else if (at != 0)
                newest_gone = at > newest_gone ? at : newest_gone;
        }
        assert_true(newest_gone < oldest_kept);
        assert_true(qcpu_expert_cache_look(cache).n_evicted - evicted <= 3);
        if (i % 500 != 499)
            continue;
        qcpu_expert_cache_remove(cache, stacks[1]);
        memset(last[1], 0, sizeof last[1]);
        stacks[1] = add(cache, &other);
    }
    assert_true(qcpu_expert_cache_look(cache).n_evicted > 100);
    qcpu_expert_cache_close(cache);
    close_stack(&f);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    file_stack f = open_stack(6, 4, 4096);
    for (uint64_t n = 1;; n++) {
        qcpu_expert_cache *cache = NULL;
        int stack = -1;
        qmi_error err = {0};
        qmi_alloc_fail_after(n);
        qmoe_status status = qcpu_expert_cache_open(&cache, 1, &err);
        if (status == QMOE_OK)
            status = qcpu_expert_cache_add(cache, &stack, &f.w, &err);
        qmi_alloc_fail_after(0);
        qcpu_expert_cache_close(cache);
        if (status == QMOE_OK)
            break;
        assert_int_equal(status, QMOE_E_NOMEM);
        assert_true(n < 20);
    }
    close_stack(&f);
}

/* ---- the operation ---- */

typedef struct runner {
    qmi_device *device;
    qmi_bound_weight wi, wo;
    qmi_buffer *src, *dst, *expert, *weight;
} runner;

static void open_runner(
    runner *r, const file_stack *wi, const file_stack *wo, uint64_t budget)
{
    const qmi_backend *cpu = qmi_backend_cpu();
    const qmi_device_options options = {
        .n_threads = 2, .expert_cache_bytes = budget};
    float x[N_COLS];
    const float one = 1;
    *r = (runner){0};
    for (int i = 0; i < N_COLS; i++)
        x[i] = (float)(i % 7) - 3;
    assert_int_equal(cpu->device_open(&r->device, 0, &options, NULL), 0);
    assert_int_equal(cpu->weight_bind(&r->wi, r->device, &wi->w, NULL), 0);
    assert_int_equal(cpu->weight_bind(&r->wo, r->device, &wo->w, NULL), 0);
    assert_int_equal(cpu->buffer_alloc(&r->src, r->device, sizeof x, NULL), 0);
    assert_int_equal(cpu->buffer_alloc(&r->dst, r->device, sizeof x, NULL), 0);
    assert_int_equal(cpu->buffer_alloc(&r->expert, r->device, 4, NULL), 0);
    assert_int_equal(cpu->buffer_alloc(&r->weight, r->device, 4, NULL), 0);
    assert_int_equal(
        cpu->buffer_write(r->device, (qmi_view){r->src, 0}, x, sizeof x, NULL),
        0);
    assert_int_equal(
        cpu->buffer_write(r->device, (qmi_view){r->weight, 0}, &one, 4, NULL),
        0);
}

static void close_runner(runner *r)
{
    const qmi_backend *cpu = qmi_backend_cpu();
    cpu->buffer_free(r->device, r->src);
    cpu->buffer_free(r->device, r->dst);
    cpu->buffer_free(r->device, r->expert);
    cpu->buffer_free(r->device, r->weight);
    cpu->weight_unbind(r->device, &r->wi);
    cpu->weight_unbind(r->device, &r->wo);
    cpu->device_close(r->device);
}

static qmoe_status try_one(runner *r, int32_t expert, qmi_error *err)
{
    const qmi_backend *cpu = qmi_backend_cpu();
    const qmi_op op = {
        .kind = QMI_OP_EXPERT_FFN,
        .u.expert_ffn = {.dst = {r->dst, 0},
            .src = {r->src, 0},
            .expert = {r->expert, 0},
            .weight = {r->weight, 0},
            .act = QMI_ACT_RELU,
            .up = &r->wi,
            .down = &r->wo,
            .n_tokens = 1,
            .top_k = 1},
    };
    assert_int_equal(cpu->buffer_write(r->device, (qmi_view){r->expert, 0},
                         &expert, sizeof expert, NULL),
        0);
    return qmi_run(cpu, r->device, &op, err);
}

static void run_one(runner *r, int32_t expert, float *y)
{
    const qmi_backend *cpu = qmi_backend_cpu();
    qmi_error err = {0};
    assert_int_equal(try_one(r, expert, &err), QMOE_OK);
    assert_int_equal(cpu->buffer_read(r->device, y, (qmi_view){r->dst, 0},
                         N_COLS * sizeof *y, NULL),
        0);
}

/* The most of both that was mapped, in kilobytes, over all experts twice. */
static long run_all(
    const file_stack *s, const file_stack *wo, uint64_t budget, float *sums)
{
    static float y[N_COLS];
    runner r;
    long most = 0;
    open_runner(&r, s, wo, budget);
    for (int32_t i = 0; i < 2 * N_EXPERTS; i++) {
        run_one(&r, i % 3 == 1 ? i / 25 : i * 5 % N_EXPERTS, y);
        for (int c = 0; c < N_COLS; c++)
            sums[c] += y[c];
        if (i % LOOK_EVERY != 0)
            continue;
        const long now = mapped_kilobytes(s) + mapped_kilobytes(wo);
        most = now > most ? now : most;
    }
    close_runner(&r);
    return most;
}

static void test_mapped_memory_is_bounded(void **state)
{
    static float bounded[N_COLS], free_running[N_COLS];
    const uint64_t budget = 4 << 20;
    (void)state;
    file_stack wi = open_stack(N_EXPERTS, N_ROWS, N_COLS);
    file_stack wo = open_stack(N_EXPERTS, N_COLS, N_ROWS);
    const long with = run_all(&wi, &wo, budget, bounded);
    const long without = run_all(&wi, &wo, 0, free_running);
    print_message("mapped: %ld KB with a bound of %d KB, %ld KB without, of "
                  "%zu KB\n",
        with, (int)(budget >> 10), without, (wi.n_bytes + wo.n_bytes) >> 10);
    assert_true(with <= (long)(budget >> 10));
    assert_true(with >= (long)(budget >> 10) / 4); /* they are kept, too */
    assert_true(without > 4 * (long)(budget >> 10));
    assert_memory_equal(bounded, free_running, sizeof bounded);
    close_stack(&wo);
    close_stack(&wi);
}

/* A step that is refused is over, too: what was read for it is bounded. */
static void test_refused_steps_are_bounded(void **state)
{
    const uint64_t budget = 4 << 20;
    (void)state;
    file_stack wi = open_stack(N_EXPERTS, N_ROWS, N_COLS);
    file_stack wo = open_broken_stack(N_EXPERTS, N_COLS, N_ROWS);
    runner r;
    long most = 0;
    open_runner(&r, &wi, &wo, budget);
    for (int32_t i = 0; i < N_EXPERTS; i++) {
        qmi_error err = {0};
        assert_int_equal(try_one(&r, i * 5 % N_EXPERTS, &err), QMOE_E_FORMAT);
        if (i % LOOK_EVERY != 0)
            continue;
        const long now = mapped_kilobytes(&wi) + mapped_kilobytes(&wo);
        most = now > most ? now : most;
    }
    close_runner(&r);
    print_message("mapped: %ld KB\n", most);
    assert_true(most <= (long)(budget >> 10));
    close_stack(&wo);
    close_stack(&wi);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oldest_goes_first),
        cmocka_unit_test(test_step_beyond_budget),
        cmocka_unit_test(test_shared_windows),
        cmocka_unit_test(test_random_steps),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_mapped_memory_is_bounded),
        cmocka_unit_test(test_refused_steps_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
