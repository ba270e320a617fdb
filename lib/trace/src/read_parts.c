/*
 * A large file read by several threads. Each takes a part: part k begins with the first whole event at or behind its offset,
 * found without knowing what stands before it, and ends where an event of the next part begins.
 *
 *     part 0: begin ... first event behind offset 1 | part 1: that event ... first event behind offset 2 | part 2: ...
 *
 * Where a part ended is where the next one must have begun: then the parts are what one reader would have read, for the first
 * one began at the beginning. If any two do not meet (what looks like an event stands in a string, say), or anything else is
 * unusual, the file is read again by one reader, which also words all errors.
 */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "reader.h"

// Smaller parts are not worth a thread: this one takes some milliseconds. One part alone gains by knowing the file's size.
#define PART_BYTES_MIN ((uint64_t)4 << 20)
enum { PARTS_MAX = 64 };

struct part {
    struct fm_trace_reader reader;
    uint64_t begin, end; // of its first event; of what it read
    fm_status status;
    int is_first;
    pthread_t thread;
};

static fm_status read_part(struct part *part)
{
    struct fm_trace_store *store = part->reader.store;
    FM_TRY(fm_trace_store_begin_file(store, part->reader.name));
    // Every part is as long as the first.
    FM_TRY(fm_trace_store_expect(store, part->reader.stop - part->reader.file_at));
    if (!part->is_first)
        FM_TRY(fm_trace_reader_seek(&part->reader));
    part->begin = part->reader.base;
    FM_TRY(fm_trace_reader_run(&part->reader));
    part->end = part->reader.base;
    return FM_OK;
}

static void *run_part(void *opaque)
{
    struct part *part = opaque;
    part->status = read_part(part);
    fm_trace_reader_clear(&part->reader);
    return NULL;
}

/* Whether the file begins as a plain trace does; what brackets its events. */
static int looks_plain(int fd, int *out_is_object)
{
    char head[64];
    ssize_t got = pread(fd, head, sizeof head, 0);
    for (ssize_t i = 0; i < got; i++)
        if (!fm_trace_is_space(head[i])) {
            *out_is_object = head[i] == '{';
            return head[i] == '{' || head[i] == '[';
        }
    return 0;
}

static fm_status make_parts(const char *path, int fd, uint64_t size, int is_object, int keep_args,
                            struct part *parts, int count)
{
    for (int i = 0; i < count; i++) {
        struct fm_trace_store *store;
        FM_TRY(fm_trace_store_create(keep_args, &store));
        store->is_part = count > 1;
        struct fm_trace_reader *reader = &parts[i].reader;
        fm_trace_reader_init(reader, store, path);
        reader->file = fd;
        reader->file_at = size / (uint64_t)count * (uint64_t)i;
        reader->stop = i + 1 < count ? size / (uint64_t)count * (uint64_t)(i + 1) : size;
        parts[i].is_first = i == 0;
        if (i > 0) {
            reader->place = FM_TRACE_EVENTS;
            reader->is_object = is_object;
        }
    }
    return FM_OK;
}

/* Reads all parts; those for which there is no thread are read here, in order. */
static void run_parts(struct part *parts, int count)
{
    int started = 1;
    while (started < count && pthread_create(&parts[started].thread, NULL, run_part, &parts[started]) == 0)
        started++;
    run_part(&parts[0]);
    for (int i = started; i < count; i++)
        run_part(&parts[i]);
    for (int i = 1; i < started; i++)
        pthread_join(parts[i].thread, NULL);
}

/* Whether each part began where the one before it ended. */
static int parts_meet(const struct part *parts, int count)
{
    for (int i = 0; i < count; i++)
        if (parts[i].status != FM_OK || (i > 0 && parts[i].begin != parts[i - 1].end))
            return 0;
    return 1;
}

/* What stands outside the events is read by the first part and by the last one. */
static void take_about(fm_trace_file *file, const fm_trace_file *other)
{
    file->rank = other->rank >= 0 ? other->rank : file->rank;
    file->world_size = other->world_size ? other->world_size : file->world_size;
    file->multiprocessors = other->multiprocessors ? other->multiprocessors : file->multiprocessors;
    if (other->device[0])
        memcpy(file->device, other->device, sizeof file->device);
}

static fm_status join_parts(struct fm_trace_store *store, struct part *parts, int count)
{
    int64_t base_ns = 0;
    int kept = 0;
    if (store->files.count == 0) {
        // The first part becomes the trace, and what was to be it is freed with the part.
        struct fm_trace_store taken = *parts[0].reader.store;
        taken.is_part = 0;
        *parts[0].reader.store = *store;
        *store = taken;
        base_ns = parts[0].reader.base_ns;
        kept = 1;
    } else {
        FM_TRY(fm_trace_store_begin_file(store, parts[0].reader.name));
    }
    for (int i = kept; i < count; i++) {
        FM_TRY(fm_trace_store_append(store, parts[i].reader.store));
        take_about(&store->files.at[store->files.count - 1], &parts[i].reader.store->files.at[0]);
        base_ns = parts[i].reader.base_ns ? parts[i].reader.base_ns : base_ns;
        fm_trace_data_free(&parts[i].reader.store->trace);
        parts[i].reader.store = NULL;
    }
    store->files.at[store->files.count - 1].bytes = parts[count - 1].end;
    return fm_trace_store_end_file(store, base_ns);
}

static fm_status read_parts(struct fm_trace_store *store, const char *path, int fd, uint64_t size, int count,
                            int *out_done)
{
    struct part *parts = fm_base_mem_zalloc((size_t)count, sizeof *parts);
    int is_object = 0;
    fm_status status = FM_OK;
    if (!parts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", path);
    if (looks_plain(fd, &is_object)) {
        status = make_parts(path, fd, size, is_object, store->keep_args, parts, count);
        if (status == FM_OK)
            run_parts(parts, count);
        if (status == FM_OK && count == 1) // a second reader would find the same
            status = parts[0].status;
        if (status == FM_OK && parts_meet(parts, count)) {
            status = join_parts(store, parts, count);
            *out_done = status == FM_OK;
        }
    }
    for (int i = 0; i < count; i++)
        if (parts[i].reader.store)
            fm_trace_data_free(&parts[i].reader.store->trace);
    fm_base_mem_free(parts);
    return status;
}

fm_status fm_trace_read_parts(struct fm_trace_store *store, const char *path, int threads, int *out_done)
{
    struct stat about;
    *out_done = 0;
    // What fails here is for the one reader to say.
    int fd = strcmp(path, "-") == 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return FM_OK;
    fm_status status = FM_OK;
    if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode)) {
        uint64_t size = (uint64_t)about.st_size, count = size / PART_BYTES_MIN;
        count = count < (uint64_t)threads ? count : (uint64_t)threads;
        // A first file alone becomes the trace as it is; to append it to another is what `count` > 1 is worth.
        if (count > 1 || (count == 1 && store->files.count == 0))
            status =
                read_parts(store, path, fd, size, (int)(count < PARTS_MAX ? count : PARTS_MAX), out_done);
    }
    close(fd);
    return status;
}
