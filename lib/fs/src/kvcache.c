// The cache of keys and values: puts, which make room, and gets.
#include "kvcache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fs_backend.h"

enum {
    BYTES_MIN = 4096,
    SEGMENT_MIN = 512, // several heads' worth
    // Enough to keep an NVMe disk busy with reads of a block's size.
    QUEUE_DEPTH = 32,
    // Of values that are put together and written by one call: as many as nearly all requests have, and as many bytes as
    // keep a cluster's chunks busy beside each other.
    GROUP_MAX = 128,
    GROUP_BYTES = 16 << 20
};

static uint64_t calendar(void *context)
{
    (void)context;
    return fm_base_clock_unix_ns();
}

static fm_status complete(fm_fs_kvcache_options *options)
{
    if (!options->bytes_max)
        options->bytes_max = (uint64_t)16 << 30;
    if (!options->segment_bytes) {
        options->segment_bytes = options->bytes_max / 8;
        if (options->segment_bytes > 64 << 20)
            options->segment_bytes = 64 << 20;
    }
    if (options->bytes_max < BYTES_MIN || options->segment_bytes < SEGMENT_MIN ||
        options->segment_bytes > options->bytes_max / 4 || options->segment_bytes > UINT32_MAX)
        return fm_base_error_set(
            FM_ERR_ARG,
            "bytes_max is %llu, segment_bytes %llu; expected at least %d, and from %d to a "
            "quarter of bytes_max (below 4 GiB)",
            (unsigned long long)options->bytes_max, (unsigned long long)options->segment_bytes, BYTES_MIN,
            SEGMENT_MIN);
    if (!options->now)
        options->now = calendar;
    return FM_OK;
}

static fm_status start(fm_fs_kvcache *cache, const char *folder)
{
    FM_TRY(complete(&cache->options));
    FM_TRY(fm_fs_path_canonical(folder, "folder", cache->folder));
    if (getrandom(&cache->writer, sizeof cache->writer, 0) != (ssize_t)sizeof cache->writer)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    FM_TRY(fm_fs_mkdir(cache->fs, folder, FM_FS_PARENTS));
    FM_TRY(fm_fs_kvcache_scan(cache));
    return fm_fs_kvcache_trim(cache);
}

fm_status fm_fs_kvcache_open(fm_fs *fs, const char *folder, const fm_fs_kvcache_options *options,
                             fm_fs_kvcache **out_cache)
{
    if (!fs || (options && options->size != sizeof *options))
        return fm_base_error_set(FM_ERR_ARG, "fs is %s and options->size %zu; expected %zu",
                                 fs ? "given" : "NULL", options ? options->size : 0, sizeof *options);
    fm_fs_kvcache *cache = fm_base_mem_zalloc(1, sizeof *cache);
    if (!cache)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a cache");
    cache->fs = fs;
    if (options)
        cache->options = *options;
    pthread_mutex_init(&cache->put_lock, NULL);
    pthread_mutex_init(&cache->lock, NULL);
    pthread_mutex_init(&cache->queue_lock, NULL);
    fm_status status = start(cache, folder);
    if (status < 0) {
        fm_fs_kvcache_close(cache);
        return status;
    }
    *out_cache = cache;
    return FM_OK;
}

void fm_fs_kvcache_close(fm_fs_kvcache *cache)
{
    if (!cache)
        return;
    fm_fs_queue_close(cache->queue);
    for (size_t i = 0; i < cache->segment_count; i++) {
        fm_fs_kvcache_forget_all(cache, cache->segments[i]);
        fm_fs_kvcache_segment_free(cache->segments[i]);
    }
    pthread_mutex_destroy(&cache->queue_lock);
    pthread_mutex_destroy(&cache->lock);
    pthread_mutex_destroy(&cache->put_lock);
    fm_base_mem_free(cache->staging);
    fm_base_mem_free(cache->segments);
    fm_base_mem_free(cache->buckets);
    fm_base_mem_free(cache);
}

static int is_old(const fm_fs_kvcache *cache, const struct fm_fs_kvcache_entry *entry, uint64_t now)
{
    uint64_t age = now > entry->used_ns ? now - entry->used_ns : 0;
    return cache->options.age_max_ns && age > cache->options.age_max_ns;
}

