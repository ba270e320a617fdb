#include "store.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// From this size on a column lies on huge pages: its first touches cost a fault each 2 MiB, not each 4 KiB.
enum { HUGE_BYTES = 2 << 20 };

/* A block of `wanted` bytes with the first `used` of `old`, which is freed; NULL, and `old` stays. */
static void *grow_block(void *old, size_t used, size_t wanted)
{
    if (wanted < HUGE_BYTES)
        return fm_base_mem_realloc(old, wanted, 1);
    void *block = fm_base_mem_aligned(wanted, HUGE_BYTES);
    if (!block)
        return NULL;
    (void)madvise(block, wanted, MADV_HUGEPAGE); // where the kernel has none, all is as before
    if (used)
        memcpy(block, old, used);
    fm_base_mem_free(old);
    return block;
}

/* One more element's room; `what` names it in the message. */
static fm_status grow(void **at, size_t *capacity, size_t count, size_t size, const char *what)
{
    if (count >= FM_TRACE_NONE - 1)
        return fm_base_error_set(FM_ERR_LIMIT, "more than 2^32 - 2 %s in a trace", what);
    size_t wanted = *capacity ? 2 * *capacity : 64;
    void *grown = grow_block(*at, count * size, wanted * size);
    if (!grown)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu %s", wanted, what);
    *at = grown;
    *capacity = wanted;
    return FM_OK;
}

#define GROW(column, what)                                                                     \
    do {                                                                                       \
        if (__builtin_expect((column).count == (column).capacity, 0)) {                        \
            void *at_ = (column).at;                                                           \
            FM_TRY(grow(&at_, &(column).capacity, (column).count, sizeof *(column).at, what)); \
            (column).at = at_;                                                                 \
        }                                                                                      \
    } while (0)

#define PUSH(column, what, ...)                      \
    do {                                             \
        GROW(column, what);                          \
        (column).at[(column).count++] = __VA_ARGS__; \
    } while (0)

fm_status fm_trace_store_create(int keep_args, struct fm_trace_store **out_store)
{
    struct fm_trace_store *store = fm_base_mem_zalloc(1, sizeof *store);
    if (!store)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a trace");
    store->keep_args = keep_args;
    fm_status status = fm_trace_pool_intern(&store->texts, "kernel", 6, &store->category_kernel);
    if (status == FM_OK)
        status = fm_trace_pool_intern(&store->texts, "gpu_memcpy", 10, &store->category_memcpy);
    if (status == FM_OK)
        status = fm_trace_pool_intern(&store->texts, "gpu_memset", 10, &store->category_memset);
    if (status < 0) {
        fm_trace_data_free(&store->trace);
        return status;
    }
    *out_store = store;
    return FM_OK;
}

void fm_trace_data_free(fm_trace *trace)
{
    struct fm_trace_store *store = (struct fm_trace_store *)trace;
    if (!store)
        return;
    fm_trace_pool_clear(&store->texts);
    fm_base_arena_clear(&store->paths);
    fm_base_mem_free(store->files.at);
    fm_base_mem_free(store->processes.at);
    fm_base_mem_free(store->tracks.at);
    fm_base_mem_free(store->slices.at);
    fm_base_mem_free(store->gpus.at);
    fm_base_mem_free(store->flows.at);
    fm_base_mem_free(store->counters.at);
    fm_base_mem_free(store->args.at);
    fm_base_mem_free(store->args_text.at);
    fm_base_mem_free(store->opens.at);
    fm_base_mem_free(store->open_of_track.at);
    fm_trace_map_clear(&store->process_of);
    fm_trace_map_clear(&store->track_of);
    fm_trace_map_clear(&store->async_open);
    fm_base_mem_free(store);
}

const char *fm_trace_data_text(const fm_trace *trace, uint32_t text)
{
    const struct fm_trace_store *store = (const struct fm_trace_store *)trace;
    return text < store->texts.count ? store->texts.texts[text] : "";
}

fm_status fm_trace_store_begin_file(struct fm_trace_store *store, const char *path)
{
    char *copy = fm_base_arena_strndup(&store->paths, path, strlen(path));
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a trace");
    PUSH(store->files, "files", (fm_trace_file){.path = copy, .rank = -1});
    store->last_track = FM_TRACE_NONE;
    store->first_slice = store->slices.count;
    store->first_flow = store->flows.count;
    store->first_counter = store->counters.count;
    store->first_track = store->tracks.count;
    return FM_OK;
}

