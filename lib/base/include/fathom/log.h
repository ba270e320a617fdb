/**
 * @file log.h
 * The log: what the operator of a program should know, one line each on standard error.
 *
 *     2026-01-31T12:34:56.789Z warn  net: peer 10.0.0.7:4000 sent no heartbeat for 5 s
 *
 * Libraries log and never print; results and errors go to the caller instead (fm_base_error_set). Error: something the
 * program was asked for was lost. Warn: it went on, but someone should look. Info: state that changes rarely. Debug: for
 * whoever works on the library.
 *
 * The environment variable FM_LOG sets what is shown, `level` or `library=level`, comma-separated:
 *
 *     FM_LOG=info            FM_LOG=warn,net=debug            FM_LOG=off
 *
 * The default is warn. A value that is wrong is reported once and otherwise ignored.
 *
 * Any thread may log. A line is one write(), so that lines of threads and processes do not mix. A level that no library
 * has on costs one load and one branch. Logging keeps errno and the thread's error message.
 */
#ifndef FATHOM_LOG_H
#define FATHOM_LOG_H

#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_log_level {
    FM_LOG_OFF, /**< shows nothing; not a level of a line */
    FM_LOG_ERROR,
    FM_LOG_WARN,
    FM_LOG_INFO,
    FM_LOG_DEBUG
} fm_log_level;

/** Private: the highest level that any library has on; FM_LOG_DEBUG until FM_LOG has been read. */
extern FM_API int fm_base_log_highest;
/** Private: writes the line if its library has this level on. */
FM_API void fm_base_log_write(fm_log_level level, const char *library, const char *format, ...)
    FM_PRINTF(3, 4);

/** fm_log_at(FM_LOG_INFO, "net", "listening on %s", address): the arguments are evaluated only when the level may be on.
 * The text is made safe by fm_base_text_clean() and cut at 1023 bytes. */
#define fm_log_at(level, library, ...)                                                                    \
    do {                                                                                                  \
        /* Relaxed: a thread may see a change of level late. */                                           \
        if (__builtin_expect(__atomic_load_n(&fm_base_log_highest, __ATOMIC_RELAXED) >= (int)(level), 0)) \
            fm_base_log_write(level, library, __VA_ARGS__);                                               \
    } while (0)
#define fm_log_error(library, ...) fm_log_at(FM_LOG_ERROR, library, __VA_ARGS__)
#define fm_log_warn(library, ...)  fm_log_at(FM_LOG_WARN, library, __VA_ARGS__)
#define fm_log_info(library, ...)  fm_log_at(FM_LOG_INFO, library, __VA_ARGS__)
#define fm_log_debug(library, ...) fm_log_at(FM_LOG_DEBUG, library, __VA_ARGS__)

/** Sets levels as FM_LOG does, in place of what it said ("" or NULL: the default). FM_ERR_ARG: what is wrong, and no level
 * has changed; FM_ERR_LIMIT: more than 32 libraries, or a name longer than 15 bytes. */
FM_API FM_MUST_USE fm_status fm_base_log_configure(const char *levels);

/** A line as a sink sees it; valid during the call. */
typedef struct fm_log_line {
    uint64_t unix_ns; /**< fm_base_clock_unix_ns() */
    fm_log_level level;
    const char *library;
    const char *text; /**< without the newline */
} fm_log_line;

/** Takes a line; calls come one at a time. What a sink itself logs goes to standard error. */
typedef void (*fm_log_sink)(void *context, const fm_log_line *line);

/** Sends lines to `sink` instead of standard error; NULL: back. When it returns, the sink before is not running any more
 * and will not be called again. Must not be called from a sink. */
FM_API void fm_base_log_set_sink(fm_log_sink sink, void *context);

#ifdef __cplusplus
}
#endif
#endif
