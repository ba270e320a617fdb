#include "sim_fiber.h"

#include <stdlib.h>
#include <ucontext.h>

// The sanitizers are told of each change of stacks.
#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAS_TSAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HAS_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// A transaction's writes lie on the stack: some 100 KiB.
enum { STACK_BYTES = 1 << 20 };

struct sim_fiber {
    ucontext_t own, caller;
    void (*run)(void *context);
    void *context;
    void *stack;
    int ended;
    void *fake_stack, *caller_fake_stack; // of AddressSanitizer
    const void *caller_stack;
    size_t caller_stack_bytes;
    void *thread, *caller_thread; // of ThreadSanitizer
};

static sim_fiber *current;

static void enter(sim_fiber *fiber)
{
#ifdef HAS_ASAN
    __sanitizer_start_switch_fiber(&fiber->caller_fake_stack, fiber->stack, STACK_BYTES);
#endif
#ifdef HAS_TSAN
    fiber->caller_thread = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->thread, 0);
#endif
    swapcontext(&fiber->caller, &fiber->own);
#ifdef HAS_ASAN
    __sanitizer_finish_switch_fiber(fiber->caller_fake_stack, NULL, NULL);
#endif
}

static void leave(sim_fiber *fiber)
{
#ifdef HAS_ASAN
    __sanitizer_start_switch_fiber(fiber->ended ? NULL : &fiber->fake_stack, fiber->caller_stack,
                                   fiber->caller_stack_bytes);
#endif
#ifdef HAS_TSAN
    __tsan_switch_to_fiber(fiber->caller_thread, 0);
#endif
    swapcontext(&fiber->own, &fiber->caller);
}

static void entered(sim_fiber *fiber)
{
#ifdef HAS_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &fiber->caller_stack, &fiber->caller_stack_bytes);
#else
    (void)fiber;
#endif
}

static void begin(void)
{
    sim_fiber *fiber = current;
    entered(fiber);
    fiber->run(fiber->context);
    fiber->ended = 1;
    leave(fiber);
}

sim_fiber *sim_fiber_new(void (*run)(void *context), void *context)
{
    sim_fiber *fiber = calloc(1, sizeof *fiber);
    if (!fiber || !(fiber->stack = malloc(STACK_BYTES)) || getcontext(&fiber->own) < 0)
        abort();
    fiber->run = run;
    fiber->context = context;
    fiber->own.uc_stack.ss_sp = fiber->stack;
    fiber->own.uc_stack.ss_size = STACK_BYTES;
#ifdef HAS_TSAN
    fiber->thread = __tsan_create_fiber(0);
#endif
    makecontext(&fiber->own, begin, 0);
    return fiber;
}

void sim_fiber_resume(sim_fiber *fiber)
{
    if (current || fiber->ended)
        abort();
    current = fiber;
    enter(fiber);
    current = NULL;
}

void sim_fiber_yield(void)
{
    sim_fiber *fiber = current;
    leave(fiber);
    entered(fiber);
}

int sim_fiber_ended(const sim_fiber *fiber)
{
    return fiber->ended;
}

void sim_fiber_free(sim_fiber *fiber)
{
    if (!fiber)
        return;
#ifdef HAS_ASAN
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
#ifdef HAS_TSAN
    __tsan_destroy_fiber(fiber->thread);
#endif
    free(fiber->stack);
    free(fiber);
}