/* An ID that may be a number or a text. */
static fm_status number_of(struct fm_trace_store *store, struct fm_trace_span span, int64_t *out_value,
                           int32_t *out_is_text)
{
    const char *end;
    *out_is_text = 0;
    *out_value = 0;
    if (!span.bytes)
        return FM_OK;
    if (!span.quoted && fm_trace_integer(span.bytes, out_value, &end) == 0)
        return FM_OK;
    uint32_t text;
    FM_TRY(fm_trace_pool_intern(&store->texts, span.bytes, span.length, &text));
    *out_value = text;
    *out_is_text = 1;
    return FM_OK;
}

static fm_status find_process(struct fm_trace_store *store, int64_t pid, int32_t is_text, uint32_t *out)
{
    uint32_t *found;
    int known;
    uint64_t file = store->files.count - 1;
    FM_TRY(fm_trace_map_put(&store->process_of, (uint64_t)pid, file << 1 | (uint64_t)is_text,
                            (uint32_t)store->processes.count, &found, &known));
    *out = *found;
    if (!known)
        PUSH(store->processes, "processes",
             (fm_trace_process){.file = (uint32_t)file,
                                .name = FM_TRACE_NONE,
                                .labels = FM_TRACE_NONE,
                                .pid_is_text = is_text,
                                .pid = pid});
    return FM_OK;
}

enum { TRACK_NUMBER, TRACK_TEXT, TRACK_ASYNC };

static fm_status find_track(struct fm_trace_store *store, uint32_t process, int64_t tid, int kind,
                            uint32_t *out)
{
    uint32_t *found;
    int known;
    FM_TRY(fm_trace_map_put(&store->track_of, (uint64_t)tid, (uint64_t)process << 2 | (uint64_t)kind,
                            (uint32_t)store->tracks.count, &found, &known));
    *out = *found;
    if (known)
        return FM_OK;
    PUSH(store->tracks, "tracks",
         (fm_trace_track){.process = process,
                          .name = kind == TRACK_ASYNC ? (uint32_t)tid : FM_TRACE_NONE,
                          .tid = tid,
                          .tid_is_text = kind != TRACK_NUMBER,
                          .is_async = kind == TRACK_ASYNC});
    PUSH(store->open_of_track, "tracks", FM_TRACE_NONE);
    return FM_OK;
}

/* Room for exactly `count` elements. */
static fm_status reserve(void **at, size_t *capacity, size_t used, size_t count, size_t size)
{
    if (count <= *capacity)
        return FM_OK;
    void *grown = grow_block(*at, used * size, count * size);
    if (!grown)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a trace");
    *at = grown;
    *capacity = count;
    return FM_OK;
}

#define RESERVE(column, wanted)                                                             \
    do {                                                                                    \
        void *at_ = (column).at;                                                            \
        FM_TRY(reserve(&at_, &(column).capacity, (column).count, (column).count + (wanted), \
                       sizeof *(column).at));                                               \
        (column).at = at_;                                                                  \
    } while (0)

fm_status fm_trace_store_expect(struct fm_trace_store *store, uint64_t bytes)
{
    // Of the profiler's traces, 330 bytes a slice and 650 a flow; what is not needed is never touched.
    RESERVE(store->slices, bytes / 300);
    RESERVE(store->flows, bytes / 600);
    return FM_OK;
}

static inline int same_span(struct fm_trace_span a, struct fm_trace_span b)
{
    return a.length == b.length && a.quoted == b.quoted && (a.bytes != NULL) == (b.bytes != NULL);
}

/* Up to 8 bytes of an ID as a number, to compare it with the last. Events point into the reader's buffer, behind which
 * there is room to read. */
static inline uint64_t key_of(struct fm_trace_span span)
{
    uint64_t key = 0;
    if (span.bytes)
        memcpy(&key, span.bytes, sizeof key);
    return span.length < 8 ? key & ((UINT64_C(1) << (8 * span.length)) - 1) : key;
}

