/**
 * @file trace_emit.h
 * A writer of traces for any C or C++ program: this header alone, no library.
 *
 *     fm_trace_emit out;                                              // one for each thread
 *     if (fm_trace_emit_open(&out, "app.trace.json", "server", "worker 3") != 0)
 *         perror("app.trace.json");
 *     uint64_t begin = fm_trace_emit_now(&out);
 *     work();
 *     fm_trace_emit_span(&out, "work", "app", begin, fm_trace_emit_now(&out));
 *     fm_trace_emit_close(&out);
 *
 * The file is a JSON array of Chrome trace events without its closing bracket, which readers of the format (and `fathom
 * trace`) do not need: threads and processes append to one file, up to 64 KiB at a time in whole events, and a program that
 * crashes leaves what it had flushed. Remove an old file first: opening appends.
 *
 * A call makes a record of 32 bytes; the records become text when 2048 of them are full, and when the program says so with
 * fm_trace_emit_flush(), at best where nobody waits for it. A span costs about 20 ns, nearly all of which are the two
 * readings of the clock, and then about 60 ns in the flush. Once an emitter has failed or is closed, all calls cost a branch.
 *
 * Names and categories are string literals, or live until the emitter is flushed. They are UTF-8; what JSON must escape is
 * escaped.
 *
 * Needs POSIX (write with O_APPEND). An emitter belongs to one thread at a time. Functions return 0, or an errno value; after a
 * failure they do nothing but return it again.
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
#define FM_TRACE_EMIT_BYTES   65536
#define FM_TRACE_EMIT_RECORDS 2048

/** Private: an event before it is text. */
typedef struct fm_trace_emit_record {
    const char *name;
    const char *category; /* of a span; it may be NULL */
    uint64_t at;
    union {
        uint64_t end; /* X */
        double value; /* C */
        uint64_t id;  /* s, f */
    } more;
} fm_trace_emit_record;

typedef struct fm_trace_emit {
    int fd;
    int error;     /**< not 0: off */
    int has_ticks; /**< stamps are of the processor's counter, else nanoseconds since 1970 */
    int pid;
    long tid; /**< unique among the emitters of a process */
    uint64_t open_ticks;
    int64_t open_ns;
    int who_length;
    char who[64];                       /**< what all its events have in common */
    size_t count;                       /**< of `records` */
    size_t used;                        /**< bytes in `text`, all of whole events */
    char phases[FM_TRACE_EMIT_RECORDS]; /**< of the records; an 'x' is a span in nanoseconds since 1970 */
    fm_trace_emit_record records[FM_TRACE_EMIT_RECORDS];
    char text[FM_TRACE_EMIT_BYTES];
} fm_trace_emit;

/** Private: nanoseconds since 1970. */
static inline int64_t fm_trace_emit_unix_ns(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC); // C11's name for CLOCK_REALTIME, there in strict modes too
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/** Private: the processor's counter. */
static inline uint64_t fm_trace_emit_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/** Private: the counter and the calendar at one moment. Of a few readings the one that took least counts: a thread may be
 * put to sleep between the two. */
static inline void fm_trace_emit_anchor(uint64_t *out_ticks, int64_t *out_ns)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 4; i++) {
        uint64_t before = fm_trace_emit_ticks();
        int64_t ns = fm_trace_emit_unix_ns();
        uint64_t took = fm_trace_emit_ticks() - before;
        if (took < least) {
            least = took;
            *out_ticks = before + took / 2;
            *out_ns = ns;
        }
    }
}

/** A stamp of this moment, for spans of this emitter; 0 when it is off. */
static inline uint64_t fm_trace_emit_now(const fm_trace_emit *out)
{
    if (out->error)
        return 0;
    return out->has_ticks ? fm_trace_emit_ticks() : (uint64_t)fm_trace_emit_unix_ns();
}

/** Private: writes the text to the file. */
static inline int fm_trace_emit_write(fm_trace_emit *out)
{
    size_t done = 0;
    while (!out->error && done < out->used) {
        ssize_t wrote = write(out->fd, out->text + done, out->used - done);
        if (wrote > 0)
            done += (size_t)wrote;
        else if (wrote == 0 || errno != EINTR)
            out->error = wrote == 0 ? EIO : errno;
    }
    out->used = 0;
    return out->error;
}

/** Private: `length` bytes; returns their end. */
static inline char *fm_trace_emit_copy(char *to, const char *from, size_t length)
{
    memcpy(to, from, length);
    return to + length;
}