// The key's entry, unless it is too old; it counts as used.
static struct fm_fs_kvcache_entry *use(const fm_fs_kvcache *cache, const fm_fs_kvcache_key *key, uint64_t now)
{
    struct fm_fs_kvcache_entry *entry = fm_fs_kvcache_find(cache, key);
    if (!entry || is_old(cache, entry, now))
        return NULL;
    entry->used_ns = now;
    entry->uses++;
    return entry;
}

static uint64_t now_of(const fm_fs_kvcache *cache)
{
    return cache->options.now(cache->options.now_context);
}

/* Making room */

// Values that are written together.
struct group {
    struct fm_fs_kvcache_entry entries[GROUP_MAX];
    const void *values[GROUP_MAX];
    size_t count;
    uint64_t bytes; // with their heads
};

static uint64_t most_bytes(const fm_fs_kvcache *cache)
{
    return cache->options.segment_bytes - FM_FS_KVCACHE_SEGMENT_HEAD;
}

static int has_young(fm_fs_kvcache *cache, const struct fm_fs_kvcache_segment *segment, uint64_t now)
{
    int young = 0;
    pthread_mutex_lock(&cache->lock);
    for (const struct fm_fs_kvcache_entry *entry = segment->entries; entry && !young; entry = entry->sibling)
        young = !is_old(cache, entry, now);
    pthread_mutex_unlock(&cache->lock);
    return young;
}

static fm_status remove_old(fm_fs_kvcache *cache)
{
    uint64_t now = now_of(cache);
    if (!cache->options.age_max_ns)
        return FM_OK;
    for (size_t i = cache->segment_count; i-- > 0;) {
        struct fm_fs_kvcache_segment *segment = cache->segments[i];
        // A segment as young as that may be another program's, which has begun it and not written to it yet.
        int fresh = now <= segment->created_ns || now - segment->created_ns <= cache->options.age_max_ns;
        if (segment != cache->active && !fresh && !has_young(cache, segment, now))
            FM_TRY(fm_fs_kvcache_remove(cache, segment));
    }
    return FM_OK;
}

// More used ones first, and of equally used ones those written first: beginnings before what follows them.
static int compare_worth(const void *left, const void *right)
{
    const struct fm_fs_kvcache_entry *a = left;
    const struct fm_fs_kvcache_entry *b = right;
    return a->uses != b->uses ? (a->uses < b->uses) - (a->uses > b->uses)
                              : (a->offset > b->offset) - (a->offset < b->offset);
}

// Copies of the entries that were used; NULL where there is no memory, for nothing is lost but speed.
static struct fm_fs_kvcache_entry *used_entries(fm_fs_kvcache *cache,
                                                const struct fm_fs_kvcache_segment *segment,
                                                size_t *out_count)
{
    size_t count = 0;
    uint64_t now = now_of(cache);
    pthread_mutex_lock(&cache->lock);
    for (const struct fm_fs_kvcache_entry *entry = segment->entries; entry; entry = entry->sibling)
        count += entry->uses > 0;
    struct fm_fs_kvcache_entry *used = count ? fm_base_mem_zalloc(count, sizeof *used) : NULL;
    count = 0;
    for (const struct fm_fs_kvcache_entry *entry = segment->entries; used && entry; entry = entry->sibling)
        if (entry->uses > 0 && !is_old(cache, entry, now))
            used[count++] = *entry;
    pthread_mutex_unlock(&cache->lock);
    *out_count = count;
    return used;
}

// Room for a record of a value of `size` bytes in the active segment, or in a new one.
static fm_status ready_active(fm_fs_kvcache *cache, uint64_t size)
{
    if (cache->active &&
        cache->active->end + FM_FS_KVCACHE_RECORD_HEAD + size <= cache->options.segment_bytes)
        return FM_OK;
    return fm_fs_kvcache_begin(cache);
}

static uint64_t cost_of(uint64_t size)
{
    return FM_FS_KVCACHE_RECORD_HEAD + size;
}