static fm_status track_of(struct fm_trace_store *store, const struct fm_trace_event *event, uint32_t *out)
{
    uint64_t pid_key = key_of(event->pid), tid_key = key_of(event->tid);
    int is_short = event->pid.length < 8 && event->tid.length < 8;
    if (is_short && store->last_track != FM_TRACE_NONE && pid_key == store->last_key[0] &&
        tid_key == store->last_key[1] && same_span(event->pid, store->last_pid) &&
        same_span(event->tid, store->last_tid)) {
        *out = store->last_track;
        return FM_OK;
    }
    int64_t pid, tid;
    int32_t pid_is_text, tid_is_text;
    uint32_t process;
    FM_TRY(number_of(store, event->pid, &pid, &pid_is_text));
    FM_TRY(number_of(store, event->tid, &tid, &tid_is_text));
    FM_TRY(find_process(store, pid, pid_is_text, &process));
    FM_TRY(find_track(store, process, tid, tid_is_text ? TRACK_TEXT : TRACK_NUMBER, out));
    store->last_track = is_short ? *out : FM_TRACE_NONE;
    store->last_pid = event->pid;
    store->last_tid = event->tid;
    store->last_key[0] = pid_key;
    store->last_key[1] = tid_key;
    return FM_OK;
}

static fm_status text_of(struct fm_trace_store *store, struct fm_trace_span span, uint32_t *out)
{
    if (!span.bytes)
        return fm_trace_pool_intern(&store->texts, "", 0, out);
    return fm_trace_pool_intern(&store->texts, span.bytes, span.length, out);
}

static int32_t narrow(int64_t value)
{
    return value < INT32_MIN || value > INT32_MAX ? -1 : (int32_t)value;
}

static fm_status keep_arguments(struct fm_trace_store *store, struct fm_trace_span args)
{
    size_t length = args.length;
    while (store->args_text.capacity - store->args_text.count < length) {
        size_t wanted = store->args_text.capacity ? 2 * store->args_text.capacity : 65536;
        char *grown = grow_block(store->args_text.at, store->args_text.count, wanted);
        if (!grown)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the arguments of events");
        store->args_text.at = grown;
        store->args_text.capacity = wanted;
    }
    PUSH(store->args, "events", (fm_trace_args){store->args_text.count, (uint32_t)length});
    if (length)
        memcpy(store->args_text.at + store->args_text.count, args.bytes, length);
    store->args_text.count += length;
    return FM_OK;
}

static fm_status add_gpu(struct fm_trace_store *store, const struct fm_trace_event *event,
                         fm_trace_slice *slice)
{
    const char *end;
    int64_t stream = event->stream, device = event->device;
    if (!event->has_stream && (!event->tid.bytes || fm_trace_integer(event->tid.bytes, &stream, &end) < 0))
        stream = -1;
    if (!event->has_device && (!event->pid.bytes || fm_trace_integer(event->pid.bytes, &device, &end) < 0))
        device = -1;
    slice->kind = FM_TRACE_GPU;
    slice->gpu = (uint32_t)store->gpus.count;
    PUSH(store->gpus, "kernels",
         (fm_trace_gpu){.slice = (uint32_t)store->slices.count,
                        .device = narrow(device),
                        .stream = narrow(stream),
                        .blocks = (uint32_t)event->blocks,
                        .threads = (uint32_t)event->threads,
                        .bytes = event->bytes});
    return FM_OK;
}

static int is_of_device(const struct fm_trace_store *store, uint32_t category)
{
    return category == store->category_kernel || category == store->category_memcpy ||
           category == store->category_memset;
}

static fm_status add_slice(struct fm_trace_store *store, const struct fm_trace_event *event, uint32_t track,
                           uint32_t category, fm_trace_kind kind)
{
    fm_trace_slice slice = {
        .begin_ns = event->ts_ns,
        .duration_ns = event->duration_ns > 0 ? event->duration_ns : 0,
        .category = category,
        .track = track,
        .correlation =
            event->correlation > 0 && event->correlation < UINT32_MAX ? (uint32_t)event->correlation : 0,
        .gpu = FM_TRACE_NONE,
        .kind = kind,
    };
    FM_TRY(text_of(store, event->name, &slice.name));
    if (kind == FM_TRACE_SPAN && is_of_device(store, category))
        FM_TRY(add_gpu(store, event, &slice));
    if (store->keep_args)
        FM_TRY(keep_arguments(store, event->args));
    PUSH(store->slices, "events", slice);
    return FM_OK;
}

static fm_status open_slice(struct fm_trace_store *store, uint32_t *last)
{
    PUSH(store->opens, "open events", (struct fm_trace_open){(uint32_t)store->slices.count - 1, *last});
    *last = (uint32_t)store->opens.count - 1;
    store->slices.at[store->slices.count - 1].duration_ns = -1; // open
    return FM_OK;
}

