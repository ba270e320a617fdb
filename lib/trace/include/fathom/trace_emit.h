/**
 * @file trace_emit.h
 * A writer of traces for any C or C++ program: this header alone, no library.
 *
 *     fm_trace_emit out;                                              // one for each thread
 *     if (fm_trace_emit_open(&out, "app.trace.json", "server", "worker 3") != 0)
 *         perror("app.trace.json");
 *     int64_t begin = fm_trace_emit_now();
 *     work();
 *     fm_trace_emit_span(&out, "work", "app", begin, fm_trace_emit_now());
 *     fm_trace_emit_close(&out);
 *
 * The file is a JSON array of Chrome trace events without its closing bracket, which readers of the format (and `fathom
 * trace`) do not need: threads and processes append to one file, 64 KiB at a time in whole events, and a program that
 * crashes leaves what it had flushed. Remove an old file first: opening appends.
 *
 * A span costs about 140 ns, of which 45 are the two readings of the clock and the rest is its text; once an emitter has failed,
 * a call costs a branch. Fathom's own spans (span.h) take 30 ns, because they become text later, in another thread.
 *
 * Needs POSIX (write with O_APPEND, clock_gettime). An emitter belongs to one thread at a time. Functions return 0, or an
 * errno value; after a failure they do nothing but return it again. Names are UTF-8 of any length; what JSON must escape is
 * escaped.
 */
#ifndef FATHOM_TRACE_EMIT_H
#define FATHOM_TRACE_EMIT_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Appends of up to this size are one write, so that those of several threads do not mix. */
#define FM_TRACE_EMIT_BYTES 65536

typedef struct fm_trace_emit {
    int fd;
    int error;
    int pid;
    long tid; /**< unique among the emitters of a process */
    int who_length;
    char who[64]; /**< what all its events have in common */
    size_t used;  /**< bytes in `buffer` */
    size_t whole; /**< of them in whole events */
    char buffer[FM_TRACE_EMIT_BYTES];
} fm_trace_emit;

/** Nanoseconds since 1970: comparable between machines as far as their clocks agree. */
static inline int64_t fm_trace_emit_now(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC); // C11's name for CLOCK_REALTIME, there in strict modes too
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/** Writes all whole events to the file. */
static inline int fm_trace_emit_flush(fm_trace_emit *out)
{
    size_t done = 0;
    while (!out->error && done < out->whole) {
        ssize_t wrote = write(out->fd, out->buffer + done, out->whole - done);
        if (wrote > 0)
            done += (size_t)wrote;
        else if (wrote == 0 || errno != EINTR)
            out->error = wrote == 0 ? EIO : errno;
    }
    memmove(out->buffer, out->buffer + done, out->used - done);
    out->used -= done;
    out->whole = 0;
    return out->error;
}

/** Private: appends bytes to the event in the making; an event that is longer than the buffer fails with EMSGSIZE. */
static inline void fm_trace_emit_put(fm_trace_emit *out, const char *bytes, size_t length)
{
    if (!out->error && FM_TRACE_EMIT_BYTES - out->used < length)
        fm_trace_emit_flush(out);
    if (!out->error && FM_TRACE_EMIT_BYTES - out->used < length)
        out->error = EMSGSIZE;
    if (out->error)
        return;
    memcpy(out->buffer + out->used, bytes, length);
    out->used += length;
}

/** Private: a string with its quotes. */
static inline void fm_trace_emit_string(fm_trace_emit *out, const char *text)
{
    fm_trace_emit_put(out, "\"", 1);
    for (;;) {
        char escaped[8];
        const char *plain = text;
        while ((unsigned char)*text >= 0x20 && *text != '"' && *text != '\\')
            text++;
        fm_trace_emit_put(out, plain, (size_t)(text - plain));
        if (!*text)
            break;
        snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)(unsigned char)*text++);
        fm_trace_emit_put(out, escaped, 6);
    }
    fm_trace_emit_put(out, "\"", 1);
}

/** Private: nanoseconds as microseconds with three digits behind the point. */
static inline void fm_trace_emit_time(fm_trace_emit *out, int64_t ns)
{
    char digits[24], *at = digits + sizeof digits;
    uint64_t left = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
    int count = 0;
    do { // from the last digit on; at least one in front of the point
        *--at = (char)('0' + left % 10);
        left /= 10;
        if (++count == 3)
            *--at = '.';
    } while (left > 0 || count < 4);
    if (ns < 0)
        *--at = '-';
    fm_trace_emit_put(out, at, (size_t)(digits + sizeof digits - at));
}

