// Segment files of the cache: written, read back, opened for gets, removed.
#include "kvcache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/crc.h"
#include "fs_backend.h"

static const char segment_magic[8] = {'F', 'M', 'K', 'V', 'S', 'E', 'G', '1'};
static const char record_magic[4] = {'K', 'V', 'R', '1'};

enum {
    VERSION = 1,
    // Files that stay open for gets: few enough to leave a process its descriptors, enough for the segments that a
    // busy prefix is spread over.
    OPEN_MAX = 64,
    // What a scan reads at once: some hundred heads of small records; of large ones, one.
    WINDOW_BYTES = 16384
};

void fm_fs_kvcache_segment_free(struct fm_fs_kvcache_segment *segment)
{
    if (!segment)
        return;
    fm_fs_file_close(segment->file);
    fm_base_mem_free(segment);
}

static int compare(const struct fm_fs_kvcache_segment *a, const struct fm_fs_kvcache_segment *b)
{
    return a->created_ns != b->created_ns ? (a->created_ns > b->created_ns) - (a->created_ns < b->created_ns)
                                          : (a->writer > b->writer) - (a->writer < b->writer);
}

static fm_status new_segment(uint64_t created_ns, uint64_t writer, struct fm_fs_kvcache_segment **out_segment)
{
    struct fm_fs_kvcache_segment *segment = fm_base_mem_zalloc(1, sizeof *segment);
    if (!segment)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a segment");
    segment->created_ns = created_ns;
    segment->writer = writer;
    snprintf(segment->name, sizeof segment->name, "kv-%016" PRIx64 "-%016" PRIx64 ".seg", created_ns, writer);
    *out_segment = segment;
    return FM_OK;
}

// Puts a segment in its place among the others.
static fm_status enter(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    if (cache->segment_count == cache->segment_capacity) {
        size_t capacity = cache->segment_capacity ? 2 * cache->segment_capacity : 16;
        struct fm_fs_kvcache_segment **moved = fm_base_mem_realloc(cache->segments, capacity, sizeof(void *));
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu segments", capacity);
        cache->segments = moved;
        cache->segment_capacity = capacity;
    }
    size_t place = cache->segment_count++;
    for (; place > 0 && compare(cache->segments[place - 1], segment) > 0; place--)
        cache->segments[place] = cache->segments[place - 1];
    cache->segments[place] = segment;
    return FM_OK;
}

// Takes a segment out from among the others; the caller frees it once it has let go of the lock, unless it is pinned: then
// who drops the last pin does.
static void drop(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    size_t place = 0;
    while (cache->segments[place] != segment)
        place++;
    memmove(&cache->segments[place], &cache->segments[place + 1],
            (--cache->segment_count - place) * sizeof(void *));
    fm_fs_kvcache_forget_all(cache, segment);
    cache->info.bytes -= segment->size;
    if (cache->active == segment)
        cache->active = NULL;
    segment->gone = 1;
}

static void resize(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment, uint64_t size)
{
    cache->info.bytes += size - segment->size;
    segment->size = size;
}

static fm_status path_of(const fm_fs_kvcache *cache, const struct fm_fs_kvcache_segment *segment,
                         char out_path[FM_FS_PATH_MAX + 1])
{
    return fm_fs_path_join(cache->folder, segment->name, out_path);
}

static fm_status create(const fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    char path[FM_FS_PATH_MAX + 1];
    uint8_t head[FM_FS_KVCACHE_SEGMENT_HEAD];
    memcpy(head, segment_magic, sizeof segment_magic);
    fm_put_le32(head + 12, VERSION);
    fm_put_le64(head + 16, segment->created_ns);
    fm_put_le64(head + 24, segment->writer);
    fm_put_le32(head + 8, fm_base_crc32c(0, head + 12, sizeof head - 12));
    FM_TRY(path_of(cache, segment, path));
    FM_TRY(fm_fs_file_open(cache->fs, path,
                           FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE | FM_FS_RANDOM |
                               FM_FS_EAGER,
                           &segment->file));
    return fm_fs_file_write(segment->file, head, sizeof head, 0);
}

