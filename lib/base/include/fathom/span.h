/**
 * @file span.h
 * Spans: what each thread did and when, recorded by any library, read by one reader, free of locks.
 *
 *     fm_status fm_ep_dispatch(...)
 *     {
 *         FM_SPAN_ARGS(span, "dispatch", "ep", "tokens", "bytes");
 *         span.args[0] = tokens;
 *         ...
 *         FM_TRY(something(...));          // the span ends wherever its scope does
 *         span.args[1] = bytes;
 *         return FM_OK;
 *     }
 *
 * Off, which is the default, a span costs one relaxed load and one predicted branch (under 1 ns). On, it
 * costs two reads of the processor's time-stamp counter and the writing of one record (about 30 ns) into a
 * ring of fixed size that belongs to the thread. A full ring drops records, counted, and never waits. Nothing
 * is printed or written to disk here: a reader calls fm_base_span_drain() from time to time (`trace` merges
 * what it yields into one file for all ranks).
 *
 * Names, categories and argument names are string literals, or otherwise live until their records are
 * drained; a library that is unloaded has been drained before. Compare them as strings: one name may have
 * several addresses. All times are those of fm_base_clock_ns(), which is one clock for all processes of a
 * machine; fm_base_clock_unix_ns() read beside it relates machines.
 *
 * Any thread may record. A span belongs to the thread that began it. After fork() the child starts with empty
 * rings; the records made before stay the parent's.
 */
#ifndef FATHOM_SPAN_H
#define FATHOM_SPAN_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What a record is; the letters are the phases of the Chrome trace format that they become. */
typedef enum fm_span_kind {
    FM_SPAN_KIND_SPAN = 1,   /**< X: from begin to end; spans of one thread nest */
    FM_SPAN_KIND_INSTANT,    /**< i: a moment */
    FM_SPAN_KIND_COUNTER,    /**< C: from now on, args[0] is the value */
    FM_SPAN_KIND_FLOW_BEGIN, /**< s: an arrow leaves the enclosing span; args[0] is its ID */
    FM_SPAN_KIND_FLOW_END /**< f: the arrow with this name, category and ID arrives in the enclosing span */
} fm_span_kind;

/** The place in the source that records: constant, shared by all its records. */
typedef struct fm_span_site {
    fm_span_kind kind;
    const char *name;         /**< "dispatch" */
    const char *category;     /**< the library or phase: "ep"; NULL for none */
    const char *arg_names[2]; /**< NULL: the argument is not there */
} fm_span_site;

/** A span that has begun. Set `args` any time before it ends. */
typedef struct fm_span {
    const fm_span_site *site;
    uint64_t begin; /**< private; 0: not recorded */
    int64_t args[2];
} fm_span;

/** Private: not 0 while recording is on. */
extern FM_API uint32_t fm_base_span_state;
/** Private: the stamp of this moment; 0 when recording has just been turned off. */
FM_API uint64_t fm_base_span_now(void);
/** Private: writes a record that ends now. */
FM_API void fm_base_span_write(const fm_span_site *site, uint64_t begin, int64_t arg_0, int64_t arg_1);

/** True while recording is on: for arguments that take work to compute. */
static inline int fm_span_on(void)
{
    // Relaxed: a thread may notice the change late, and then records a little less or more. What recording
    // needs was set up before; fm_base_span_now() loads the state again, with acquire, before anything else
    // of it is read.
    return __builtin_expect(__atomic_load_n(&fm_base_span_state, __ATOMIC_RELAXED) != 0, 0);
}

/** Begins a span; what FM_SPAN does, for spans that do not end with a scope. `site->kind` is
 * FM_SPAN_KIND_SPAN. */
static inline fm_span fm_span_begin(const fm_span_site *site)
{
    fm_span span = {site, 0, {0, 0}};
    if (fm_span_on())
        span.begin = fm_base_span_now();
    return span;
}

/** Ends a span. Once ended, ending it again does nothing, so that a scope may end its span early. */
static inline void fm_span_end(fm_span *span)
{
    if (__builtin_expect(span->begin != 0, 0)) {
        fm_base_span_write(span->site, span->begin, span->args[0], span->args[1]);
        span->begin = 0;
    }
}

