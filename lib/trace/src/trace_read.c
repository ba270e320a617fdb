/*
 * A file as a stream of events.
 *
 *     buffer:  | an event cut off at the last fill | new bytes ... |        entries: offsets of its quotes and brackets
 *
 * Every fill indexes the buffer and decodes the events that are whole in it. The rest moves to the front and is indexed
 * again with what follows it, so an event never spans two buffers; one that fills the buffer makes it grow.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/cpu.h"
#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "reader.h"

// The buffer and the part of its index that is used stay in the second-level cache together.
enum { BUFFER_BYTES = 256 << 10 };
// What is indexed for an event of no known shape; where that does not do, more.
enum { WINDOW_BYTES = 1 << 10 };
// No event of a real trace comes near this; a file that claims one is refused before it takes all memory.
#define EVENT_BYTES_MAX ((size_t)64 << 20)

/* Results of a step over the buffer. */
enum step { GO_ON, NEED_MORE, DONE, FAILED };

/* Where a step stands. */
struct spot {
    const char *p;
    const uint32_t *entry; // the first one at or behind p; NULL: not known
};

static fm_status damage(struct fm_trace_reader *reader, size_t at, const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "%s: byte %llu: %s", reader->name,
                             (unsigned long long)reader->base + at, what);
}

static fm_status grow_buffer(struct fm_trace_reader *reader)
{
    if (reader->capacity >= EVENT_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: byte %llu: an event or value of more than 64 MiB",
                                 reader->name, (unsigned long long)reader->base);
    size_t capacity = reader->capacity ? 2 * reader->capacity : BUFFER_BYTES;
    char *buffer = fm_base_mem_realloc(reader->buffer, capacity + FM_TRACE_INDEX_SLACK, 1);
    if (!buffer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", reader->name);
    reader->buffer = buffer;
    // Nothing of the old index is needed.
    fm_base_mem_free(reader->entries);
    reader->entries = fm_base_mem_alloc((capacity + FM_TRACE_INDEX_SLACK) * sizeof *reader->entries);
    if (!reader->entries)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", reader->name);
    reader->capacity = capacity;
    return FM_OK;
}

/* Counts damage; the message at hand says what the first was. */
static void note_damage(struct fm_trace_reader *reader)
{
    fm_trace_file *file = &reader->store->files.at[reader->store->files.count - 1];
    if (file->damaged++ == 0)
        snprintf(file->damage, sizeof file->damage, "%s", fm_error_message());
}

/* More bytes of the stream. Of compressed data that are damaged, what came before stays for a salvaging reader. */
static fm_status read_stream(struct fm_trace_reader *reader, size_t room, size_t *out_got)
{
    fm_status status = fm_base_gzip_read(reader->stream, reader->buffer + reader->length, room, out_got);
    if (status != FM_ERR_FORMAT || !reader->salvage)
        return status;
    note_damage(reader);
    reader->broken = 1;
    *out_got = 0;
    return FM_OK;
}

static fm_status read_part(struct fm_trace_reader *reader, size_t room, size_t *out_got)
{
    ssize_t got;
    do
        got = pread(reader->file, reader->buffer + reader->length, room, (off_t)reader->file_at);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return fm_base_file_error(errno, "cannot read %s", reader->name);
    reader->file_at += (uint64_t)got;
    *out_got = (size_t)got;
    return FM_OK;
}

/* Fills the buffer behind its first `kept` bytes. */
static fm_status fill(struct fm_trace_reader *reader, size_t kept)
{
    reader->length = kept;
    while (reader->length < reader->capacity && !reader->ended) {
        size_t room = reader->capacity - reader->length, got = 0;
        if (reader->stream) {
            FM_TRY(read_stream(reader, room, &got));
        } else if (reader->file >= 0) {
            FM_TRY(read_part(reader, room, &got));
        } else {
            size_t left = (size_t)(reader->memory_end - reader->memory);
            got = left < room ? left : room;
            memcpy(reader->buffer + reader->length, reader->memory, got);
            reader->memory += got;
        }
        reader->ended = got == 0;
        reader->length += got;
    }
    memset(reader->buffer + reader->length, 0, FM_TRACE_INDEX_SLACK);
    return FM_OK;
}

/* Indexes `bytes` of the buffer from the spot on, at which the text is not in a string but where the state says so. */
static void index_from(struct fm_trace_reader *reader, struct spot *spot, size_t bytes)
{
    size_t at = (size_t)(spot->p - reader->buffer), left = reader->length - at;
    reader->indexed = at + (bytes < left ? bytes : left);
    if (reader->place != FM_TRACE_VALUE)
        reader->state = (struct fm_trace_index_state){0, 0};
    size_t count = reader->index(reader->buffer, at, reader->indexed, &reader->state, reader->entries);
    for (int i = 0; i < FM_TRACE_SENTINELS; i++)
        reader->entries[count + (size_t)i] = (uint32_t)reader->length;
    spot->entry = reader->entries;
}

/* Makes sure that all of the buffer behind the spot is indexed. */
static void index_rest(struct fm_trace_reader *reader, struct spot *spot)
{
    if (!spot->entry || reader->indexed < reader->length)
        index_from(reader, spot, SIZE_MAX);
}

static const char *skip_space(const char *p)
{
    while (fm_trace_is_space(*p))
        p++;
    return p;
}

static enum step fail_at(struct fm_trace_reader *reader, const char *p, const char *what,
                         fm_status *out_status)
{
    *out_status = damage(reader, (size_t)(p - reader->buffer), what);
    return FAILED;
}

/* At the sentinel: the text goes on in the next buffer, or it is cut short. */
static enum step cut(struct fm_trace_reader *reader, const char *p, const char *what, fm_status *out_status)
{
    if (!reader->ended)
        return NEED_MORE;
    char text[160];
    snprintf(text, sizeof text, "the file ends inside %s", what);
    return fail_at(reader, p, text, out_status);
}

static int at_end(const struct fm_trace_reader *reader, const char *p)
{
    return p == reader->buffer + reader->length;
}

static enum step step_start(struct fm_trace_reader *reader, struct spot *spot, fm_status *out_status)
{
    const char *p = skip_space(spot->p);
    if (reader->base == 0 && memcmp(reader->buffer, "\xEF\xBB\xBF", 3) == 0 && p == reader->buffer)
        p = skip_space(p + 3);
    spot->p = p;
    if (at_end(reader, p))
        return cut(reader, p, "the space before a trace", out_status);
    if (*p != '{' && *p != '[')
        return fail_at(reader, p, "expected '[' or '{', with which a trace in JSON begins", out_status);
    reader->is_object = *p == '{';
    reader->place = reader->is_object ? FM_TRACE_TOP : FM_TRACE_EVENTS;
    spot->p = p + 1;
    spot->entry++;
    return GO_ON;
}

/* Values of the outermost object that say something about the run. They fit a document parser or are ignored. */
static fm_status take_about(struct fm_trace_reader *reader, const char *key, size_t length, const char *value,
                            size_t size)
{
    fm_trace_file *file = &reader->store->files.at[reader->store->files.count - 1];
    const char *end;
#define IS(text) (length == sizeof(text) - 1 && memcmp(key, text, sizeof(text) - 1) == 0)
    if (IS("baseTimeNanoseconds")) {
        if (fm_trace_integer(value + (*value == '"'), &reader->base_ns, &end) < 0)
            reader->base_ns = 0;
        return FM_OK;
    }
    if (!IS("distributedInfo") && !IS("deviceProperties"))
        return FM_OK;
    fm_doc *doc = NULL;
    fm_status status = fm_base_doc_parse_json(value, size, reader->name, &doc);
    if (status == FM_ERR_NOMEM)
        return status;
    int64_t number;
    const char *text;
    if (IS("distributedInfo")) {
        if (fm_base_doc_int(fm_base_doc_get(doc, "rank"), "rank", 0, INT32_MAX, &number) == FM_OK)
            file->rank = number;
        if (fm_base_doc_int(fm_base_doc_get(doc, "world_size"), "world_size", 0, INT32_MAX, &number) == FM_OK)
            file->world_size = number;
    } else {
        const fm_doc *device = fm_base_doc_at(doc, 0);
        if (fm_base_doc_int(fm_base_doc_get(device, "numSms"), "numSms", 0, 1 << 20, &number) == FM_OK)
            file->multiprocessors = (int)number;
        if (fm_base_doc_string(fm_base_doc_get(device, "name"), "name", &text) == FM_OK)
            snprintf(file->device, sizeof file->device, "%s", text);
    }
    fm_base_doc_free(doc);
    return FM_OK;
#undef IS
}

/* The byte behind a number or literal; the sentinel's when it is not whole yet. */
static const char *scalar_end(const char *p)
{
    while (*p && *p != ',' && *p != '}' && *p != ']' && *p != '"' && !fm_trace_is_space(*p))
        p++;
    return p;
}

/* A key of the outermost object with its value. */
static enum step step_member(struct fm_trace_reader *reader, struct spot *spot, fm_status *out_status)
{
    const char *text = reader->buffer;
    const uint32_t *entry = spot->entry;
    if (text[entry[0]] != '"' || text[entry[1]] != '"')
        return cut(reader, spot->p, "a key of the outermost object", out_status);
    const char *key = text + entry[0] + 1;
    size_t key_length = entry[1] - entry[0] - 1;
    const char *p = skip_space(text + entry[1] + 1);
    if (at_end(reader, p))
        return cut(reader, spot->p, "the outermost object", out_status);
    if (*p != ':')
        return fail_at(reader, p, "expected ':' behind a key of the outermost object", out_status);
    const char *value = skip_space(p + 1), *end;
    entry += 2;
    if (at_end(reader, value))
        return cut(reader, spot->p, "the outermost object", out_status);
    if (*value == '[' && key_length == 11 && memcmp(key, "traceEvents", 11) == 0) {
        *spot = (struct spot){value + 1, entry + 1};
        reader->place = FM_TRACE_EVENTS;
        return GO_ON;
    }
    if (*value == '"') {
        if (text[entry[0]] != '"' || text[entry[1]] != '"')
            return cut(reader, spot->p, "a string of the outermost object", out_status);
        end = text + entry[1] + 1;
        entry += 2;
    } else if (*value == '{' || *value == '[') {
        const uint32_t *behind = fm_trace_skip_brackets(text, entry);
        // A value that does not fit is walked through, buffer by buffer; what would be read of it is small.
        if (!behind && spot->p == reader->buffer && reader->length == reader->capacity) {
            *spot = (struct spot){value, entry};
            reader->place = FM_TRACE_VALUE;
            reader->depth = 0;
            return GO_ON;
        }
        if (!behind)
            return cut(reader, spot->p, "a value of the outermost object", out_status);
        entry = behind;
        end = text + behind[-1] + 1;
    } else {
        end = scalar_end(value);
        if (at_end(reader, end))
            return cut(reader, spot->p, "a value of the outermost object", out_status);
        if (end == value)
            return fail_at(reader, value, "expected a value", out_status);
    }
    *out_status = take_about(reader, key, key_length, value, (size_t)(end - value));
    if (*out_status < 0)
        return FAILED;
    *spot = (struct spot){end, entry};
    return GO_ON;
}

static enum step step_top(struct fm_trace_reader *reader, struct spot *spot, fm_status *out_status)
{
    const char *p = skip_space(spot->p);
    if (*p == ',')
        p = skip_space(p + 1);
    if (at_end(reader, p))
        return cut(reader, p, "the outermost object", out_status);
    if (p != reader->buffer + *spot->entry || (*p != '"' && *p != '}'))
        return fail_at(reader, p, "expected a key or the '}' of the outermost object", out_status);
    spot->p = p;
    if (*p == '"')
        return step_member(reader, spot, out_status);
    *spot = (struct spot){p + 1, spot->entry + 1};
    reader->place = FM_TRACE_AFTER;
    return GO_ON;
}

static enum step step_value(struct fm_trace_reader *reader, struct spot *spot, fm_status *out_status)
{
    for (;; spot->entry++) {
        char c = reader->buffer[*spot->entry];
        if (c == 0) {
            spot->p = reader->buffer + reader->length;
            return cut(reader, spot->p, "a value of the outermost object", out_status);
        }
        if (c == '{' || c == '[')
            reader->depth++;
        else if ((c == '}' || c == ']') && --reader->depth == 0)
            break;
    }
    spot->p = reader->buffer + *spot->entry + 1;
    spot->entry++;
    reader->place = FM_TRACE_TOP;
    return GO_ON;
}

/* Whether the event that begins at this entry ends within the buffer. */
static int is_whole(const struct fm_trace_reader *reader, const uint32_t *entry)
{
    return fm_trace_skip_brackets(reader->buffer, entry) != NULL;
}

/* Decodes the event at the spot by the index, of which it makes as much as it takes. */
static enum step decode_event(struct fm_trace_reader *reader, struct spot *spot, struct fm_trace_event *event,
                              struct spot *out_behind, fm_status *out_status)
{
    size_t at = (size_t)(spot->p - reader->buffer);
    // Where no shapes are tried the next events are decoded, too.
    size_t window = reader->shapes.pause ? SIZE_MAX : WINDOW_BYTES;
    for (;; window *= 8) {
        if (!spot->entry || *spot->entry != at)
            index_from(reader, spot, window);
        struct fm_trace_cursor cursor = {.text = reader->buffer, .entry = spot->entry};
        if (fm_trace_event_decode(&cursor, event) == 0) {
            *out_behind = (struct spot){reader->buffer + cursor.entry[-1] + 1, cursor.entry};
            return GO_ON;
        }
        if (is_whole(reader, spot->entry)) {
            char text[160];
            snprintf(text, sizeof text, "expected %s", cursor.expected);
            return fail_at(reader, reader->buffer + cursor.at, text, out_status);
        }
        if (reader->indexed == reader->length)
            return cut(reader, spot->p, "an event", out_status);
        spot->entry = NULL;
    }
}

/* The event at the spot, whose shape is not known; `gap` is the end of the one before it. */
static enum step step_event(struct fm_trace_reader *reader, struct spot *spot, const char *gap,
                            fm_status *out_status)
{
    struct fm_trace_event event;
    struct spot behind;
    enum step step = decode_event(reader, spot, &event, &behind, out_status);
    if (step != GO_ON)
        return step;
    *out_status = fm_trace_store_add(reader->store, &event);
    if (*out_status == FM_ERR_FORMAT)
        *out_status =
            fm_base_error_prefix(*out_status, "%s: byte %llu", reader->name,
                                 (unsigned long long)reader->base + (size_t)(spot->p - reader->buffer));
    if (*out_status == FM_OK && !reader->shapes.pause)
        *out_status = fm_trace_store_learn(reader->store, &reader->shapes, gap, behind.p, &event);
    if (*out_status < 0)
        return FAILED;
    *spot = behind;
    return GO_ON;
}

/* Events of known shapes. */
static fm_status take_shaped(struct fm_trace_reader *reader, struct spot *spot)
{
    // Where another reader begins the decoder looks at the offset of each event.
    const char *end = reader->buffer + reader->length, *p = spot->p, *behind;
    uint64_t left = reader->stop > reader->base ? reader->stop - reader->base : 0;
    const char *last = left < reader->length ? reader->buffer + left : end;
    struct fm_trace_event event;
    const struct fm_trace_shape *shape;
    while (last - p > FM_TRACE_LITERAL_BYTES && fm_trace_shapes_try(&reader->shapes) &&
           (behind = reader->walk(&reader->shapes, p, end, &event, &shape))) {
        fm_status status = fm_trace_store_add_shaped(reader->store, &event, shape);
        if (status < 0)
            return status;
        reader->shapes.met++;
        p = behind;
        *spot = (struct spot){p, NULL};
    }
    return FM_OK;
}

/* The events of the buffer, one after the other. */
static enum step step_events(struct fm_trace_reader *reader, struct spot *spot, fm_status *out_status)
{
    for (;;) {
        *out_status = take_shaped(reader, spot);
        if (*out_status < 0)
            return FAILED;
        const char *gap = spot->p, *p = skip_space(gap);
        if (*p == ',')
            p = skip_space(p + 1);
        if (at_end(reader, p)) {
            spot->p = p;
            if (!reader->ended)
                return NEED_MORE;
            if (reader->is_object)
                return fail_at(reader, p, "the file ends inside the array of events", out_status);
            reader->place = FM_TRACE_AFTER; // a bare array may lack its closing bracket
            return GO_ON;
        }
        if (*p != '{' && *p != ']')
            return fail_at(reader, p, "expected an event or the ']' behind the last", out_status);
        spot->p = p;
        if (*p == ']') {
            *spot = (struct spot){p + 1, NULL};
            reader->place = reader->is_object ? FM_TRACE_TOP : FM_TRACE_AFTER;
            return GO_ON;
        }
        if (reader->base + (uint64_t)(p - reader->buffer) >= reader->stop)
            return DONE;
        enum step step = step_event(reader, spot, gap, out_status);
        if (step != GO_ON)
            return step;
    }
}

static enum step step_after(struct fm_trace_reader *reader, struct spot *spot, fm_status *out_status)
{
    const char *p = skip_space(spot->p);
    spot->p = p;
    if (!at_end(reader, p))
        return fail_at(reader, p, "text behind the end of the trace", out_status);
    return reader->ended ? DONE : NEED_MORE;
}

static enum step (*const steps[])(struct fm_trace_reader *, struct spot *,
                                  fm_status *) = {[FM_TRACE_START] = step_start,
                                                  [FM_TRACE_TOP] = step_top,
                                                  [FM_TRACE_VALUE] = step_value,
                                                  [FM_TRACE_EVENTS] = step_events,
                                                  [FM_TRACE_AFTER] = step_after};

/* The bytes in front of `spot` are done with. */
static fm_status next_buffer(struct fm_trace_reader *reader, const char *from)
{
    size_t done = (size_t)(from - reader->buffer), kept = reader->length - done;
    if (done == 0 && reader->length == reader->capacity)
        FM_TRY(grow_buffer(reader));
    memmove(reader->buffer, reader->buffer + done, kept);
    reader->base += done;
    FM_TRY(fm_base_interrupt_check());
    return fill(reader, kept);
}

/* Whether an event may begin at this '{': it follows another one or the array's bracket, and a key of events follows it. */
static int may_begin_event(const struct fm_trace_reader *reader, const char *p)
{
    const char *before = p;
    while (before > reader->buffer && fm_trace_is_space(before[-1]))
        before--;
    if (before > reader->buffer && before[-1] != ',' && before[-1] != '[' && before[-1] != '}')
        return 0;
    // What follows may not be there yet.
    enum { KEY_ROOM = 64 };
    if (!reader->ended && reader->buffer + reader->length - p < KEY_ROOM)
        return 1;
    p = skip_space(p + 1);
    static const char *const keys[] = {"\"ph\"", "\"cat\"", "\"name\"", "\"pid\"", "\"tid\"",
                                       "\"ts\"", "\"id\"",  "\"dur\"",  "\"args\""};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strncmp(p, keys[i], strlen(keys[i])) == 0)
            return 1;
    return 0;
}