fm_status fm_fs_kvcache_begin(fm_fs_kvcache *cache)
{
    uint64_t created_ns = cache->options.now(cache->options.now_context);
    struct fm_fs_kvcache_segment *segment = NULL;
    // Above all others, also where clocks are set back: names are unique, and what is written last goes last.
    if (cache->segment_count && cache->segments[cache->segment_count - 1]->created_ns >= created_ns)
        created_ns = cache->segments[cache->segment_count - 1]->created_ns + 1;
    FM_TRY(new_segment(created_ns, cache->writer, &segment));
    // Without the lock, for it may take a while. After a failure the file, if there is one, is an empty segment to others.
    fm_status status = create(cache, segment);
    if (status == FM_OK) {
        pthread_mutex_lock(&cache->lock);
        status = enter(cache, segment);
        if (status == FM_OK) {
            segment->end = FM_FS_KVCACHE_SEGMENT_HEAD;
            resize(cache, segment, segment->end);
            cache->active = segment;
        }
        pthread_mutex_unlock(&cache->lock);
    }
    if (status < 0)
        fm_fs_kvcache_segment_free(segment);
    return status;
}

static void write_head(uint8_t *head, const struct fm_fs_kvcache_entry *entry)
{
    memcpy(head, record_magic, sizeof record_magic);
    memcpy(head + 8, entry->key.bytes, sizeof entry->key.bytes);
    fm_put_le32(head + 40, entry->size);
    fm_put_le32(head + 44, entry->crc);
    fm_put_le64(head + 48, entry->used_ns);
    fm_put_le64(head + 56, entry->offset - FM_FS_KVCACHE_RECORD_HEAD);
    fm_put_le32(head + 4, fm_base_crc32c(0, head + 8, FM_FS_KVCACHE_RECORD_HEAD - 8));
}

static fm_status ready_staging(fm_fs_kvcache *cache, size_t size)
{
    if (size <= cache->staging_size)
        return FM_OK;
    uint8_t *staging = fm_base_mem_alloc(size);
    if (!staging)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to put %zu bytes", size);
    fm_base_mem_free(cache->staging);
    cache->staging = staging;
    cache->staging_size = size;
    return FM_OK;
}

fm_status fm_fs_kvcache_append(fm_fs_kvcache *cache, struct fm_fs_kvcache_entry *entries, size_t count,
                               const void *const *values)
{
    struct fm_fs_kvcache_segment *segment = cache->active;
    uint64_t place = segment->end;
    uint64_t end = place;
    for (size_t i = 0; i < count; i++)
        end += FM_FS_KVCACHE_RECORD_HEAD + (uint64_t)entries[i].size;
    FM_TRY(ready_staging(cache, (size_t)(end - place)));
    uint8_t *at = cache->staging;
    for (size_t i = 0; i < count; i++) {
        struct fm_fs_kvcache_entry *entry = &entries[i];
        uint8_t *value = at + FM_FS_KVCACHE_RECORD_HEAD;
        memcpy(value, values[i], entry->size);
        entry->segment = segment;
        entry->offset = place + (uint64_t)(value - cache->staging);
        entry->crc = fm_base_crc32c(0, value, entry->size);
        write_head(at, entry);
        at = value + entry->size;
    }
    fm_status status = fm_fs_file_write(segment->file, cache->staging, (size_t)(end - place), place);
    pthread_mutex_lock(&cache->lock);
    resize(cache, segment, end);
    if (status == FM_OK) {
        segment->end = end;
        for (size_t i = 0; i < count && status == FM_OK; i++)
            status = fm_fs_kvcache_insert(cache, &entries[i]);
    } else {
        cache->active = NULL; // what stands behind its end is unknown
    }
    pthread_mutex_unlock(&cache->lock);
    return status;
}

fm_status fm_fs_kvcache_remove(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    char path[FM_FS_PATH_MAX + 1];
    FM_TRY(path_of(cache, segment, path));
    fm_status status = fm_fs_unlink(cache->fs, path);
    if (status < 0 && status != FM_ERR_NOT_FOUND) // somebody else needed room, too
        return status;
    pthread_mutex_lock(&cache->lock);
    for (const struct fm_fs_kvcache_entry *entry = segment->entries; entry; entry = entry->sibling)
        cache->info.evicted++;
    drop(cache, segment);
    int pinned = segment->pins > 0;
    pthread_mutex_unlock(&cache->lock);
    // Closing a removed file gives its space back, which takes long.
    if (!pinned)
        fm_fs_kvcache_segment_free(segment);
    return FM_OK;
}

