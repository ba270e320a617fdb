/**
 * @file pipe_exec.h
 * Running a pipeline program: an interpreter over callbacks.
 *
 * Each rank, be it a thread or a process, makes an executor from the shared plan and calls fm_pipe_executor_run() once a
 * step. The executor calls back to compute, and to move messages over a *link*; it starts no thread and does no I/O of
 * its own. All buffers that travel are its own, planned once (fathom/pipe.h) and reused; a step allocates nothing.
 *
 *     fm_pipe_executor_options options = {
 *         .size = sizeof options, .plan = plan, .rank = rank,
 *         .compute = {.context = model, .forward = ..., .backward = ..., .weight = ...},
 *         .link = fm_pipe_ring_link(ring, rank), .activations = &type, .gradients = &type, .message_count = 1};
 *     FM_TRY(fm_pipe_executor_create(&options, &executor));
 *     for (uint64_t step = 0; step < steps; step++)
 *         FM_TRY(fm_pipe_executor_run(executor, step));
 *
 * An executor belongs to one thread at a time. Executors share nothing but the plan, which is read-only.
 */
#ifndef FATHOM_PIPE_EXEC_H
#define FATHOM_PIPE_EXEC_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/pipe.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_pipe_message_kind { FM_PIPE_ACTIVATION, FM_PIPE_GRADIENT } fm_pipe_message_kind;

/** What a message is. It travels with the payload, and the receiver's executor compares all of it. 32 bytes. */
typedef struct fm_pipe_tag {
    uint64_t step;
    uint64_t bytes; /**< of the payload */
    uint32_t type;  /**< fm_pipe_message_type.type */
    /** Checksum of the program: ranks that run different ones find out at the first message. */
    uint32_t program;
    int32_t chunk;
    uint16_t stage; /**< that the payload enters */
    uint8_t kind;   /**< fm_pipe_message_kind */
    uint8_t direction;
} fm_pipe_tag;

/** The form of a payload. */
typedef struct fm_pipe_message_type {
    size_t bytes;
    uint32_t type; /**< the caller's code for element type and shape; both ends must agree. Not interpreted */
} fm_pipe_message_type;

/**
 * How messages reach a rank's neighbours. Messages between two ranks arrive in the order in which they were sent
 * (FIFO), whole or not at all. `ep`'s neighbour ring is one link, fm_pipe_ring another.
 *
 * Neither function blocks. FM_ERR_BUSY (no message need be set) means "not yet": the call is made again later with the
 * same arguments, possibly after calls for the other peer or the other way. Any other failure, such as a peer that is
 * gone, ends the step with that code; the executor puts op and peer in front of the link's message.
 */
typedef struct fm_pipe_link {
    void *context;
    /** FM_OK: the payload is on its way and `payload` may be overwritten. tag->bytes bytes. */
    fm_status (*send)(void *context, int peer, const fm_pipe_tag *tag, const void *payload);
    /** FM_OK: the next message from `peer` is in out_tag and out_payload. FM_ERR_LIMIT: it has more than `capacity`
     *  bytes; *out_tag is filled. */
    fm_status (*receive)(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag, void *out_payload);
} fm_pipe_link;

/** What a callback is to compute. Pointers are to the executor's buffers, 64-byte aligned. */
typedef struct fm_pipe_task {
    uint64_t step;
    int rank;
    int lane;
    int stage;
    int direction;
    int chunk;
    int micro_batch; /**< fm_pipe_micro_batch() */
    /** Where to keep what backward needs: from 0, below fm_pipe_needs.saved_slots. The same in all ops of the visit, and
     *  no other visit's in between. */
    int saved;
    const void *input;           /**< NULL at stage 0. Valid until the visit's last op (B or W) */
    void *output;                /**< forward: to be written; NULL at the last stage */
    const void *output_gradient; /**< B, I, W: NULL at the last stage. Valid until the visit's last op */
    void *input_gradient;        /**< B, I: to be written; NULL at stage 0 */
} fm_pipe_task;

/** The computations. A failure ends the step with that code. */
typedef struct fm_pipe_compute {
    void *context;
    /** F. The last stage computes the loss here. */
    fm_status (*forward)(void *context, const fm_pipe_task *task);
    /** B (with_weights 1): gradients of input and weights. I (with_weights 0): of the input alone. */
    fm_status (*backward)(void *context, const fm_pipe_task *task, int with_weights);
    /** W: gradients of the weights, after an I. NULL when the program has no W. */
    fm_status (*weight)(void *context, const fm_pipe_task *task);
    /** FB: `forward` and, with weights, `backward` of another micro-batch, overlapped as it sees fit. NULL: the executor
     *  calls forward() and then backward(). */
    fm_status (*overlapped)(void *context, const fm_pipe_task *forward, const fm_pipe_task *backward);
} fm_pipe_compute;