/** Declares and begins a span with two named integer arguments (NULL for none); it ends with the scope. */
#define FM_SPAN_ARGS(span, name, category, arg_name_0, arg_name_1)                                         \
    static const fm_span_site span##_site = {FM_SPAN_KIND_SPAN, name, category, {arg_name_0, arg_name_1}}; \
    fm_span span __attribute__((cleanup(fm_span_end), unused)) = fm_span_begin(&span##_site)

/** Declares and begins a span without arguments; it ends with the scope. */
#define FM_SPAN(span, name, category) FM_SPAN_ARGS(span, name, category, NULL, NULL)

/** Private: records a moment with one value. */
#define FM_SPAN_MARK_(kind, name, category, arg_name, value)                                    \
    do {                                                                                        \
        if (fm_span_on()) {                                                                     \
            static const fm_span_site fm_span_site_ = {kind, name, category, {arg_name, NULL}}; \
            fm_base_span_write(&fm_span_site_, 0, (int64_t)(value), 0);                         \
        }                                                                                       \
    } while (0)

/** Records a moment, with one named argument (NULL for none). The value is computed only when recording is
 * on. */
#define FM_SPAN_INSTANT(name, category, arg_name, value) \
    FM_SPAN_MARK_(FM_SPAN_KIND_INSTANT, name, category, arg_name, value)
/** Records that the counter `name` of this rank has this value from now on. */
#define FM_SPAN_COUNTER(name, category, value) \
    FM_SPAN_MARK_(FM_SPAN_KIND_COUNTER, name, category, "value", value)
/** An arrow between ranks or threads: the sender records its begin and the receiver its end, each inside a
 * span of its own, with equal name and category and a 64-bit ID that no other arrow of the run has. */
#define FM_SPAN_FLOW_BEGIN(name, category, id) \
    FM_SPAN_MARK_(FM_SPAN_KIND_FLOW_BEGIN, name, category, "id", id)
#define FM_SPAN_FLOW_END(name, category, id) FM_SPAN_MARK_(FM_SPAN_KIND_FLOW_END, name, category, "id", id)

/**
 * Turns recording on. A thread's ring is allocated at its first record, for `records_per_thread` records of
 * 40 bytes, rounded up to a power of two (0: 16384, which at 100,000 records a second lasts 160 ms between
 * drains); rings that exist keep their size. FM_ERR_ARG above 2^24; FM_ERR_NOMEM when the system has no
 * thread key left.
 *
 * Stamps come from the processor's time-stamp counter where the kernel itself keeps time by it, else (or with
 * FM_SPAN_CLOCK=monotonic in the environment) from CLOCK_MONOTONIC, which takes about 12 ns longer a read.
 */
FM_API FM_MUST_USE fm_status fm_base_span_enable(size_t records_per_thread);
/** Turns recording off. Spans that have begun are still recorded when they end; what is recorded stays to be
 * drained. */
FM_API void fm_base_span_disable(void);

/** The rank of every thread that has none of its own; 0 at first. For programs that are one rank. */
FM_API void fm_base_span_set_rank(int rank);
/** Names the calling thread and its rank; -1: the process's. Applies to what it recorded before, too, where
 * that is not drained yet. A NULL name is the thread's name in the system, as without this call; names are
 * cut at 31 bytes. */
FM_API void fm_base_span_set_thread(int rank, const char *name);
/** Gives the calling thread's ring to the reader, which frees it once it is drained, as the end of the thread
 * does. The thread's next record begins a new ring. For the main thread, and for pools that fall idle for
 * long. */
FM_API void fm_base_span_release_thread(void);

/** A record as the reader sees it. */
typedef struct fm_span_event {
    const fm_span_site *site;
    const char *thread_name; /**< valid during the call */
    int rank;
    int thread;        /**< the kernel's thread ID */
    uint64_t begin_ns; /**< in the time of fm_base_clock_ns() */
    uint64_t end_ns;   /**< equal to begin_ns for all but spans */
    int64_t args[2];
} fm_span_event;

/** Takes one event; anything but FM_OK stops the drain and leaves the event in its ring. May record spans
 * itself; must return (not jump away), and must neither drain nor fork. */
typedef fm_status (*fm_span_sink)(void *context, const fm_span_event *event);

/**
 * Takes all records out of all rings, those of ended threads included, and frees the rings of threads that
 * have ended. Threads come in the order of their first record; the records of one thread in the order in
 * which they were written, which is that of their ends, so that inner spans come before the span around them.
 * Recording goes on meanwhile; what is written during the drain may come with the next. Any thread may drain;
 * drains of several threads take turns. The first drain may sleep up to 10 ms to measure the rate of the
 * time-stamp counter. Fails only when the sink does.
 */
FM_API FM_MUST_USE fm_status fm_base_span_drain(fm_span_sink sink, void *context);

/** Records lost so far in the whole process because a ring was full or could not be allocated. */
FM_API uint64_t fm_base_span_dropped(void);

#ifdef __cplusplus
}
#endif
#endif
