/**
 * @file pipe_execute_internal.h
 * The executor's inside: pipe_execute.c walks the program, pipe_traffic.c moves its messages.
 */
#ifndef FM_PIPE_EXECUTE_INTERNAL_H
#define FM_PIPE_EXECUTE_INTERNAL_H

#include "pipe_internal.h"

/** The posts of one rank to, or from, one peer, in order. posts[done] ... posts[posted - 1] are under way. */
struct fm_pipe_stream {
    const struct fm_pipe_post **posts;
    size_t count;
    size_t posted;
    size_t done;
};

/** State of a buffer. */
struct fm_pipe_slot {
    /** Holds what its next reader needs: from arrival or production until the next receive is posted. */
    uint8_t filled;
    uint8_t leaving; /**< a send from it is under way */
};

struct fm_pipe_measured {
    uint64_t nanoseconds;
    uint64_t count;
};

enum { FM_PIPE_SENDS, FM_PIPE_RECEIVES, FM_PIPE_WAYS, FM_PIPE_SIDES = 2 };

struct fm_pipe_executor {
    fm_pipe_executor_options options;
    const fm_pipe_program *program;
    const struct fm_pipe_rank_plan *mine;
    uint32_t checksum;
    struct fm_pipe_stream streams[FM_PIPE_WAYS][FM_PIPE_SIDES];
    const struct fm_pipe_post **posts; /**< what the streams' lists are cut from */
    struct fm_pipe_slot *slots[2];     /**< by message kind */
    char *buffers[2];
    size_t slot_bytes[2];
    fm_pipe_message_type *types[2];                          /**< [stages] of what enters the stage */
    struct fm_pipe_measured (*measured)[FM_PIPE_KIND_COUNT]; /**< [lanes] */
    fm_pipe_executor_times last;
    uint64_t step;
    size_t op; /**< the rank's op that is run or waited for */
    int failed;
};

static inline void *fm_pipe_buffer(const fm_pipe_executor *executor, int kind, int32_t slot)
{
    return slot < 0 ? NULL : executor->buffers[kind] + (size_t)slot * executor->slot_bytes[kind];
}

/* pipe_traffic.c */

/** Cuts the plan's posts into streams: `posts` has room for all of them. */
void fm_pipe_streams_fill(fm_pipe_executor *executor);
/** Begins a step: nothing posted. */
void fm_pipe_streams_rewind(fm_pipe_executor *executor);
/** Posts what lies at the boundary before executor->op and moves what can be moved. */
fm_status fm_pipe_boundary_post(fm_pipe_executor *executor);
/** Waits until the op's inputs are there and its outputs' slots are free. */
fm_status fm_pipe_boundary_wait(fm_pipe_executor *executor, const struct fm_pipe_slots *needed);
/** Waits until every posted message has passed. */
fm_status fm_pipe_boundary_drain(fm_pipe_executor *executor);

#endif