// Writes the group, in parts if the active segment has not room for all of it.
static fm_status append_group(fm_fs_kvcache *cache, struct group *group)
{
    for (size_t done = 0; done < group->count;) {
        size_t count = 0;
        FM_TRY(ready_active(cache, group->entries[done].size));
        uint64_t room = cache->options.segment_bytes - cache->active->end;
        while (done + count < group->count && cost_of(group->entries[done + count].size) <= room)
            room -= cost_of(group->entries[done + count++].size);
        FM_TRY(fm_fs_kvcache_append(cache, &group->entries[done], count, &group->values[done]));
        done += count;
    }
    return FM_OK;
}

static int bytes_are_good(const struct fm_fs_kvcache_entry *entry, const void *bytes, size_t read)
{
    return read == entry->size && fm_base_crc32c(0, bytes, read) == entry->crc;
}

// Runs the reads; the status of each is in it. A queue that failed is made anew by the next call.
static void run_reads(fm_fs_kvcache *cache, fm_fs_io *ios, size_t count)
{
    pthread_mutex_lock(&cache->queue_lock);
    fm_status status = cache->queue ? FM_OK : fm_fs_queue_open(cache->fs, QUEUE_DEPTH, &cache->queue);
    if (status == FM_OK)
        status = fm_fs_queue_run(cache->queue, ios, count);
    if (status < 0) {
        fm_fs_queue_close(cache->queue);
        cache->queue = NULL;
    }
    pthread_mutex_unlock(&cache->queue_lock);
}

// What is kept of a segment, a group at a time.
struct keeper {
    struct group group;
    fm_fs_io ios[GROUP_MAX];
    uint64_t left;   // bytes that may still be kept
    uint8_t bytes[]; // as many
};

// Fills the group from the first of `used`, as far as they may be kept. Returns how many it has looked at.
static size_t choose(const fm_fs_kvcache *cache, struct keeper *keeper,
                     const struct fm_fs_kvcache_entry *used, size_t count)
{
    struct group *group = &keeper->group;
    size_t i = 0;
    group->count = 0;
    group->bytes = 0;
    for (; i < count && group->count < GROUP_MAX; i++) {
        uint64_t cost = cost_of(used[i].size);
        // Another program's segments may be larger than ours.
        if (cost > keeper->left || cost > most_bytes(cache))
            continue;
        if (group->count && group->bytes + cost > GROUP_BYTES)
            break;
        group->entries[group->count] = used[i];
        group->entries[group->count++].uses = 0; // it must be used again to be kept again
        group->bytes += cost;
        keeper->left -= cost;
    }
    return i;
}

// Reads the group's values; those that are not good leave it.
static void read_group(fm_fs_kvcache *cache, struct keeper *keeper, fm_fs_file *file)
{
    struct group *group = &keeper->group;
    size_t good = 0;
    uint8_t *at = keeper->bytes;
    for (size_t i = 0; i < group->count; at += group->entries[i++].size)
        keeper->ios[i] = (fm_fs_io){.kind = FM_FS_IO_READ,
                                    .file = file,
                                    .buffer = at,
                                    .length = group->entries[i].size,
                                    .offset = group->entries[i].offset,
                                    .status = FM_ERR_CANCELLED};
    run_reads(cache, keeper->ios, group->count);
    for (size_t i = 0; i < group->count; i++) {
        const fm_fs_io *io = &keeper->ios[i];
        if (io->status != FM_OK || !bytes_are_good(&group->entries[i], io->buffer, io->done))
            continue;
        group->entries[good] = group->entries[i];
        group->values[good++] = io->buffer;
    }
    group->count = good;
}

