/* SPDX-License-Identifier: Apache-2.0
 * Switching by a few instructions on x86-64, by ucontext elsewhere (which asks
 * the kernel for the signal mask at every switch and is many times slower). */
#include "fiber.h"

#include <new>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#ifdef FIBER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

static const size_t STACK_BYTES = 128 << 10;

struct one_fiber {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    void *asan_stack;
};

struct fiber {
    std::vector<one_fiber> each;
    one_fiber caller;
    uint8_t *stacks;
    void (*run)(size_t index);
    size_t entering;
    const void *caller_bottom;
    size_t caller_bytes;
};

/* What a new fiber begins with; switching passes no argument. */
static fiber *starting;

static void before_switch(void **save, const void *bottom, size_t n_bytes)
{
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(save, bottom, n_bytes);
#else
    (void)save;
    (void)bottom;
    (void)n_bytes;
#endif
}

static void after_switch(void *saved, const void **bottom, size_t *n_bytes)
{
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(saved, bottom, n_bytes);
#else
    (void)saved;
    (void)bottom;
    (void)n_bytes;
#endif
}

extern "C" void qcuda_emu_fiber_begin(void)
{
    fiber *all = starting;
    after_switch(nullptr, &all->caller_bottom, &all->caller_bytes);
    all->run(all->entering);
    abort(); /* run() does not return */
}

#if defined(__x86_64__)

extern "C" void qcuda_emu_switch(void **save, void *load);
__asm__(".text\n"
        ".hidden qcuda_emu_switch\n"
        ".globl qcuda_emu_switch\n"
        ".type qcuda_emu_switch, @function\n"
        "qcuda_emu_switch:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size qcuda_emu_switch, .-qcuda_emu_switch\n");

static void prepare(fiber *all, size_t index)
{
    uint8_t *top = all->stacks + (index + 1) * STACK_BYTES;
    void **sp = reinterpret_cast<void **>(top);
    *--sp = nullptr; /* where a caller's address would be: no caller */
    *--sp = reinterpret_cast<void *>(qcuda_emu_fiber_begin);
    for (int i = 0; i < 6; i++)
        *--sp = nullptr;
    all->each[index].stack_pointer = sp;
}

static void switch_to(one_fiber *from, one_fiber *to)
{
    qcuda_emu_switch(&from->stack_pointer, to->stack_pointer);
}

#else

static void prepare(fiber *all, size_t index)
{
    ucontext_t *context = &all->each[index].context;
    getcontext(context);
    context->uc_stack.ss_sp = all->stacks + index * STACK_BYTES;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = nullptr;
    makecontext(context, qcuda_emu_fiber_begin, 0);
}

static void switch_to(one_fiber *from, one_fiber *to)
{
    swapcontext(&from->context, &to->context);
}

#endif

fiber *fibers_create(size_t count, void (*run)(size_t index))
{
    fiber *all = new (std::nothrow) fiber();
    if (all == nullptr)
        return nullptr;
    void *stacks = mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) {
        delete all;
        return nullptr;
    }
    all->stacks = static_cast<uint8_t *>(stacks);
    all->each.resize(count);
    all->run = run;
    fibers_reset(all);
    return all;
}

void fibers_reset(fiber *all)
{
    for (size_t i = 0; i < all->each.size(); i++) {
        all->each[i].asan_stack = nullptr;
        prepare(all, i);
    }
}

void fibers_destroy(fiber *all)
{
    if (all == nullptr)
        return;
    munmap(all->stacks, all->each.size() * STACK_BYTES);
    delete all;
}

void fiber_enter(fiber *all, size_t index)
{
    one_fiber *to = &all->each[index];
    starting = all;
    all->entering = index;
    before_switch(&all->caller.asan_stack, all->stacks + index * STACK_BYTES,
        STACK_BYTES);
    switch_to(&all->caller, to);
    after_switch(all->caller.asan_stack, nullptr, nullptr);
}

void fiber_leave(fiber *all, size_t index)
{
    one_fiber *from = &all->each[index];
    before_switch(&from->asan_stack, all->caller_bottom, all->caller_bytes);
    switch_to(from, &all->caller);
    after_switch(from->asan_stack, &all->caller_bottom, &all->caller_bytes);
}
