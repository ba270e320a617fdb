/**
 * @file clock.h
 * Time: reading it, sleeping, and waiting for another thread.
 *
 * Durations and deadlines use the monotonic clock; the calendar clock is only for stamps that people or other
 * machines read. All times are nanoseconds. Any thread may call anything here; one fm_wait belongs to one
 * thread.
 */
#ifndef FATHOM_CLOCK_H
#define FATHOM_CLOCK_H

#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** CLOCK_MONOTONIC: the same for every process of the machine, never set back, stands still while it is
 * suspended. */
FM_API uint64_t fm_base_clock_ns(void);
/** CLOCK_REALTIME since 1970-01-01 UTC: comparable between machines as far as their clocks agree; may jump.
 */
FM_API uint64_t fm_base_clock_unix_ns(void);
/** CPU time this thread has used: what to measure short code with on a busy machine. A system call, about 0.3
 * us. */
FM_API uint64_t fm_base_clock_thread_cpu_ns(void);
/** Sleeps at least this long; a signal handler that runs meanwhile does not shorten it. */
FM_API void fm_base_clock_sleep_ns(uint64_t ns);

/**
 * A wait for a condition that another thread or process makes true:
 *
 *     fm_wait wait = fm_base_wait_begin(timeout_ms);
 *     while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < expected)
 *         FM_TRY(fm_base_wait_step(&wait));
 *
 * The first steps spin (about 5 us in all: what a context switch costs, so that spinning at most doubles the
 * cost of having slept at once), the next give the processor to whoever is ready to run, and later ones
 * sleep, from 50 us doubling to 1 ms. A long wait therefore costs its core under 1 %, and ends at most about
 * 1 ms late. Begin a new one after every success, so that the next wait spins again.
 */
typedef struct fm_wait {
    uint64_t deadline_ns; /**< in the time of fm_base_clock_ns(); UINT64_MAX: none */
    int64_t timeout_ms;   /**< as given */
    uint32_t steps;       /**< taken so far */
} fm_wait;

/** A wait that ends `timeout_ms` from now; a negative timeout never ends. */
FM_API fm_wait fm_base_wait_begin(int64_t timeout_ms);
/** Lets some time pass. FM_ERR_TIMEOUT, at once, when the deadline has passed. */
FM_API FM_MUST_USE fm_status fm_base_wait_step(fm_wait *wait);

#ifdef __cplusplus
}
#endif
#endif
