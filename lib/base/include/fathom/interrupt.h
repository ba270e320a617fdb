/**
 * @file interrupt.h
 * Ctrl-C leaves things consistent: the first SIGINT or SIGTERM sets a flag, and long work ends at its next
 * safe place.
 *
 * Only a program installs the handlers; libraries look at the flag at the places where they can stop without
 * leaving anything half done (between steps, blocks, files), never in the middle of an exchange with another
 * rank.
 */
#ifndef FATHOM_INTERRUPT_H
#define FATHOM_INTERRUPT_H

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The signal that asked the process to end, 0 while none did. Written by a signal handler; read it by the
 * functions. */
extern FM_API int fm_base_interrupt_signal;

/**
 * Handles SIGINT and SIGTERM from now on. The first one sets the flag; a second one takes the default action,
 * so that a program that hangs can still be ended. A signal that was ignored (a background job under nohup)
 * stays ignored. Blocking calls are restarted (SA_RESTART), except those that never are: poll, epoll_wait,
 * nanosleep. Call it once, before other threads start. FM_ERR_STATE when it is installed already.
 */
FM_API FM_MUST_USE fm_status fm_base_interrupt_install(void);

/** Puts back what install replaced, and clears the flag: for tests, and for programs that handle one command
 * after another. */
FM_API void fm_base_interrupt_restore(void);

/** True once the process was asked to end: one load, any thread. */
static inline int fm_base_interrupted(void)
{
    // Pairs with the store in the handler; the flag guards no other data, so nothing needs ordering.
    return __builtin_expect(__atomic_load_n(&fm_base_interrupt_signal, __ATOMIC_RELAXED) != 0, 0);
}

/** FM_ERR_CANCELLED, with the signal's name in the message, once the process was asked to end: for FM_TRY. */
FM_API FM_MUST_USE fm_status fm_base_interrupt_check(void);

#ifdef __cplusplus
}
#endif
#endif
