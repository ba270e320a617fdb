/* The columns of a trace while they grow. */
#ifndef FM_TRACE_STORE_H
#define FM_TRACE_STORE_H

#include "event.h"
#include "fathom/trace.h"
#include "shape.h"
#include "text_pool.h"

/* A growing array; `capacity` elements are allocated. */
#define FM_TRACE_COLUMN(type) \
    struct {                  \
        type *at;             \
        size_t count;         \
        size_t capacity;      \
    }

/* A begin without its end yet. Those of one track (or one asynchronous ID) are chained, the last one first. */
struct fm_trace_open {
    uint32_t slice;
    uint32_t previous; /* FM_TRACE_NONE */
};

/* Finds tracks, processes, asynchronous IDs by a key of two numbers. Zero-initialise. */
struct fm_trace_map {
    struct fm_trace_map_slot {
        uint64_t a, b;
        uint32_t value;
        uint32_t used;
    } * slots;
    size_t slot_count, used;
};

struct fm_trace_store {
    struct fm_trace trace; /* what the user sees; first, so that the one is the other */
    struct fm_trace_text_pool texts;
    fm_arena paths;
    FM_TRACE_COLUMN(fm_trace_file) files;
    FM_TRACE_COLUMN(fm_trace_process) processes;
    FM_TRACE_COLUMN(fm_trace_track) tracks;
    FM_TRACE_COLUMN(fm_trace_slice) slices;
    FM_TRACE_COLUMN(fm_trace_gpu) gpus;
    FM_TRACE_COLUMN(fm_trace_flow) flows;
    FM_TRACE_COLUMN(fm_trace_counter) counters;
    FM_TRACE_COLUMN(fm_trace_args) args;
    FM_TRACE_COLUMN(char) args_text;
    FM_TRACE_COLUMN(struct fm_trace_open) opens;
    FM_TRACE_COLUMN(uint32_t) open_of_track; /* by track: index into opens */
    struct fm_trace_map process_of, track_of, async_open;
    int keep_args;
    int is_part; /* events that belong together across parts of a file are refused: see fm_trace_store_add() */
    /* The track of the event before: most events share it. */
    struct fm_trace_span last_pid, last_tid;
    uint64_t last_key[2];
    uint32_t last_track;
    /* Where the current file's columns began. */
    size_t first_slice, first_flow, first_counter, first_track;
    uint32_t category_kernel, category_memcpy, category_memset;
};

/* Makes a zeroed store ready. */
FM_MUST_USE fm_status fm_trace_store_create(int keep_args, struct fm_trace_store **out_store);
FM_MUST_USE fm_status fm_trace_store_begin_file(struct fm_trace_store *store, const char *path);
/* Makes room for what a text of this many bytes is likely to hold: address space, which memory backs only where it is used. */
FM_MUST_USE fm_status fm_trace_store_expect(struct fm_trace_store *store, uint64_t bytes);
/* Adds one event. FM_ERR_FORMAT: it lacks what its phase needs; the message says what. FM_ERR_STATE: the store is of a part,
 * and the event's begin or end may be in another one. */
FM_MUST_USE fm_status fm_trace_store_add(struct fm_trace_store *store, const struct fm_trace_event *event);
/* Adds an event that was read by its shape. */
FM_MUST_USE fm_status fm_trace_store_add_shaped(struct fm_trace_store *store, struct fm_trace_event *event,
                                                const struct fm_trace_shape *shape);
/* Lets shapes learn of an event that was added: see fm_trace_shapes_learn(). */
FM_MUST_USE fm_status fm_trace_store_learn(struct fm_trace_store *store, struct fm_trace_shapes *shapes,
                                           const char *text, const char *end,
                                           const struct fm_trace_event *event);
/* Adds the file of `from`, a store of a part, behind what the current file of `store` has. */
FM_MUST_USE fm_status fm_trace_store_append(struct fm_trace_store *store, const struct fm_trace_store *from);
/* Ends the file: `base_ns` is added to its times, open begins are closed. */
FM_MUST_USE fm_status fm_trace_store_end_file(struct fm_trace_store *store, int64_t base_ns);
/* Publishes the columns in store->trace. */
void fm_trace_store_publish(struct fm_trace_store *store);

/* The value under (a, b), or a new entry with `fresh`; *out_found tells which. */
FM_MUST_USE fm_status fm_trace_map_put(struct fm_trace_map *map, uint64_t a, uint64_t b, uint32_t fresh,
                                       uint32_t **out_value, int *out_found);
void fm_trace_map_clear(struct fm_trace_map *map);

#endif