// Writes again what was used of the segment, up to half of it, so that removing it always makes room.
static fm_status keep_used(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    size_t count = 0;
    uint64_t kept = 0;
    uint64_t half = segment->size / 2;
    fm_status status = FM_OK;
    struct fm_fs_kvcache_entry *used = used_entries(cache, segment, &count);
    struct keeper *keeper = used ? fm_base_mem_alloc(sizeof *keeper + half) : NULL;
    pthread_mutex_lock(&cache->lock);
    if (segment == cache->active)
        cache->active = NULL;
    int pinned = keeper && fm_fs_kvcache_pin(cache, segment) == FM_OK;
    pthread_mutex_unlock(&cache->lock);
    if (!pinned) {
        fm_base_mem_free(keeper);
        fm_base_mem_free(used);
        return FM_OK;
    }
    qsort(used, count, sizeof *used, compare_worth);
    keeper->left = half;
    for (size_t done = 0; done < count && status == FM_OK;) {
        done += choose(cache, keeper, used + done, count - done);
        if (!keeper->group.count)
            break; // nothing more fits
        read_group(cache, keeper, segment->file);
        status = append_group(cache, &keeper->group);
        kept += status == FM_OK ? keeper->group.count : 0;
    }
    pthread_mutex_lock(&cache->lock);
    cache->info.kept += kept;
    (void)fm_fs_kvcache_unpin(segment); // only who has the put lock, as we do, removes segments
    pthread_mutex_unlock(&cache->lock);
    fm_base_mem_free(keeper);
    fm_base_mem_free(used);
    return status;
}

// Removes the oldest segments until `bytes` more fit, and what may be kept of the next one, and two heads.
static fm_status make_room(fm_fs_kvcache *cache, uint64_t bytes)
{
    uint64_t wanted = bytes + cache->options.segment_bytes / 2 + (uint64_t)2 * FM_FS_KVCACHE_SEGMENT_HEAD;
    while (cache->segment_count && cache->info.bytes + wanted > cache->options.bytes_max) {
        struct fm_fs_kvcache_segment *oldest = cache->segments[0];
        fm_status status = keep_used(cache, oldest);
        // A full disk is no reason to stop: removing is what helps.
        if (status < 0 && status != FM_ERR_SPACE)
            return status;
        FM_TRY(fm_fs_kvcache_remove(cache, oldest));
    }
    return FM_OK;
}

fm_status fm_fs_kvcache_trim(fm_fs_kvcache *cache)
{
    pthread_mutex_lock(&cache->put_lock);
    fm_status status = remove_old(cache);
    if (status == FM_OK)
        status = make_room(cache, 0);
    pthread_mutex_unlock(&cache->put_lock);
    return status;
}

fm_status fm_fs_kvcache_refresh(fm_fs_kvcache *cache)
{
    pthread_mutex_lock(&cache->put_lock);
    fm_status status = fm_fs_kvcache_scan(cache);
    pthread_mutex_unlock(&cache->put_lock);
    return status;
}

/* Puts */

static int is_in(const struct group *group, const fm_fs_kvcache_key *key)
{
    size_t i = 0;
    while (i < group->count && memcmp(&group->entries[i].key, key, sizeof *key) != 0)
        i++;
    return i < group->count;
}

// Takes those of the blocks that are not there, in order, as long as they fit in `bytes`; the first always does. Returns how
// many blocks need no further look.
static size_t gather(fm_fs_kvcache *cache, const fm_fs_kvcache_block *blocks, size_t count, uint64_t bytes,
                     struct group *group)
{
    size_t i = 0;
    uint64_t now = now_of(cache);
    group->count = 0;
    group->bytes = 0;
    pthread_mutex_lock(&cache->lock);
    for (; i < count && group->count < GROUP_MAX; i++) {
        uint64_t cost = cost_of(blocks[i].size);
        if (is_in(group, &blocks[i].key) || use(cache, &blocks[i].key, now)) {
            cache->info.duplicates++;
            continue;
        }
        if (group->count && group->bytes + cost > bytes)
            break;
        group->values[group->count] = blocks[i].buffer;
        group->entries[group->count++] = (struct fm_fs_kvcache_entry){
            .key = blocks[i].key, .size = (uint32_t)blocks[i].size, .used_ns = now};
        group->bytes += cost;
    }
    pthread_mutex_unlock(&cache->lock);
    return i;
}

static fm_status write_group(fm_fs_kvcache *cache, struct group *group)
{
    FM_TRY(make_room(cache, group->bytes));
    FM_TRY(append_group(cache, group));
    pthread_mutex_lock(&cache->lock);
    cache->info.puts += group->count;
    cache->info.put_bytes += group->bytes - group->count * FM_FS_KVCACHE_RECORD_HEAD;
    pthread_mutex_unlock(&cache->lock);
    return FM_OK;
}