/* Whether a whole event with phase and time lies here; NEED_MORE: the buffer ends before it does. */
static enum step try_event(struct fm_trace_reader *reader, const char *p)
{
    struct spot spot = {p, NULL}, behind;
    struct fm_trace_event event;
    fm_status ignored;
    enum step step = decode_event(reader, &spot, &event, &behind, &ignored);
    return step == GO_ON && (!event.phase || (!event.has_ts && event.phase != 'M')) ? FAILED : step;
}

/* Seeks a whole event at or behind `from`: the buffer then begins with it, or the text has ended. */
static fm_status seek_event(struct fm_trace_reader *reader, const char *from)
{
    reader->place = FM_TRACE_EVENTS;
    for (;;) {
        const char *end = reader->buffer + reader->length, *p = from;
        while (p < end && (p = memchr(p, '{', (size_t)(end - p))) && !may_begin_event(reader, p))
            p++;
        if (!p || p >= end) {
            if (reader->ended)
                return next_buffer(reader, end);
            FM_TRY(next_buffer(reader, end));
            from = reader->buffer;
            continue;
        }
        enum step step = try_event(reader, p);
        if (step == GO_ON)
            return p == reader->buffer ? FM_OK : next_buffer(reader, p);
        from = p + 1;
        // What does not end in a buffer of its own is taken for none: damage must not make the buffer grow.
        if (step == NEED_MORE && p > reader->buffer) {
            FM_TRY(next_buffer(reader, p));
            from = reader->buffer;
        }
    }
}