/** Private: the beginning of an event, up to its name. */
static inline void fm_trace_emit_begin(fm_trace_emit *out, char phase, const char *name, const char *category,
                                       int64_t at_ns)
{
    const char head[8] = {'{', '"', 'p', 'h', '"', ':', '"', phase};
    fm_trace_emit_put(out, head, sizeof head);
    fm_trace_emit_put(out, out->who, (size_t)out->who_length);
    fm_trace_emit_time(out, at_ns);
    fm_trace_emit_put(out, ",\"name\":", 8);
    fm_trace_emit_string(out, name);
    if (category) {
        fm_trace_emit_put(out, ",\"cat\":", 7);
        fm_trace_emit_string(out, category);
    }
}

/** Private: the end of an event. */
static inline int fm_trace_emit_end(fm_trace_emit *out)
{
    fm_trace_emit_put(out, "},\n", 3);
    if (!out->error)
        out->whole = out->used;
    return out->error;
}

/** Work from `begin_ns` to `end_ns` on this thread; spans of one thread nest. */
static inline int fm_trace_emit_span(fm_trace_emit *out, const char *name, const char *category,
                                     int64_t begin_ns, int64_t end_ns)
{
    if (out->error)
        return out->error;
    fm_trace_emit_begin(out, 'X', name, category, begin_ns);
    fm_trace_emit_put(out, ",\"dur\":", 7);
    fm_trace_emit_time(out, end_ns - begin_ns);
    return fm_trace_emit_end(out);
}

/** The value of a counter of this process from now on. */
static inline int fm_trace_emit_counter(fm_trace_emit *out, const char *name, double value)
{
    char rest[64];
    fm_trace_emit_begin(out, 'C', name, NULL, fm_trace_emit_now());
    int length = snprintf(rest, sizeof rest, ",\"args\":{\"value\":%.17g}", value - value == 0 ? value : 0.0);
    fm_trace_emit_put(out, rest, (size_t)length);
    return fm_trace_emit_end(out);
}

/** One end of an arrow, from the span around it at its begin to the one around it at its end, with one name and ID. */
static inline int fm_trace_emit_flow(fm_trace_emit *out, int is_end, const char *name, uint64_t id)
{
    char rest[64];
    fm_trace_emit_begin(out, is_end ? 'f' : 's', name, "flow", fm_trace_emit_now());
    int length = snprintf(rest, sizeof rest, ",\"id\":\"0x%llx\"%s", (unsigned long long)id,
                          is_end ? ",\"bp\":\"e\"" : "");
    fm_trace_emit_put(out, rest, (size_t)length);
    return fm_trace_emit_end(out);
}

/** Private: a name of the process or the thread. */
static inline void fm_trace_emit_name(fm_trace_emit *out, const char *what, const char *name)
{
    fm_trace_emit_begin(out, 'M', what, NULL, 0);
    fm_trace_emit_put(out, ",\"args\":{\"name\":", 16);
    fm_trace_emit_string(out, name);
    fm_trace_emit_put(out, "}", 1);
    fm_trace_emit_end(out);
}

/** Opens the file, or creates it. Either name may be NULL. */
static inline int fm_trace_emit_open(fm_trace_emit *out, const char *path, const char *process,
                                     const char *thread)
{
    memset(out, 0, sizeof *out - sizeof out->buffer);
    out->pid = (int)getpid();
    out->tid = (long)((uintptr_t)out / sizeof(void *) % 1000000007);
    out->who_length =
        snprintf(out->who, sizeof out->who, "\",\"pid\":%d,\"tid\":%ld,\"ts\":", out->pid, out->tid);
    // Whoever creates the file writes the bracket that begins it.
    out->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND, 0666);
    int is_new = out->fd >= 0;
    if (!is_new)
        out->fd = open(path, O_WRONLY | O_APPEND);
    if (out->fd < 0)
        return out->error = errno;
    fcntl(out->fd, F_SETFD, FD_CLOEXEC); // strict C11 hides O_CLOEXEC
    if (is_new) {
        fm_trace_emit_put(out, "[\n", 2);
        out->whole = 2;
        fm_trace_emit_flush(out);
    }
    if (process)
        fm_trace_emit_name(out, "process_name", process);
    if (thread)
        fm_trace_emit_name(out, "thread_name", thread);
    return out->error;
}

/** Flushes and closes. */
static inline int fm_trace_emit_close(fm_trace_emit *out)
{
    int error = fm_trace_emit_flush(out);
    if (out->fd >= 0 && close(out->fd) != 0 && !error)
        error = errno;
    out->fd = -1;
    out->error = error ? error : EBADF;
    return error;
}

#ifdef __cplusplus
}
#endif
#endif