/** Private: `text` at `to`, with its quotes. Returns the end: up to six bytes for each of the text's and two more. */
static inline char *fm_trace_emit_string(char *to, const char *text)
{
    *to++ = '"';
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c >= 0x20 && c != '"' && c != '\\') {
            *to++ = *text;
        } else {
            static const char digits[] = "0123456789abcdef";
            to = fm_trace_emit_copy(to, "\\u00", 4);
            *to++ = digits[c >> 4];
            *to++ = digits[c & 15];
        }
    }
    *to++ = '"';
    return to;
}

/** Private: nanoseconds as microseconds with three digits behind the point: up to 24 bytes. */
static inline char *fm_trace_emit_time(char *to, int64_t ns)
{
    static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    char digits[24], *at = digits + sizeof digits;
    uint64_t us = (ns < 0 ? -(uint64_t)ns : (uint64_t)ns) / 1000;
    unsigned part = (unsigned)((ns < 0 ? -(uint64_t)ns : (uint64_t)ns) % 1000);
    *--at = (char)('0' + part % 10);
    memcpy(at -= 2, pairs + part / 10 * 2, 2);
    *--at = '.';
    while (us >= 100) { // two digits at a time, from the last ones on
        memcpy(at -= 2, pairs + us % 100 * 2, 2);
        us /= 100;
    }
    if (us >= 10)
        memcpy(at -= 2, pairs + us * 2, 2);
    else
        *--at = (char)('0' + us);
    if (ns < 0)
        *--at = '-';
    memcpy(to, at, (size_t)(digits + sizeof digits - at));
    return to + (digits + sizeof digits - at);
}

/** Private: an event's text, with room made for it; `length` is that of what `more` says behind its name. */
static inline int fm_trace_emit_event(fm_trace_emit *out, char phase, const char *name, const char *category,
                                      int64_t at_ns, const char *more, size_t length)
{
    // Every byte of a name may take six; what is between the names is less than 200 bytes long.
    size_t room = 200 + 6 * (strlen(name) + (category ? strlen(category) : 0)) + length;
    if (room > FM_TRACE_EMIT_BYTES)
        return out->error = EMSGSIZE;
    if (room > FM_TRACE_EMIT_BYTES - out->used && fm_trace_emit_write(out))
        return out->error;
    char *to = out->text + out->used;
    to = fm_trace_emit_copy(to, "{\"ph\":\"", 7);
    *to++ = phase;
    memcpy(to, out->who, sizeof out->who); // all of it: one copy of known size
    to = fm_trace_emit_time(to + out->who_length, at_ns);
    to = fm_trace_emit_string(fm_trace_emit_copy(to, ",\"name\":", 8), name);
    if (category)
        to = fm_trace_emit_string(fm_trace_emit_copy(to, ",\"cat\":", 7), category);
    to = fm_trace_emit_copy(to, more, length);
    to = fm_trace_emit_copy(to, "},\n", 3);
    out->used = (size_t)(to - out->text);
    return 0;
}

/** Private: a record as text. Stamps are counted back from now, at the counter's rate since the emitter was opened. */
static inline int fm_trace_emit_format(fm_trace_emit *out, size_t i, uint64_t now_ticks, int64_t now_ns,
                                       double rate)
{
    const fm_trace_emit_record *record = &out->records[i];
    char phase = out->phases[i], more[64];
    int is_ticks = out->has_ticks && phase != 'x', length = 0;
    int64_t at =
        is_ticks ? now_ns - (int64_t)((double)(int64_t)(now_ticks - record->at) * rate) : (int64_t)record->at;
    if (phase == 'X' || phase == 'x') {
        int64_t took = (int64_t)(record->more.end - record->at);
        char *end = fm_trace_emit_time(fm_trace_emit_copy(more, ",\"dur\":", 7),
                                       is_ticks ? (int64_t)((double)took * rate) : took);
        length = (int)(end - more);
        phase = 'X';
    } else if (phase == 'C') {
        double value = record->more.value;
        length = snprintf(more, sizeof more, ",\"args\":{\"value\":%.17g}", value - value == 0 ? value : 0.0);
    } else {
        length = snprintf(more, sizeof more, ",\"id\":\"0x%llx\"%s", (unsigned long long)record->more.id,
                          phase == 'f' ? ",\"bp\":\"e\"" : "");
    }
    return fm_trace_emit_event(out, phase, record->name, record->category, at, more, (size_t)length);
}