/* Steps over damage. */
static fm_status resume(struct fm_trace_reader *reader, const char *from)
{
    if (!reader->broken || !reader->ended)
        note_damage(reader); // else the cut that ends the text is what broke the stream, counted before
    return seek_event(reader, from);
}

static fm_status first_buffer(struct fm_trace_reader *reader)
{
    FM_TRY(grow_buffer(reader));
    return fill(reader, 0);
}

fm_status fm_trace_reader_seek(struct fm_trace_reader *reader)
{
    reader->base = reader->file_at;
    FM_TRY(first_buffer(reader));
    return seek_event(reader, reader->buffer);
}

fm_status fm_trace_reader_run(struct fm_trace_reader *reader)
{
    if (!reader->buffer)
        FM_TRY(first_buffer(reader));
    struct spot spot = {reader->buffer, NULL};
    for (;;) {
        fm_status status = FM_OK;
        if (reader->place != FM_TRACE_EVENTS)
            index_rest(reader, &spot);
        enum step step = steps[reader->place](reader, &spot, &status);
        if (step == DONE) {
            reader->base += (uint64_t)(spot.p - reader->buffer);
            return FM_OK;
        }
        if (step == GO_ON)
            continue;
        if (step == NEED_MORE)
            status = next_buffer(reader, spot.p);
        // An event that is too large is damage, too.
        int is_damage = status == FM_ERR_FORMAT || (step == NEED_MORE && status == FM_ERR_LIMIT);
        if (is_damage && reader->salvage) {
            status = resume(reader, spot.p + (spot.p < reader->buffer + reader->length));
            if (status == FM_OK && reader->length == 0)
                return FM_OK;
        }
        FM_TRY(status);
        spot = (struct spot){reader->buffer, NULL};
    }
}