static void close_slice(struct fm_trace_store *store, const struct fm_trace_event *event, uint32_t *last)
{
    if (*last == FM_TRACE_NONE) {
        store->files.at[store->files.count - 1].unmatched++;
        return;
    }
    fm_trace_slice *slice = &store->slices.at[store->opens.at[*last].slice];
    slice->duration_ns = event->ts_ns > slice->begin_ns ? event->ts_ns - slice->begin_ns : 0;
    *last = store->opens.at[*last].previous;
}

// Marks the number of a text among IDs.
#define ID_TEXT (UINT64_C(1) << 63)

/* 64 bits that stand for an ID: a number itself, a text by its number. Local IDs are a process's own. */
static fm_status id_of(struct fm_trace_store *store, const struct fm_trace_event *event, uint64_t *out)
{
    int64_t value;
    int32_t is_text;
    FM_TRY(number_of(store, event->id, &value, &is_text));
    *out = (uint64_t)value ^ (is_text ? ID_TEXT : 0);
    return FM_OK;
}

static fm_status add_async(struct fm_trace_store *store, const struct fm_trace_event *event)
{
    uint64_t id;
    uint32_t track, category, *last;
    int known;
    FM_TRY(track_of(store, event, &track));
    FM_TRY(text_of(store, event->category, &category));
    FM_TRY(id_of(store, event, &id));
    uint32_t process = store->tracks.at[track].process;
    FM_TRY(find_track(store, process, category, TRACK_ASYNC, &track));
    FM_TRY(fm_trace_map_put(&store->async_open, id, track, FM_TRACE_NONE, &last, &known));
    if (event->phase == 'e' || event->phase == 'F') {
        close_slice(store, event, last);
        return FM_OK;
    }
    if (event->phase != 'b' && event->phase != 'S')
        return add_slice(store, event, track, category, FM_TRACE_INSTANT);
    FM_TRY(add_slice(store, event, track, category, FM_TRACE_ASYNC));
    return open_slice(store, last);
}

static fm_status add_metadata(struct fm_trace_store *store, const struct fm_trace_event *event)
{
    struct fm_trace_span name = event->name;
    uint32_t track, label;
    if (!name.bytes || !event->pid.bytes)
        return FM_OK;
#define IS(text) (name.length == sizeof(text) - 1 && memcmp(name.bytes, text, sizeof(text) - 1) == 0)
    if (!IS("process_name") && !IS("process_labels") && !IS("process_sort_index") && !IS("thread_name") &&
        !IS("thread_sort_index"))
        return FM_OK;
    FM_TRY(text_of(store, event->label, &label));
    if (name.bytes[0] == 't') {
        FM_TRY(track_of(store, event, &track));
        if (IS("thread_name"))
            store->tracks.at[track].name = label;
        else
            store->tracks.at[track].sort_index = event->sort_index;
        return FM_OK;
    }
    int64_t pid;
    int32_t is_text;
    uint32_t index;
    FM_TRY(number_of(store, event->pid, &pid, &is_text));
    FM_TRY(find_process(store, pid, is_text, &index));
    fm_trace_process *process = &store->processes.at[index];
    if (IS("process_name"))
        process->name = label;
    else if (IS("process_labels"))
        process->labels = label;
    else
        process->sort_index = event->sort_index;
#undef IS
    return FM_OK;
}

static fm_status add_flow(struct fm_trace_store *store, const struct fm_trace_event *event, uint32_t track,
                          uint32_t category)
{
    fm_trace_flow flow = {.at_ns = event->ts_ns, .track = track, .category = category, .phase = event->phase};
    FM_TRY(text_of(store, event->name, &flow.name));
    FM_TRY(id_of(store, event, &flow.id));
    PUSH(store->flows, "flows", flow);
    return FM_OK;
}

