#include "fathom/trace_write.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/span.h"
#include "json_text.h"
#include "store.h"

static const char tail[] = "\n]}\n";

struct fm_trace_writer {
    int fd;
    char *path;
    uint64_t length;  // of the file without its closing brackets
    uint64_t base_ns; // in the time of fm_base_clock_ns(): what times are relative to
    int has_events;
    struct fm_trace_text text; // not written yet
    struct fm_trace_map named; // (rank, thread): number of the last name written
    struct fm_trace_text_pool names;
};

/* Writes what is in the buffer, and the closing brackets, which the next call overwrites. */
static fm_status flush(fm_trace_writer *writer)
{
    size_t events = writer->text.length, done = 0;
    fm_trace_text_put(&writer->text, tail, sizeof tail - 1);
    if (writer->text.status < 0)
        return writer->text.status;
    while (done < writer->text.length) {
        ssize_t wrote = pwrite(writer->fd, writer->text.at + done, writer->text.length - done,
                               (off_t)(writer->length + done));
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return fm_base_file_error(errno, "cannot write %s", writer->path);
        done += (size_t)wrote;
    }
    writer->length += events;
    writer->text.length = 0;
    return FM_OK;
}

static void begin_event(fm_trace_writer *writer, char phase, int rank, int thread)
{
    fm_trace_text_format(&writer->text, "%s{\"ph\":\"%c\",\"pid\":%d,\"tid\":%d",
                         writer->has_events ? ",\n" : "", phase, rank, thread);
    writer->has_events = 1;
}

static void name_track(fm_trace_writer *writer, const char *what, int rank, int thread, const char *name)
{
    begin_event(writer, 'M', rank, thread);
    fm_trace_text_format(&writer->text, ",\"name\":\"%s\",\"args\":{\"name\":", what);
    fm_trace_text_string(&writer->text, name);
    fm_trace_text_put(&writer->text, "}}", 2);
}

/* Names the rank and the thread where they are new or have a new name. */
static fm_status describe(fm_trace_writer *writer, const fm_span_event *event)
{
    uint32_t name, *known_name;
    int known;
    FM_TRY(fm_trace_pool_intern(&writer->names, event->thread_name, strlen(event->thread_name), &name));
    FM_TRY(
        fm_trace_map_put(&writer->named, (uint64_t)event->rank, (uint64_t)1 << 32, 0, &known_name, &known));
    if (!known) {
        begin_event(writer, 'M', event->rank, 0);
        fm_trace_text_format(&writer->text, ",\"name\":\"process_name\",\"args\":{\"name\":\"rank %d\"}}",
                             event->rank);
        begin_event(writer, 'M', event->rank, 0);
        fm_trace_text_format(&writer->text, ",\"name\":\"process_sort_index\",\"args\":{\"sort_index\":%d}}",
                             event->rank);
    }
    FM_TRY(fm_trace_map_put(&writer->named, (uint64_t)event->rank, (uint32_t)event->thread, name, &known_name,
                            &known));
    if (!known || *known_name != name)
        name_track(writer, "thread_name", event->rank, event->thread, event->thread_name);
    *known_name = name;
    return FM_OK;
}

static void put_arguments(fm_trace_writer *writer, const fm_span_event *event)
{
    struct fm_trace_text *text = &writer->text;
    const fm_span_site *site = event->site;
    fm_trace_text_put(text, ",\"args\":{", 9);
    int any = 0;
    for (int i = 0; i < 2; i++)
        if (site->arg_names[i]) {
            if (any++)
                fm_trace_text_put(text, ",", 1);
            fm_trace_text_string(text, site->arg_names[i]);
            fm_trace_text_format(text, ":%lld", (long long)event->args[i]);
        }
    fm_trace_text_put(text, "}", 1);
}

static fm_status take(void *context, const fm_span_event *event)
{
    fm_trace_writer *writer = context;
    struct fm_trace_text *text = &writer->text;
    const fm_span_site *site = event->site;
    static const char phases[] = {[FM_SPAN_KIND_SPAN] = 'X',
                                  [FM_SPAN_KIND_INSTANT] = 'i',
                                  [FM_SPAN_KIND_COUNTER] = 'C',
                                  [FM_SPAN_KIND_FLOW_BEGIN] = 's',
                                  [FM_SPAN_KIND_FLOW_END] = 'f'};
    FM_TRY(describe(writer, event));
    begin_event(writer, phases[site->kind], event->rank, event->thread);
    fm_trace_text_put(text, ",\"ts\":", 6);
    fm_trace_text_time(text, (int64_t)(event->begin_ns - writer->base_ns));
    if (site->kind == FM_SPAN_KIND_SPAN) {
        fm_trace_text_put(text, ",\"dur\":", 7);
        fm_trace_text_time(text, (int64_t)(event->end_ns - event->begin_ns));
    }
    fm_trace_text_put(text, ",\"name\":", 8);
    fm_trace_text_string(text, site->name);
    fm_trace_text_put(text, ",\"cat\":", 7);
    fm_trace_text_string(text, site->category ? site->category : "");
    // Viewers read IDs as text or as doubles: 64 bits survive as text.
    if (site->kind == FM_SPAN_KIND_FLOW_BEGIN || site->kind == FM_SPAN_KIND_FLOW_END)
        fm_trace_text_format(text, ",\"id\":\"0x%llx\"%s", (unsigned long long)event->args[0],
                             site->kind == FM_SPAN_KIND_FLOW_END ? ",\"bp\":\"e\"" : "");
    else if (site->kind == FM_SPAN_KIND_INSTANT)
        fm_trace_text_put(text, ",\"s\":\"t\"", 8);
    if ((site->arg_names[0] || site->arg_names[1]) && site->kind <= FM_SPAN_KIND_COUNTER)
        put_arguments(writer, event);
    fm_trace_text_put(text, "}", 1);
    return text->status;
}

static void destroy(fm_trace_writer *writer)
{
    if (writer->fd >= 0)
        close(writer->fd);
    fm_trace_map_clear(&writer->named);
    fm_trace_pool_clear(&writer->names);
    fm_base_mem_free(writer->text.at);
    fm_base_mem_free(writer->path);
    fm_base_mem_free(writer);
}

fm_status fm_trace_writer_open(const char *path, fm_trace_writer **out_writer)
{
    fm_trace_writer *writer = fm_base_mem_zalloc(1, sizeof *writer);
    if (!writer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
    writer->fd = -1;
    writer->path = fm_base_mem_strdup(path);
    // One clock relates all processes of a machine, the calendar clock relates machines.
    writer->base_ns = fm_base_clock_ns();
    uint64_t unix_ns = fm_base_clock_unix_ns();
    fm_trace_text_format(
        &writer->text,
        "{\"schemaVersion\":1,\"displayTimeUnit\":\"ns\",\"baseTimeNanoseconds\":%llu,\"traceEvents\":[\n",
        (unsigned long long)unix_ns);
    fm_status status = writer->text.status;
    if (!writer->path)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
    if (status == FM_OK && (writer->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0)
        status = fm_base_file_error(errno, "cannot create %s", path);
    if (status == FM_OK)
        status = flush(writer);
    if (status < 0) {
        destroy(writer);
        return status;
    }
    *out_writer = writer;
    return FM_OK;
}

fm_status fm_trace_writer_drain(fm_trace_writer *writer)
{
    FM_TRY(fm_base_span_drain(take, writer));
    return flush(writer);
}

fm_status fm_trace_writer_close(fm_trace_writer *writer)
{
    if (!writer)
        return FM_OK;
    fm_status status = fm_trace_writer_drain(writer);
    destroy(writer);
    return status;
}
