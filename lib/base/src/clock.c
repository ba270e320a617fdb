#include "fathom/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <time.h>

enum {
    NS_PER_MS = 1000000,
    NS_PER_S = 1000000000,
    // A pause instruction takes about 45 ns on server cores since Skylake (less before): 128 of them are some
    // 5 us.
    WAIT_SPINS = 128,
    // A yield with nobody else to run returns in well under 1 us; 32 let every runnable thread of a small
    // team have its turn before this one goes to sleep.
    WAIT_YIELDS = 32,
    // The kernel's timer slack is 50 us, so a shorter sleep would not be shorter.
    WAIT_SLEEP_MIN_NS = 50000,
    WAIT_SLEEP_MAX_NS = 1000000,
    WAIT_SLEEP_DOUBLINGS = 5, // 50 us << 5 exceeds the maximum
};

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now); // cannot fail with the constant clocks below and a valid pointer
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t fm_base_clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t fm_base_clock_unix_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

uint64_t fm_base_clock_thread_cpu_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

void fm_base_clock_sleep_ns(uint64_t ns)
{
    uint64_t until = fm_base_clock_ns();
    until = ns > INT64_MAX - until ? INT64_MAX : until + ns;
    struct timespec wake = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL) == EINTR)
        ;
}

fm_wait fm_base_wait_begin(int64_t timeout_ms)
{
    fm_wait wait = {.deadline_ns = UINT64_MAX, .timeout_ms = timeout_ms};
    if (timeout_ms >= 0 && timeout_ms < INT64_MAX / NS_PER_MS)
        wait.deadline_ns = fm_base_clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    return wait;
}

static void spin_once(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

fm_status fm_base_wait_step(fm_wait *wait)
{
    uint64_t left = UINT64_MAX;
    if (wait->deadline_ns != UINT64_MAX) {
        uint64_t now = fm_base_clock_ns();
        if (now >= wait->deadline_ns)
            return fm_base_error_set(FM_ERR_TIMEOUT, "nothing arrived within %" PRId64 " ms",
                                     wait->timeout_ms);
        left = wait->deadline_ns - now;
    }
    uint32_t step = wait->steps;
    if (step < WAIT_SPINS + WAIT_YIELDS + WAIT_SLEEP_DOUBLINGS)
        wait->steps++; // beyond, all steps are alike
    if (step < WAIT_SPINS) {
        spin_once();
    } else if (step < WAIT_SPINS + WAIT_YIELDS) {
        sched_yield();
    } else {
        uint64_t ns = (uint64_t)WAIT_SLEEP_MIN_NS << (step - WAIT_SPINS - WAIT_YIELDS);
        if (ns > WAIT_SLEEP_MAX_NS)
            ns = WAIT_SLEEP_MAX_NS;
        fm_base_clock_sleep_ns(ns < left ? ns : left);
    }
    return FM_OK;
}
