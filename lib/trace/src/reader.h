/* The reader of one file, or of a part of it: a buffer that passes over the text, with the index of its quotes and brackets. */
#ifndef FM_TRACE_READER_H
#define FM_TRACE_READER_H

#include "fathom/gzip.h"
#include "json_index.h"
#include "store.h"

enum fm_trace_place {
    FM_TRACE_START,  // before the outermost bracket
    FM_TRACE_TOP,    // inside the outermost object, before a key or its end
    FM_TRACE_VALUE,  // inside a value of the outermost object that is of no interest, `depth` brackets deep
    FM_TRACE_EVENTS, // inside the array of events
    FM_TRACE_AFTER   // behind everything
};

struct fm_trace_reader {
    struct fm_trace_store *store;
    const char *name;
    int salvage;
    fm_gzip *stream;                 // NULL: from `file`, or from memory
    int file;                        // -1: from memory
    uint64_t file_at;                // where it is read next
    const char *memory, *memory_end; // what is left of it
    char *buffer;
    uint32_t *entries;
    size_t capacity, length;
    uint64_t base; // offset of the buffer in the whole text
    uint64_t stop; // events that begin here or behind are another reader's
    int ended;     // no more bytes follow the buffer
    int broken;    // salvaging: the stream failed there
    enum fm_trace_place place;
    int is_object;                     // the events are in an object's traceEvents
    size_t depth;                      // FM_TRACE_VALUE
    struct fm_trace_index_state state; // FM_TRACE_VALUE: carried from buffer to buffer
    int64_t base_ns;                   // baseTimeNanoseconds
    size_t indexed;                    // up to where `entries` are of the buffer
    fm_trace_index_kernel index;
    fm_trace_shape_kernel walk;
    struct fm_trace_shapes shapes;
};

/* A reader of nothing yet, at the beginning of a text. `name` stands for it in messages. */
void fm_trace_reader_init(struct fm_trace_reader *reader, struct fm_trace_store *store, const char *name);
/* Reads to the end of the text, or to the first event at or behind `stop`, whose offset `base` then is. */
FM_MUST_USE fm_status fm_trace_reader_run(struct fm_trace_reader *reader);
/* Lets a reader that has read nothing begin with the first whole event at or behind `file_at`, whose offset `base` then is;
 * at the end of the text when there is none. */
FM_MUST_USE fm_status fm_trace_reader_seek(struct fm_trace_reader *reader);
/* Frees its memory; what it reads from is the caller's. */
void fm_trace_reader_clear(struct fm_trace_reader *reader);

/* Reads a large plain file by `threads` threads, each a part of it. *out_done is 0, and the store as it was, when it has to be
 * read in one piece: it is small, compressed or no file, malformed (by several threads), or has events that belong together across parts. */
FM_MUST_USE fm_status fm_trace_read_parts(struct fm_trace_store *store, const char *path, int threads,
                                          int *out_done);

#endif
