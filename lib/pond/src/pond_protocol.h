/**
 * @file pond_protocol.h
 * What executors say to the driver: calls of theirs, over `net`. The driver only answers.
 *
 *     LEASE  args: "<host> <pid>"                    answered when there is a task, which is the payload; FM_ERR_CANCELLED: the
 *                                                    run is over
 *     DONE   args: OFFSET 0 u64 task, 8 i32 status   payload: the result's text, or the message
 *     BEAT   args: OFFSET 0 u64 task                 while a task runs
 */
#ifndef POND_PROTOCOL_H
#define POND_PROTOCOL_H

#include "fathom/net.h"

enum {
    FM_POND_CALL_LEASE = 1,
    FM_POND_CALL_DONE = 2,
    FM_POND_CALL_BEAT = 3,
    FM_POND_TASK_BYTES_MAX = 256 << 20, /**< of a task: 10^5 names of files and more */
    FM_POND_DONE_ARGS_BYTES = 12
};

#define FM_POND_BEAT_NS  ((int64_t)2000000000)
#define FM_POND_LEASE_NS ((int64_t)20000000000) /**< without a beat, after which a task is given to another */

/** An executor at work until the run ends or the connection breaks. */
FM_MUST_USE fm_status fm_pond_executor_serve(const char *address, const fm_net_security *security);

#endif