/* Gets */

static void close_idlest(fm_fs_kvcache *cache)
{
    struct fm_fs_kvcache_segment *idlest = NULL;
    size_t open = 0;
    for (size_t i = 0; i < cache->segment_count; i++) {
        struct fm_fs_kvcache_segment *segment = cache->segments[i];
        open += segment->file != NULL;
        if (segment->file && !segment->pins && segment != cache->active &&
            (!idlest || segment->opened < idlest->opened))
            idlest = segment;
    }
    if (open < OPEN_MAX || !idlest)
        return;
    fm_fs_file_close(idlest->file);
    idlest->file = NULL;
}

fm_status fm_fs_kvcache_pin(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    if (!segment->file) {
        char path[FM_FS_PATH_MAX + 1];
        FM_TRY(path_of(cache, segment, path));
        close_idlest(cache);
        FM_TRY(fm_fs_file_open(cache->fs, path, FM_FS_READ | FM_FS_RANDOM, &segment->file));
    }
    segment->opened = ++cache->opens;
    segment->pins++;
    return FM_OK;
}

struct fm_fs_kvcache_segment *fm_fs_kvcache_unpin(struct fm_fs_kvcache_segment *segment)
{
    return --segment->pins == 0 && segment->gone ? segment : NULL;
}

/* Scans */

// A view of a file that moves forward.
struct window {
    fm_fs_file *file;
    uint64_t at;
    size_t size;
    uint8_t bytes[WINDOW_BYTES];
};

// `size` bytes at `offset`; NULL: the file has not so many.
static fm_status look(struct window *window, uint64_t offset, size_t size, const uint8_t **out_bytes)
{
    if (offset < window->at || offset + size > window->at + window->size) {
        window->size = 0;
        window->at = offset;
        FM_TRY(fm_fs_file_read(window->file, window->bytes, sizeof window->bytes, offset, &window->size));
    }
    *out_bytes = size <= window->size - (offset - window->at) ? window->bytes + (offset - window->at) : NULL;
    return FM_OK;
}

static int head_is_good(const struct fm_fs_kvcache_segment *segment, const uint8_t *head)
{
    return memcmp(head, segment_magic, sizeof segment_magic) == 0 &&
           fm_get_le32(head + 8) == fm_base_crc32c(0, head + 12, FM_FS_KVCACHE_SEGMENT_HEAD - 12) &&
           fm_get_le32(head + 12) == VERSION && fm_get_le64(head + 16) == segment->created_ns &&
           fm_get_le64(head + 24) == segment->writer;
}

// Whether a record stands at `place` of a file of `size` bytes; fills the entry except its segment.
static int read_record(const uint8_t *head, uint64_t place, uint64_t size, struct fm_fs_kvcache_entry *entry)
{
    if (memcmp(head, record_magic, sizeof record_magic) != 0 ||
        fm_get_le32(head + 4) != fm_base_crc32c(0, head + 8, FM_FS_KVCACHE_RECORD_HEAD - 8) ||
        fm_get_le64(head + 56) != place)
        return 0;
    *entry = (struct fm_fs_kvcache_entry){.offset = place + FM_FS_KVCACHE_RECORD_HEAD,
                                          .used_ns = fm_get_le64(head + 48),
                                          .size = fm_get_le32(head + 40),
                                          .crc = fm_get_le32(head + 44)};
    memcpy(entry->key.bytes, head + 8, sizeof entry->key.bytes);
    return entry->size > 0 && entry->size <= size - entry->offset;
}