void fm_trace_reader_init(struct fm_trace_reader *reader, struct fm_trace_store *store, const char *name)
{
    *reader = (struct fm_trace_reader){.store = store,
                                       .name = name,
                                       .file = -1,
                                       .stop = UINT64_MAX,
                                       .index = fm_trace_index_choose(),
                                       .walk = fm_trace_shape_choose(),
                                       .shapes.keep_args = store->keep_args};
}

void fm_trace_reader_clear(struct fm_trace_reader *reader)
{
    fm_base_mem_free(reader->buffer);
    fm_base_mem_free(reader->entries);
    fm_trace_shapes_clear(&reader->shapes);
}

static fm_status read_whole(struct fm_trace_store *store, struct fm_trace_reader *reader)
{
    FM_TRY(fm_trace_store_begin_file(store, reader->name));
    fm_status status = fm_trace_reader_run(reader);
    fm_trace_reader_clear(reader);
    FM_TRY(status);
    store->files.at[store->files.count - 1].bytes = reader->base;
    return fm_trace_store_end_file(store, reader->base_ns);
}

static fm_status begin(const fm_trace_read_options **options, struct fm_trace_store **out_store)
{
    static const fm_trace_read_options defaults = {.size = sizeof defaults};
    if (!*options)
        *options = &defaults;
    if ((*options)->size != sizeof defaults)
        return fm_base_error_set(FM_ERR_ARG, "read options of %zu bytes; expected size = %zu",
                                 (*options)->size, sizeof defaults);
    if ((*options)->threads < 0)
        return fm_base_error_set(FM_ERR_ARG, "%d threads to read a trace with; expected 0 or more",
                                 (*options)->threads);
    return fm_trace_store_create((*options)->keep_args, out_store);
}