/** Writes all events to the file. */
static inline int fm_trace_emit_flush(fm_trace_emit *out)
{
    uint64_t ticks = 0;
    int64_t ns = 0;
    fm_trace_emit_anchor(&ticks, &ns);
    double rate =
        ticks > out->open_ticks ? (double)(ns - out->open_ns) / (double)(ticks - out->open_ticks) : 0;
    for (size_t i = 0; i < out->count && !out->error; i++)
        fm_trace_emit_format(out, i, ticks, ns, rate);
    out->count = 0;
    return fm_trace_emit_write(out);
}

/** Private: takes a record. */
static inline int fm_trace_emit_put(fm_trace_emit *out, char phase, const char *name, const char *category,
                                    uint64_t at, uint64_t more)
{
    if (out->error)
        return out->error;
    fm_trace_emit_record *record = &out->records[out->count];
    record->name = name;
    record->category = category;
    record->at = at;
    record->more.end = more;
    out->phases[out->count] = phase;
    return ++out->count == FM_TRACE_EMIT_RECORDS ? fm_trace_emit_flush(out) : 0;
}

/** Work between two stamps on this thread; spans of one thread nest. `category` may be NULL. */
static inline int fm_trace_emit_span(fm_trace_emit *out, const char *name, const char *category,
                                     uint64_t begin, uint64_t end)
{
    return fm_trace_emit_put(out, 'X', name, category, begin, end);
}

/** The same with times of the program's own, in nanoseconds since 1970: what a device did, say. */
static inline int fm_trace_emit_span_at(fm_trace_emit *out, const char *name, const char *category,
                                        int64_t begin_ns, int64_t end_ns)
{
    return fm_trace_emit_put(out, 'x', name, category, (uint64_t)begin_ns, (uint64_t)end_ns);
}

/** The value of a counter of this process from now on. */
static inline int fm_trace_emit_counter(fm_trace_emit *out, const char *name, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return fm_trace_emit_put(out, 'C', name, NULL, fm_trace_emit_now(out), bits);
}

/** One end of an arrow, from the span around it at its begin to the one around it at its end, with one name and ID. */
static inline int fm_trace_emit_flow(fm_trace_emit *out, int is_end, const char *name, uint64_t id)
{
    return fm_trace_emit_put(out, is_end ? 'f' : 's', name, "flow", fm_trace_emit_now(out), id);
}

/** Private: a name of the process or the thread. */
static inline void fm_trace_emit_name(fm_trace_emit *out, const char *what, const char *name)
{
    char more[1024] = ",\"args\":{\"name\":", shortened[128];
    snprintf(shortened, sizeof shortened, "%s", name);
    char *end = fm_trace_emit_string(more + strlen(more), shortened);
    *end++ = '}';
    fm_trace_emit_event(out, 'M', what, NULL, 0, more, (size_t)(end - more));
}

/** Private: whether the kernel trusts the processor's counter: it is steady, and the same on all processors. */
static inline int fm_trace_emit_trusts_ticks(void)
{
    char name[8] = "";
#if defined(__x86_64__) && defined(__linux__)
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY);
    if (fd >= 0) {
        if (read(fd, name, sizeof name - 1) < 0)
            name[0] = 0;
        close(fd);
    }
#endif
    return strcmp(name, "tsc\n") == 0;
}

/** Opens the file, or creates it. Either name may be NULL; of one the first 127 bytes are kept. */
static inline int fm_trace_emit_open(fm_trace_emit *out, const char *path, const char *process,
                                     const char *thread)
{
    memset(out, 0, sizeof *out);
    out->pid = (int)getpid();
    out->tid = (long)((uintptr_t)out / sizeof(void *) % 1000000007);
    out->who_length =
        snprintf(out->who, sizeof out->who, "\",\"pid\":%d,\"tid\":%ld,\"ts\":", out->pid, out->tid);
    out->has_ticks = fm_trace_emit_trusts_ticks();
    fm_trace_emit_anchor(&out->open_ticks, &out->open_ns);
    // Whoever creates the file writes the bracket that begins it.
    out->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND, 0666);
    int is_new = out->fd >= 0;
    if (!is_new)
        out->fd = open(path, O_WRONLY | O_APPEND);
    if (out->fd < 0)
        return out->error = errno;
    fcntl(out->fd, F_SETFD, FD_CLOEXEC); // strict C11 hides O_CLOEXEC
    if (is_new) {
        fm_trace_emit_copy(out->text, "[\n", 2);
        out->used = 2;
        fm_trace_emit_write(out);
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