static fm_status write_blocks(fm_fs_kvcache *cache, const fm_fs_kvcache_block *blocks, size_t count)
{
    struct group group;
    uint64_t bytes = most_bytes(cache) < GROUP_BYTES ? most_bytes(cache) : GROUP_BYTES;
    const struct fm_fs_kvcache_segment *before = cache->active;
    for (size_t done = 0; done < count;) {
        done += gather(cache, blocks + done, count - done, bytes, &group);
        if (group.count)
            FM_TRY(write_group(cache, &group));
    }
    return before == cache->active ? FM_OK : remove_old(cache);
}

fm_status fm_fs_kvcache_write(fm_fs_kvcache *cache, const fm_fs_kvcache_block *blocks, size_t count)
{
    uint64_t most = most_bytes(cache) - FM_FS_KVCACHE_RECORD_HEAD;
    if (count && !blocks)
        return fm_base_error_set(FM_ERR_ARG, "%zu blocks, but a pointer is NULL", count);
    for (size_t i = 0; i < count; i++) {
        if (!blocks[i].buffer || !blocks[i].size)
            return fm_base_error_set(FM_ERR_ARG, "the value of block %zu is %s; expected at least 1 byte", i,
                                     blocks[i].buffer ? "empty" : "NULL");
        if (blocks[i].size > most)
            return fm_base_error_set(FM_ERR_LIMIT, "a value of %zu bytes; a segment holds at most %llu",
                                     blocks[i].size, (unsigned long long)most);
    }
    pthread_mutex_lock(&cache->put_lock);
    fm_status status = write_blocks(cache, blocks, count);
    pthread_mutex_unlock(&cache->put_lock);
    return status;
}

fm_status fm_fs_kvcache_put(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key, const void *value,
                            size_t size)
{
    if (!key || !value || !size)
        return fm_base_error_set(FM_ERR_ARG, "%s; expected a key and at least 1 byte",
                                 !key     ? "key is NULL"
                                 : !value ? "value is NULL"
                                          : "size is 0");
    fm_fs_kvcache_block block = {.key = *key, .size = size};
    memcpy(&block.buffer, &value, sizeof value); // only read from
    return fm_fs_kvcache_write(cache, &block, 1);
}

/* Gets */

fm_status fm_fs_kvcache_match(fm_fs_kvcache *cache, const fm_fs_kvcache_key *keys, size_t count,
                              size_t *out_count)
{
    size_t matched = 0;
    if ((count && !keys) || !out_count)
        return fm_base_error_set(FM_ERR_ARG, "%zu keys, but a pointer is NULL", count);
    uint64_t now = now_of(cache);
    pthread_mutex_lock(&cache->lock);
    while (matched < count && use(cache, &keys[matched], now))
        matched++;
    pthread_mutex_unlock(&cache->lock);
    *out_count = matched;
    return FM_OK;
}

static fm_status not_found(void)
{
    return fm_base_error_set(FM_ERR_NOT_FOUND, "the cache has no such block");
}

fm_status fm_fs_kvcache_size(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key, size_t *out_size)
{
    uint64_t now = now_of(cache);
    pthread_mutex_lock(&cache->lock);
    const struct fm_fs_kvcache_entry *entry = fm_fs_kvcache_find(cache, key);
    size_t size = entry && !is_old(cache, entry, now) ? entry->size : 0;
    pthread_mutex_unlock(&cache->lock);
    if (!size)
        return not_found();
    *out_size = size;
    return FM_OK;
}

// Finds a block, pins its segment, and copies its entry: begins a read.
static fm_status begin_get(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key, size_t capacity,
                           struct fm_fs_kvcache_entry *out_entry)
{
    uint64_t now = now_of(cache);
    fm_status status = FM_OK;
    pthread_mutex_lock(&cache->lock);
    struct fm_fs_kvcache_entry *entry = use(cache, key, now);
    if (!entry)
        status = not_found();
    else if (entry->size > capacity)
        status = fm_base_error_set(FM_ERR_LIMIT, "the block has %u bytes; there is room for %zu", entry->size,
                                   capacity);
    else
        status = fm_fs_kvcache_pin(cache, entry->segment);
    if (status == FM_OK)
        *out_entry = *entry;
    cache->info.misses += status < 0;
    pthread_mutex_unlock(&cache->lock);
    return status;
}