static fm_status read_file(struct fm_trace_store *store, const char *path,
                           const fm_trace_read_options *options)
{
    struct fm_trace_reader reader;
    int done = 0, threads = options->threads ? options->threads : fm_base_cpu_threads();
    // Parts cannot say where damage ends, so a salvaging reader takes the file as one.
    if (!options->salvage)
        FM_TRY(fm_trace_read_parts(store, path, threads, &done));
    if (done)
        return FM_OK;
    fm_trace_reader_init(&reader, store, path);
    reader.salvage = options->salvage;
    FM_TRY(fm_base_gzip_open(path, &reader.stream));
    fm_status status = read_whole(store, &reader);
    fm_base_gzip_close(reader.stream);
    return status;
}

/* Hands the store out as a trace, or frees it. */
static fm_status publish(struct fm_trace_store *store, fm_status status, fm_trace **out_trace)
{
    fm_trace_store_publish(store);
    if (status < 0)
        fm_trace_data_free(&store->trace);
    else
        *out_trace = &store->trace;
    return status;
}

fm_status fm_trace_data_read(const char *const *paths, size_t path_count,
                             const fm_trace_read_options *options, fm_trace **out_trace)
{
    struct fm_trace_store *store;
    FM_TRY(begin(&options, &store));
    fm_status status = FM_OK;
    for (size_t i = 0; i < path_count && status == FM_OK; i++)
        status = read_file(store, paths[i], options);
    return publish(store, status, out_trace);
}

fm_status fm_trace_data_parse(const char *text, size_t length, const char *name,
                              const fm_trace_read_options *options, fm_trace **out_trace)
{
    struct fm_trace_store *store;
    struct fm_trace_reader reader;
    FM_TRY(begin(&options, &store));
    fm_trace_reader_init(&reader, store, name);
    reader.salvage = options->salvage;
    reader.memory = text;
    reader.memory_end = text + length;
    return publish(store, read_whole(store, &reader), out_trace);
}