/* Each member of a counter's arguments that is a number is a series. The text is whole: it was decoded before. */
static fm_status add_counters(struct fm_trace_store *store, const struct fm_trace_event *event,
                              uint32_t track)
{
    fm_trace_counter counter = {.at_ns = event->ts_ns, .track = track};
    FM_TRY(text_of(store, event->name, &counter.name));
    const char *p = event->args.bytes, *end = p + event->args.length;
    if (!p || *p != '{')
        return FM_OK;
    for (p++; p < end;) {
        const char *key = memchr(p, '"', (size_t)(end - p));
        const char *behind = key ? memchr(key + 1, '"', (size_t)(end - key - 1)) : NULL;
        if (!behind)
            break;
        p = behind + 1;
        while (p < end && (fm_trace_is_space(*p) || *p == ':'))
            p++;
        char *number_end;
        char number[64] = {0};
        memcpy(number, p, (size_t)(end - p) < sizeof number - 1 ? (size_t)(end - p) : sizeof number - 1);
        counter.value = strtod(number, &number_end);
        if (number_end == number) // not a number: nothing behind it is taken either
            break;
        FM_TRY(fm_trace_pool_intern(&store->texts, key + 1, (size_t)(behind - key - 1), &counter.series));
        PUSH(store->counters, "counter values", counter);
        p += number_end - number;
    }
    return FM_OK;
}

static fm_status lacks(const char *what, char phase)
{
    return fm_base_error_set(FM_ERR_FORMAT, "an event of phase '%c' lacks %s",
                             phase >= ' ' && phase < 127 ? phase : '?', what);
}

enum { OF_THREAD, OF_PROCESS, OF_NOTHING };

/* What an event of this phase belongs to; an asynchronous one to a process. */
static inline int owner_of(char phase)
{
    switch (phase) {
    case 'X':
    case 'B':
    case 'E':
    case 'i':
    case 'I':
    case 'R':
    case 'C':
    case 's':
    case 't':
    case 'f':
        return OF_THREAD;
    case 'b':
    case 'n':
    case 'e':
    case 'S':
    case 'T':
    case 'p':
    case 'F':
        return OF_PROCESS;
    default:
        return OF_NOTHING;
    }
}

/* An event of a thread, that is neither begin nor end of another. */
static inline fm_status add_at(struct fm_trace_store *store, const struct fm_trace_event *event, char phase,
                               uint32_t track, uint32_t category)
{
    switch (phase) {
    case 'X':
        return add_slice(store, event, track, category, FM_TRACE_SPAN);
    case 's':
    case 't':
    case 'f':
        return add_flow(store, event, track, category);
    default:
        return add_slice(store, event, track, category, FM_TRACE_INSTANT);
    }
}

fm_status fm_trace_store_add(struct fm_trace_store *store, const struct fm_trace_event *event)
{
    fm_trace_file *file = &store->files.at[store->files.count - 1];
    uint32_t track, category;
    file->events++;
    if (!event->phase)
        return fm_base_error_set(FM_ERR_FORMAT, "an event lacks its phase (\"ph\")");
    if (event->phase == 'M')
        return add_metadata(store, event);
    int owner = owner_of(event->phase);
    if (owner == OF_NOTHING) {
        file->skipped++;
        return FM_OK;
    }
    if (!event->has_ts)
        return lacks("\"ts\"", event->phase);
    if (store->is_part && (owner == OF_PROCESS || event->phase == 'B' || event->phase == 'E'))
        return fm_base_error_set(FM_ERR_STATE, "a part of a trace with events of phase '%c'", event->phase);
    if (owner == OF_PROCESS)
        return add_async(store, event);
    FM_TRY(track_of(store, event, &track));
    if (event->phase == 'E') {
        close_slice(store, event, &store->open_of_track.at[track]);
        return FM_OK;
    }
    if (event->phase == 'C')
        return add_counters(store, event, track);
    FM_TRY(text_of(store, event->category, &category));
    if (event->phase != 'B')
        return add_at(store, event, event->phase, track, category);
    FM_TRY(add_slice(store, event, track, category, FM_TRACE_SPAN));
    return open_slice(store, &store->open_of_track.at[track]);
}

fm_status fm_trace_store_add_shaped(struct fm_trace_store *store, struct fm_trace_event *event,
                                    const struct fm_trace_shape *shape)
{
    store->files.at[store->files.count - 1].events++;
    event->phase = shape->phase;
    return add_at(store, event, shape->phase, shape->track, shape->category);
}