typedef struct fm_pipe_executor_options {
    size_t size;              /**< sizeof(fm_pipe_executor_options) */
    const fm_pipe_plan *plan; /**< outlives the executor */
    int rank;
    fm_pipe_compute compute;
    fm_pipe_link link; /**< not called when no stage's neighbour lies on another rank */
    /** [message_count] form of the activation that enters stage s (entry 0 is not looked at) and of the gradient that
     *  enters stage s (the last entry is not looked at). */
    const fm_pipe_message_type *activations;
    const fm_pipe_message_type *gradients;
    int message_count;  /**< 1 (all alike) or the program's stages */
    int64_t timeout_ms; /**< how long one op may wait for its messages; 0: 100 s, negative: for ever */
} fm_pipe_executor_options;

typedef struct fm_pipe_executor fm_pipe_executor;

/**
 * Allocates the buffers. FM_ERR_ARG: NULL where a pointer is needed, no such rank, wrong message_count, a message of 0
 * bytes. FM_ERR_LIMIT: the buffers' total overflows. FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_pipe_executor_create(const fm_pipe_executor_options *options,
                                                     fm_pipe_executor **out_executor);
/** Frees an executor; NULL is allowed. */
FM_API void fm_pipe_executor_free(fm_pipe_executor *executor);

/**
 * Runs one step of the rank's program. All ranks call it with the same `step`.
 *
 * Every op is a span of category "pipe" named F, B, I, W or FB, with its stage and micro-batch (FB: its two
 * micro-batches); so are every wait, and every send and receive, which a flow "message" connects.
 *
 * FM_ERR_TIMEOUT: a peer did not send, or did not take, a message in time: the error names the op, the peer, the message
 * and the time waited. FM_ERR_FORMAT: a message came that is not the one the program says. Or what a callback or the link
 * returned. After a failure messages may be under way, so every further run is FM_ERR_STATE: free the executor, and renew
 * the link.
 */
FM_API FM_MUST_USE fm_status fm_pipe_executor_run(fm_pipe_executor *executor, uint64_t step);

/**
 * Measured costs, for fm_pipe_search_run(): mean seconds of this rank's ops since the last call, by lane. In and out:
 * costs[lane] keeps what did not run (a program without I and W measures b alone, for example).
 */
FM_API void fm_pipe_executor_costs(fm_pipe_executor *executor, fm_pipe_stage_cost *costs);

/** Time of one rank in its last step, in nanoseconds. */
typedef struct fm_pipe_executor_times {
    uint64_t total;
    uint64_t compute; /**< in callbacks of fm_pipe_compute */
    uint64_t wait;    /**< standing before ops whose messages were not there */
} fm_pipe_executor_times;
FM_API fm_pipe_executor_times fm_pipe_executor_last(const fm_pipe_executor *executor);

/**
 * A link in memory that all ranks see: of one process, or shared by processes (mmap MAP_SHARED; addresses may differ).
 * Between neighbours on the ring of ranks lie queues of `depth` messages of up to `bytes_max` each, one writer and one
 * reader each, lock-free. Sending copies in, receiving copies out.
 */
typedef struct fm_pipe_ring fm_pipe_ring;

/** Bytes that fm_pipe_ring_init() needs. FM_ERR_ARG: ranks or depth below 1; FM_ERR_LIMIT: more than a size_t. */
FM_API FM_MUST_USE fm_status fm_pipe_ring_bytes(int ranks, int depth, size_t bytes_max, size_t *out_bytes);
/** Makes a ring in `memory` (64-byte aligned, as many bytes as above; stays the caller's). Before any rank uses it. */
FM_API FM_MUST_USE fm_status fm_pipe_ring_init(void *memory, int ranks, int depth, size_t bytes_max,
                                               fm_pipe_ring **out_ring);
/** The ring that another process made in shared memory. FM_ERR_FORMAT: there is none. */
FM_API FM_MUST_USE fm_status fm_pipe_ring_open(void *memory, fm_pipe_ring **out_ring);
/** The link of one rank; used by one thread at a time. Its functions fail with FM_ERR_ARG for a peer that is no
 *  neighbour, FM_ERR_LIMIT for a payload above bytes_max. */
FM_API fm_pipe_link fm_pipe_ring_link(fm_pipe_ring *ring, int rank);

#ifdef __cplusplus
}
#endif
#endif