// Enters the records from the segment's end on, as far as they are good.
static fm_status read_records(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment,
                              struct window *window, uint64_t size)
{
    const uint8_t *head;
    if (!segment->end) {
        FM_TRY(look(window, 0, FM_FS_KVCACHE_SEGMENT_HEAD, &head));
        if (!head || !head_is_good(segment, head))
            return FM_OK;
        segment->end = FM_FS_KVCACHE_SEGMENT_HEAD;
    }
    while (segment->end + FM_FS_KVCACHE_RECORD_HEAD < size) {
        struct fm_fs_kvcache_entry entry;
        FM_TRY(look(window, segment->end, FM_FS_KVCACHE_RECORD_HEAD, &head));
        if (!head || !read_record(head, segment->end, size, &entry))
            return FM_OK;
        entry.segment = segment;
        // A younger segment's entry stays: it is a copy that was kept when room was made.
        const struct fm_fs_kvcache_entry *old = fm_fs_kvcache_find(cache, &entry.key);
        if (!old || compare(old->segment, segment) <= 0)
            FM_TRY(fm_fs_kvcache_insert(cache, &entry));
        segment->end = entry.offset + entry.size;
    }
    return FM_OK;
}

static fm_status read_segment(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    fm_fs_info info;
    struct window window = {.size = 0};
    if (segment->file && segment->writer == cache->writer)
        return FM_OK; // this cache has written it
    fm_status status = fm_fs_kvcache_pin(cache, segment);
    if (status == FM_ERR_NOT_FOUND)
        return FM_OK; // just removed; the next refresh drops it
    FM_TRY(status);
    window.file = segment->file;
    status = fm_fs_file_stat(segment->file, &info);
    if (status == FM_OK) {
        resize(cache, segment, info.size);
        status = read_records(cache, segment, &window, info.size);
    }
    (void)fm_fs_kvcache_unpin(segment); // a scan drops none that it reads
    return status;
}

// The numbers in a segment's name; 0: it is none.
static int parse_name(const char *name, uint64_t *out_created_ns, uint64_t *out_writer)
{
    char again[FM_FS_KVCACHE_NAME_BYTES];
    if (strlen(name) != sizeof again - 1 || memcmp(name, "kv-", 3) != 0)
        return 0;
    *out_created_ns = strtoull(name + 3, NULL, 16);
    *out_writer = strtoull(name + 20, NULL, 16);
    snprintf(again, sizeof again, "kv-%016" PRIx64 "-%016" PRIx64 ".seg", *out_created_ns, *out_writer);
    return strcmp(name, again) == 0 && *out_created_ns <= INT64_MAX; // a time, to which 1 can be added
}

static fm_status note(fm_fs_kvcache *cache, const char *name)
{
    uint64_t created_ns;
    uint64_t writer;
    struct fm_fs_kvcache_segment *segment = NULL;
    if (!parse_name(name, &created_ns, &writer))
        return FM_OK;
    for (size_t i = 0; i < cache->segment_count && !segment; i++)
        if (cache->segments[i]->created_ns == created_ns && cache->segments[i]->writer == writer)
            segment = cache->segments[i];
    if (!segment) {
        FM_TRY(new_segment(created_ns, writer, &segment));
        fm_status status = enter(cache, segment);
        if (status < 0) {
            fm_fs_kvcache_segment_free(segment);
            return status;
        }
    }
    segment->seen = 1;
    return FM_OK;
}

// A segment whose file somebody has removed.
static void forget_segment(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    drop(cache, segment);
    if (!segment->pins)
        fm_fs_kvcache_segment_free(segment);
}

fm_status fm_fs_kvcache_scan(fm_fs_kvcache *cache)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(fm_fs_list_open(cache->fs, *cache->folder ? cache->folder : ".", &list));
    pthread_mutex_lock(&cache->lock);
    for (size_t i = 0; i < cache->segment_count; i++)
        cache->segments[i]->seen = 0;
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry)
        if ((status = note(cache, entry->name)) < 0)
            break;
    if (status == FM_OK)
        for (size_t i = cache->segment_count; i-- > 0;)
            if (!cache->segments[i]->seen)
                forget_segment(cache, cache->segments[i]);
    for (size_t i = 0; i < cache->segment_count && status == FM_OK; i++)
        status = read_segment(cache, cache->segments[i]);
    pthread_mutex_unlock(&cache->lock);
    fm_fs_list_close(list);
    return status;
}