fm_status fm_trace_store_learn(struct fm_trace_store *store, struct fm_trace_shapes *shapes, const char *text,
                               const char *end, const struct fm_trace_event *event)
{
    uint32_t track, category;
    // Of other phases a shape does not say all.
    if (owner_of(event->phase) != OF_THREAD || strchr("BEC", event->phase))
        return FM_OK;
    FM_TRY(track_of(store, event, &track));
    FM_TRY(text_of(store, event->category, &category));
    // Where the process and the thread stand for the device and the stream, their texts are needed of every event.
    if (is_of_device(store, category) && (!event->has_stream || !event->has_device))
        return FM_OK;
    return fm_trace_shapes_learn(shapes, text, end, event, track, category);
}

static int64_t clamp(int64_t time_ns)
{
    if (time_ns > FM_TRACE_TIME_MAX)
        return FM_TRACE_TIME_MAX;
    return time_ns < -FM_TRACE_TIME_MAX ? -FM_TRACE_TIME_MAX : time_ns;
}

/* Absolute times; ends are cut to the range that all times keep. */
static int64_t place_slice(fm_trace_slice *slice, int64_t base_ns)
{
    int open = slice->duration_ns < 0;
    slice->begin_ns = clamp(slice->begin_ns + base_ns);
    if (open)
        return slice->begin_ns;
    int64_t end = clamp(slice->begin_ns + slice->duration_ns);
    slice->duration_ns = end - slice->begin_ns;
    return end;
}

fm_status fm_trace_store_end_file(struct fm_trace_store *store, int64_t base_ns)
{
    int64_t last = -FM_TRACE_TIME_MAX;
    fm_trace_slice *slices = store->slices.at;
    base_ns = clamp(base_ns);
    for (size_t i = store->first_slice; i < store->slices.count; i++) {
        int64_t end = place_slice(&slices[i], base_ns);
        last = end > last ? end : last;
    }
    for (size_t i = store->first_slice; store->opens.count && i < store->slices.count; i++)
        if (slices[i].duration_ns < 0) {
            slices[i].duration_ns = last - slices[i].begin_ns;
            store->files.at[store->files.count - 1].unmatched++;
        }
    for (size_t i = store->first_flow; i < store->flows.count; i++)
        store->flows.at[i].at_ns = clamp(store->flows.at[i].at_ns + base_ns);
    for (size_t i = store->first_counter; i < store->counters.count; i++)
        store->counters.at[i].at_ns = clamp(store->counters.at[i].at_ns + base_ns);
    for (size_t i = store->first_track; i < store->tracks.count; i++)
        store->open_of_track.at[i] = FM_TRACE_NONE;
    store->opens.count = 0;
    fm_trace_map_clear(&store->async_open);
    return FM_OK;
}

/* What the texts, processes and tracks of one store are in another. */
struct translation {
    uint32_t *texts, *processes, *tracks;
};

static fm_status translate_processes(struct fm_trace_store *store, const struct fm_trace_store *from,
                                     const struct translation *to)
{
    for (size_t i = 0; i < from->processes.count; i++) {
        const fm_trace_process *other = &from->processes.at[i];
        int64_t pid = other->pid_is_text ? to->texts[other->pid] : other->pid;
        FM_TRY(find_process(store, pid, other->pid_is_text, &to->processes[i]));
        fm_trace_process *process = &store->processes.at[to->processes[i]];
        if (other->name != FM_TRACE_NONE)
            process->name = to->texts[other->name];
        if (other->labels != FM_TRACE_NONE)
            process->labels = to->texts[other->labels];
        if (other->sort_index)
            process->sort_index = other->sort_index;
    }
    return FM_OK;
}

static fm_status translate_tracks(struct fm_trace_store *store, const struct fm_trace_store *from,
                                  const struct translation *to)
{
    for (size_t i = 0; i < from->tracks.count; i++) {
        const fm_trace_track *other = &from->tracks.at[i];
        int64_t tid = other->tid_is_text ? to->texts[other->tid] : other->tid;
        FM_TRY(find_track(store, to->processes[other->process], tid,
                          other->tid_is_text ? TRACK_TEXT : TRACK_NUMBER, &to->tracks[i]));
        fm_trace_track *track = &store->tracks.at[to->tracks[i]];
        if (other->name != FM_TRACE_NONE)
            track->name = to->texts[other->name];
        if (other->sort_index)
            track->sort_index = other->sort_index;
    }
    return FM_OK;
}

