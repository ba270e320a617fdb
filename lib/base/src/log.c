#include "fathom/log.h"

#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fathom/text.h"
#include "log_line.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
    TEXT_BYTES = 1024, // as much as an error message, which lines often carry
    LIBRARIES_MAX = 32,
    NAME_BYTES = 16,
};

static const char *const level_names[] = {"off", "error", "warn", "info", "debug"};

struct levels {
    fm_log_level others; // of libraries that have no level of their own
    int count;
    struct {
        char library[NAME_BYTES];
        fm_log_level level;
    } own[LIBRARIES_MAX];
};

int fm_base_log_highest = FM_LOG_DEBUG;

static pthread_once_t environment_read = PTHREAD_ONCE_INIT;
static pthread_mutex_t levels_lock = PTHREAD_MUTEX_INITIALIZER;
static struct levels levels_now; // guarded by levels_lock

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static fm_log_sink sink_now; // guarded by sink_lock, as its context
static void *sink_context;
static _Thread_local int in_sink;

// Relaxed: where a line and a bar cross, the terminal shows one of them late.
static atomic_int bar_stands;

void fm_base_log_bar(int stands)
{
    atomic_store_explicit(&bar_stands, stands, memory_order_relaxed);
}

void fm_base_log_put(int fd, const char *text, size_t length)
{
    int saved = errno;
    while (length > 0) {
        ssize_t wrote = write(fd, text, length);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            break;
        text += wrote;
        length -= (size_t)wrote;
    }
    errno = saved;
}

static fm_status parse_level(const char *text, size_t length, fm_log_level *out_level)
{
    for (int i = 0; i <= FM_LOG_DEBUG; i++) {
        if (strlen(level_names[i]) == length && memcmp(level_names[i], text, length) == 0) {
            *out_level = (fm_log_level)i;
            return FM_OK;
        }
    }
    return fm_base_error_set(FM_ERR_ARG, "log level \"%.*s\"; expected off, error, warn, info or debug",
                             (int)length, text);
}

/* One element of the list: "level" or "library=level". */
static fm_status parse_element(const char *text, size_t length, struct levels *levels)
{
    const char *equals = memchr(text, '=', length);
    if (!equals)
        return parse_level(text, length, &levels->others);
    size_t name_length = (size_t)(equals - text);
    fm_log_level level;
    FM_TRY(parse_level(equals + 1, length - name_length - 1, &level));
    if (name_length == 0)
        return fm_base_error_set(FM_ERR_ARG, "log level \"%.*s\": expected a library before \"=\"",
                                 (int)length, text);
    if (levels->count == LIBRARIES_MAX || name_length >= NAME_BYTES)
        return fm_base_error_set(
            FM_ERR_LIMIT,
            "log level of \"%.*s\": expected at most %d libraries with names of at most %d bytes",
            (int)name_length, text, LIBRARIES_MAX, NAME_BYTES - 1);
    memcpy(levels->own[levels->count].library, text, name_length);
    levels->own[levels->count++].level = level;
    return FM_OK;
}

static fm_status parse_levels(const char *text, struct levels *out_levels)
{
    struct levels levels = {.others = FM_LOG_WARN};
    while (text && *text) {
        size_t length = strcspn(text, ",");
        if (length > 0)
            FM_TRY(parse_element(text, length, &levels));
        text += length + (text[length] == ',');
    }
    *out_levels = levels;
    return FM_OK;
}

static void set_levels(const struct levels *levels)
{
    int highest = levels->others;
    for (int i = 0; i < levels->count; i++)
        if ((int)levels->own[i].level > highest)
            highest = (int)levels->own[i].level;
    pthread_mutex_lock(&levels_lock);
    levels_now = *levels;
    pthread_mutex_unlock(&levels_lock);
    __atomic_store_n(&fm_base_log_highest, highest, __ATOMIC_RELAXED);
}

static void emit(fm_log_level level, const char *library, char *text);

static void read_environment(void)
{
    struct levels levels = {.others = FM_LOG_WARN};
    // The caller may be about to read the thread's message.
    char message[TEXT_BYTES];
    snprintf(message, sizeof message, "%s", fm_base_error_message());
    fm_status status = parse_levels(getenv("FM_LOG"), &levels);
    set_levels(&levels);
    if (status < 0) {
        char text[TEXT_BYTES + 16];
        snprintf(text, sizeof text, "FM_LOG: %s", fm_base_error_message());
        emit(FM_LOG_ERROR, "base", text);
        fm_base_error_set(status, "%s", message);
    }
}

fm_status fm_base_log_configure(const char *levels)
{
    struct levels parsed;
    FM_TRY(parse_levels(levels, &parsed));
    // Read first, so that it cannot replace these later.
    pthread_once(&environment_read, read_environment);
    set_levels(&parsed);
    return FM_OK;
}

static fm_log_level level_of(const char *library)
{
    pthread_mutex_lock(&levels_lock);
    fm_log_level level = levels_now.others;
    for (int i = 0; i < levels_now.count; i++) // the last word on a library counts
        if (strcmp(levels_now.own[i].library, library) == 0)
            level = levels_now.own[i].level;
    pthread_mutex_unlock(&levels_lock);
    return level;
}

static void write_line(const fm_log_line *line)
{
    time_t seconds = (time_t)(line->unix_ns / 1000000000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    char text[TEXT_BYTES + 128];
    // "\r\033[K" clears the bar's line.
    int length =
        snprintf(text, sizeof text, "%s%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %-5s %s: %s\n",
                 atomic_load_explicit(&bar_stands, memory_order_relaxed) ? "\r\033[K" : "",
                 utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                 (int)(line->unix_ns / 1000000 % 1000), level_names[line->level], line->library, line->text);
    if ((size_t)length >= sizeof text) { // a library's name longer than any of ours
        length = sizeof text - 1;
        text[length - 1] = '\n';
    }
    fm_base_log_put(STDERR_FILENO, text, (size_t)length);
}

static void emit(fm_log_level level, const char *library, char *text)
{
    fm_base_text_clean(text);
    fm_log_line line = {fm_base_clock_unix_ns(), level, library, text};
    if (!in_sink) {
        pthread_mutex_lock(&sink_lock);
        fm_log_sink sink = sink_now;
        if (sink) {
            in_sink = 1;
            sink(sink_context, &line);
            in_sink = 0;
        }
        pthread_mutex_unlock(&sink_lock);
        if (sink)
            return;
    }
    write_line(&line);
}

void fm_base_log_write(fm_log_level level, const char *library, const char *format, ...)
{
    int saved = errno;
    pthread_once(&environment_read, read_environment);
    if (level_of(library) >= level) {
        char text[TEXT_BYTES];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        emit(level, library, text);
    }
    errno = saved;
}

void fm_base_log_set_sink(fm_log_sink sink, void *context)
{
    pthread_mutex_lock(&sink_lock);
    sink_now = sink;
    sink_context = context;
    pthread_mutex_unlock(&sink_lock);
}