// Ends it: `good` says whether the bytes are the block's.
static void end_get(fm_fs_kvcache *cache, const struct fm_fs_kvcache_entry *entry, int good)
{
    pthread_mutex_lock(&cache->lock);
    if (good) {
        cache->info.hits++;
        cache->info.hit_bytes += entry->size;
    } else {
        struct fm_fs_kvcache_entry *there = fm_fs_kvcache_find(cache, &entry->key);
        cache->info.misses++;
        cache->info.damaged++;
        if (there && there->segment == entry->segment && there->offset == entry->offset)
            fm_fs_kvcache_forget(cache, there);
    }
    struct fm_fs_kvcache_segment *last = fm_fs_kvcache_unpin(entry->segment);
    pthread_mutex_unlock(&cache->lock);
    fm_fs_kvcache_segment_free(last);
}

fm_status fm_fs_kvcache_get(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key, void *buffer, size_t capacity,
                            size_t *out_size)
{
    struct fm_fs_kvcache_entry entry;
    size_t read = 0;
    if (!key || !buffer || !out_size)
        return fm_base_error_set(FM_ERR_ARG, "key, buffer or out_size is NULL");
    FM_TRY(begin_get(cache, key, capacity, &entry));
    fm_status status = fm_fs_file_read(entry.segment->file, buffer, entry.size, entry.offset, &read);
    int good = status == FM_OK && bytes_are_good(&entry, buffer, read);
    end_get(cache, &entry, good);
    if (!good)
        return not_found();
    *out_size = entry.size;
    return FM_OK;
}

fm_status fm_fs_kvcache_read(fm_fs_kvcache *cache, fm_fs_kvcache_block *blocks, size_t count,
                             size_t *out_hits)
{
    size_t begun = 0;
    size_t hits = 0;
    if ((count && !blocks) || !out_hits)
        return fm_base_error_set(FM_ERR_ARG, "%zu blocks, but a pointer is NULL", count);
    struct fm_fs_kvcache_entry *entries = fm_base_mem_zalloc(count, sizeof *entries);
    fm_fs_io *ios = fm_base_mem_zalloc(count, sizeof *ios);
    if (!entries || !ios) {
        fm_base_mem_free(ios);
        fm_base_mem_free(entries);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %zu blocks", count);
    }
    for (size_t i = 0; i < count; i++) {
        struct fm_fs_kvcache_entry *entry = &entries[begun];
        blocks[i].size = 0;
        if (!blocks[i].buffer || begin_get(cache, &blocks[i].key, blocks[i].capacity, entry) < 0)
            continue;
        ios[begun++] = (fm_fs_io){.kind = FM_FS_IO_READ,
                                  .file = entry->segment->file,
                                  .buffer = blocks[i].buffer,
                                  .length = entry->size,
                                  .offset = entry->offset,
                                  .user = &blocks[i],
                                  .status = FM_ERR_CANCELLED};
    }
    if (begun)
        run_reads(cache, ios, begun);
    for (size_t i = 0; i < begun; i++) {
        fm_fs_kvcache_block *block = ios[i].user;
        int good = ios[i].status == FM_OK && bytes_are_good(&entries[i], block->buffer, ios[i].done);
        end_get(cache, &entries[i], good);
        block->size = good ? entries[i].size : 0;
        hits += (size_t)good;
    }
    fm_base_mem_free(ios);
    fm_base_mem_free(entries);
    *out_hits = hits;
    return FM_OK;
}

void fm_fs_kvcache_info_get(fm_fs_kvcache *cache, fm_fs_kvcache_info *out_info)
{
    pthread_mutex_lock(&cache->lock);
    *out_info = cache->info;
    out_info->segments = cache->segment_count;
    pthread_mutex_unlock(&cache->lock);
}