static fm_status append_slices(struct fm_trace_store *store, const struct fm_trace_store *from,
                               const struct translation *to)
{
    uint32_t first_slice = (uint32_t)store->slices.count, first_gpu = (uint32_t)store->gpus.count;
    // The number of everything has to stay below that which stands for none.
    if (from->slices.count >= FM_TRACE_NONE - 1 - store->slices.count)
        return fm_base_error_set(FM_ERR_LIMIT, "more than 2^32 - 2 events in a trace");
    RESERVE(store->slices, from->slices.count);
    RESERVE(store->gpus, from->gpus.count);
    RESERVE(store->args, from->args.count);
    RESERVE(store->args_text, from->args_text.count);
    for (size_t i = 0; i < from->slices.count; i++) {
        fm_trace_slice slice = from->slices.at[i];
        slice.name = to->texts[slice.name];
        slice.category = to->texts[slice.category];
        slice.track = to->tracks[slice.track];
        slice.gpu += slice.gpu == FM_TRACE_NONE ? 0 : first_gpu;
        store->slices.at[store->slices.count++] = slice;
    }
    for (size_t i = 0; i < from->gpus.count; i++) {
        fm_trace_gpu gpu = from->gpus.at[i];
        gpu.slice += first_slice;
        store->gpus.at[store->gpus.count++] = gpu;
    }
    for (size_t i = 0; i < from->args.count; i++)
        store->args.at[store->args.count++] =
            (fm_trace_args){store->args_text.count + from->args.at[i].offset, from->args.at[i].length};
    if (from->args_text.count)
        memcpy(store->args_text.at + store->args_text.count, from->args_text.at, from->args_text.count);
    store->args_text.count += from->args_text.count;
    return FM_OK;
}

static fm_status append_rest(struct fm_trace_store *store, const struct fm_trace_store *from,
                             const struct translation *to)
{
    RESERVE(store->flows, from->flows.count);
    RESERVE(store->counters, from->counters.count);
    for (size_t i = 0; i < from->flows.count; i++) {
        fm_trace_flow flow = from->flows.at[i];
        flow.name = to->texts[flow.name];
        flow.category = to->texts[flow.category];
        flow.track = to->tracks[flow.track];
        if (flow.id >> 32 == ID_TEXT >> 32 && (uint32_t)flow.id < from->texts.count)
            flow.id = ID_TEXT | to->texts[(uint32_t)flow.id];
        store->flows.at[store->flows.count++] = flow;
    }
    for (size_t i = 0; i < from->counters.count; i++) {
        fm_trace_counter counter = from->counters.at[i];
        counter.name = to->texts[counter.name];
        counter.series = to->texts[counter.series];
        counter.track = to->tracks[counter.track];
        store->counters.at[store->counters.count++] = counter;
    }
    fm_trace_file *file = &store->files.at[store->files.count - 1];
    file->events += from->files.at[0].events;
    file->skipped += from->files.at[0].skipped;
    return FM_OK;
}

fm_status fm_trace_store_append(struct fm_trace_store *store, const struct fm_trace_store *from)
{
    size_t texts = from->texts.count, processes = from->processes.count;
    uint32_t *all = fm_base_mem_zalloc(texts + processes + from->tracks.count + 1, sizeof *all);
    if (!all)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a trace");
    struct translation to = {all, all + texts, all + texts + processes};
    fm_status status = FM_OK;
    for (size_t i = 0; i < texts && status == FM_OK; i++)
        status = fm_trace_pool_intern_text(&store->texts, from->texts.texts[i], from->texts.lengths[i],
                                           &to.texts[i]);
    if (status == FM_OK)
        status = translate_processes(store, from, &to);
    if (status == FM_OK)
        status = translate_tracks(store, from, &to);
    if (status == FM_OK)
        status = append_slices(store, from, &to);
    if (status == FM_OK)
        status = append_rest(store, from, &to);
    fm_base_mem_free(all);
    return status;
}

void fm_trace_store_publish(struct fm_trace_store *store)
{
#define PUBLISH(column, pointer, counter) \
    store->trace.pointer = store->column.at, store->trace.counter = store->column.count
    PUBLISH(files, files, file_count);
    PUBLISH(processes, processes, process_count);
    PUBLISH(tracks, tracks, track_count);
    PUBLISH(slices, slices, slice_count);
    PUBLISH(gpus, gpus, gpu_count);
    PUBLISH(flows, flows, flow_count);
    PUBLISH(counters, counters, counter_count);
#undef PUBLISH
    store->trace.args = store->args.at;
    store->trace.args_text = store->args_text.at;
    store->trace.text_count = store->texts.count;
}
