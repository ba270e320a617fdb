/*
 * The shapes of events. A writer's events differ in a few names and numbers: what lies between these is the same text again
 * and again. The shapes that were met are kept as a tree of such texts,
 *
 *     `,\n{"ph":"X","cat":"cpu_op","name":"`  name  `","pid":1,"tid":1,"ts":`  time  `,"dur":`  time  `}`
 *                                                   `","pid":1,"tid":2,"ts":`  time  ...
 *
 * and an event of a known shape is read by comparing whole texts, without an index, looking at keys, or finding its track. What
 * follows no known shape is decoded as ever (event.h), and learnt. The tree only holds what the decoder took, and values
 * vary only as tokens of the same kind, so that both read the same from every text.
 */
#ifndef FM_TRACE_SHAPE_H
#define FM_TRACE_SHAPE_H

#include <stddef.h>
#include <stdint.h>

#include "event.h"

/* A text of a shape; a longer one takes several. As many bytes must be readable behind the text that is read. */
enum { FM_TRACE_LITERAL_BYTES = 64 };

/* What stands behind a text. */
enum fm_trace_shape_kind {
    FM_TRACE_SHAPE_TEXT, /* the rest of the text */
    FM_TRACE_SHAPE_END,  /* the end of the event */
    FM_TRACE_SHAPE_NAME, /* strings, whose quotes belong to the texts */
    FM_TRACE_SHAPE_ID_STRING,
    FM_TRACE_SHAPE_STRING, /* of no interest */
    FM_TRACE_SHAPE_BRACKETS, /* the rest of an object or a list of no interest, whose first bracket belongs to the text */
    FM_TRACE_SHAPE_ID_NUMBER,
    FM_TRACE_SHAPE_SCALAR, /* of no interest */
    FM_TRACE_SHAPE_TIME,
    FM_TRACE_SHAPE_DURATION,
    FM_TRACE_SHAPE_CORRELATION,
    FM_TRACE_SHAPE_STREAM,
    FM_TRACE_SHAPE_DEVICE,
    FM_TRACE_SHAPE_BYTES,
    FM_TRACE_SHAPE_FIRST_BLOCKS, /* the first size of a grid, and the others */
    FM_TRACE_SHAPE_MORE_BLOCKS,
    FM_TRACE_SHAPE_FIRST_THREADS,
    FM_TRACE_SHAPE_MORE_THREADS,
    FM_TRACE_SHAPE_ARGS, /* nothing: the arguments' text begins and ends here */
    FM_TRACE_SHAPE_ARGS_END
};

struct fm_trace_shape {
    char literal[FM_TRACE_LITERAL_BYTES];
    uint64_t present; /* a bit for each of its bytes */
    uint8_t length, kind;
    char phase;               /* FM_TRACE_SHAPE_END: of all events of this shape */
    uint32_t track, category; /* the same */
    struct fm_trace_shape *then, *other;
};

/* Zero-initialise. */
struct fm_trace_shapes {
    struct fm_trace_shape *first; /* a level's shapes are ordered by how lately they were met */
    struct fm_trace_shape *all;
    size_t count;
    uint32_t tried, met; /* lately */
    uint32_t pause;      /* events for which shapes are not tried */
    int keep_args;
};

/**
 * Reads the event that follows the event that ends at `text`. Returns the first byte behind it, *out_event with what its phase
 * needs and *out_end with the rest; NULL when no shape fits. Behind `end` lie FM_TRACE_LITERAL_BYTES bytes of 0.
 */
typedef const char *(*fm_trace_shape_kernel)(struct fm_trace_shapes *shapes, const char *text,
                                             const char *end, struct fm_trace_event *out_event,
                                             const struct fm_trace_shape **out_end);

const char *fm_trace_shape_walk_ref(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                    struct fm_trace_event *out_event, const struct fm_trace_shape **out_end);
const char *fm_trace_shape_walk_avx2(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                     struct fm_trace_event *out_event, const struct fm_trace_shape **out_end);
const char *fm_trace_shape_walk_avx512(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                       struct fm_trace_event *out_event,
                                       const struct fm_trace_shape **out_end);

/* The best kernel of this machine. */
fm_trace_shape_kernel fm_trace_shape_choose(void);

/* Whether to try shapes on the next event. They are left alone for a while where most events are unlike any before. */
int fm_trace_shapes_try(struct fm_trace_shapes *shapes);

/**
 * Learns the shape of an event that was decoded: `text` to `end`, from the end of the event before it, with the event's track
 * and category. What is no good shape is not learnt. FM_ERR_NOMEM.
 */
FM_MUST_USE fm_status fm_trace_shapes_learn(struct fm_trace_shapes *shapes, const char *text, const char *end,
                                            const struct fm_trace_event *event, uint32_t track,
                                            uint32_t category);

void fm_trace_shapes_clear(struct fm_trace_shapes *shapes);

#endif
