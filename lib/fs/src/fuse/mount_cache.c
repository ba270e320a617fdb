#include "mount_cache.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "fathom/mem.h"

enum { SLAB_BYTES = 2 << 20 }; // a huge page

struct fm_fs_cache_block {
    struct fm_fs_cache_block *next;          // in its list, or of those not in use
    struct fm_fs_cache_block *newer, *older; // in the ring of those that are found
    uint64_t ino, index, version;
    uint64_t valid, filling; // pages
    unsigned users;
    int found; // by its node and index
    uint8_t *bytes;
};

struct fm_fs_cache {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct fm_fs_cache_block *blocks;
    struct fm_fs_cache_block *
        *lists; // by node and index; as many as there may be blocks, rounded up to a power of two
    struct fm_fs_cache_block ring; // newer: the least recently used
    struct fm_fs_cache_block *unused;
    size_t count, made, in_use; // blocks: allowed, with memory, found
    size_t mask;
    uint8_t **slabs;
    size_t slab_count;
};

fm_status fm_fs_cache_new(uint64_t bytes, fm_fs_cache **out_cache)
{
    const size_t count = (size_t)(bytes / FM_FS_CACHE_BLOCK);
    fm_fs_cache *cache = fm_base_mem_zalloc(1, sizeof *cache);
    size_t lists = 1;
    while (lists < count)
        lists *= 2;
    if (cache) {
        cache->blocks = fm_base_mem_zalloc(count + 1, sizeof *cache->blocks);
        cache->lists = fm_base_mem_zalloc(lists, sizeof(struct fm_fs_cache_block *));
        cache->slabs = fm_base_mem_zalloc(bytes / SLAB_BYTES + 1, sizeof(uint8_t *));
    }
    if (!cache || !cache->blocks || !cache->lists || !cache->slabs) {
        if (cache) {
            fm_base_mem_free(cache->blocks);
            fm_base_mem_free(cache->lists);
            fm_base_mem_free(cache->slabs);
        }
        fm_base_mem_free(cache);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for what a mount keeps");
    }
    pthread_mutex_init(&cache->lock, NULL);
    pthread_cond_init(&cache->filled, NULL);
    cache->ring.newer = cache->ring.older = &cache->ring;
    cache->count = count;
    cache->mask = lists - 1;
    *out_cache = cache;
    return FM_OK;
}

void fm_fs_cache_free(fm_fs_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < cache->slab_count; i++)
        munmap(cache->slabs[i], SLAB_BYTES);
    pthread_cond_destroy(&cache->filled);
    pthread_mutex_destroy(&cache->lock);
    fm_base_mem_free(cache->slabs);
    fm_base_mem_free(cache->lists);
    fm_base_mem_free(cache->blocks);
    fm_base_mem_free(cache);
}

/* Finding; all with the lock */

static struct fm_fs_cache_block **list_of(fm_fs_cache *cache, uint64_t ino, uint64_t index)
{
    uint64_t mixed = (ino * 0x9E3779B97F4A7C15u) ^ (index * 0xC2B2AE3D27D4EB4Fu);
    return &cache->lists[(mixed ^ mixed >> 32) & cache->mask];
}

static struct fm_fs_cache_block *find(fm_fs_cache *cache, uint64_t ino, uint64_t index)
{
    struct fm_fs_cache_block *block = *list_of(cache, ino, index);
    while (block && (block->ino != ino || block->index != index))
        block = block->next;
    return block;
}

static void push_newest(fm_fs_cache *cache, struct fm_fs_cache_block *block)
{
    block->newer = &cache->ring;
    block->older = cache->ring.older;
    block->older->newer = block;
    cache->ring.older = block;
}

static void unlink_from_ring(struct fm_fs_cache_block *block)
{
    block->newer->older = block->older;
    block->older->newer = block->newer;
}

static void put_back(fm_fs_cache *cache, struct fm_fs_cache_block *block)
{
    block->next = cache->unused;
    cache->unused = block;
}

// Nobody finds it any more; it is put back when nobody uses it.
static void lose(fm_fs_cache *cache, struct fm_fs_cache_block *block)
{
    struct fm_fs_cache_block **at = list_of(cache, block->ino, block->index);
    while (*at != block)
        at = &(*at)->next;
    *at = block->next;
    unlink_from_ring(block);
    block->found = 0;
    cache->in_use--;
    if (!block->users)
        put_back(cache, block);
}

static void make_slab(fm_fs_cache *cache)
{
    uint8_t *map =
        mmap(NULL, (size_t)2 * SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return;
    size_t before = (SLAB_BYTES - (uintptr_t)map % SLAB_BYTES) % SLAB_BYTES;
    if (before)
        munmap(map, before);
    munmap(map + before + SLAB_BYTES, SLAB_BYTES - before);
    map += before;
    (void)madvise(map, SLAB_BYTES, MADV_HUGEPAGE); // small pages do as well
    cache->slabs[cache->slab_count++] = map;
    for (size_t at = 0; at < SLAB_BYTES && cache->made < cache->count; at += FM_FS_CACHE_BLOCK) {
        struct fm_fs_cache_block *block = &cache->blocks[cache->made++];
        block->bytes = map + at;
        put_back(cache, block);
    }
}

static struct fm_fs_cache_block *make(fm_fs_cache *cache, uint64_t ino, uint64_t index, uint64_t version)
{
    if (!cache->unused && cache->made < cache->count)
        make_slab(cache);
    for (struct fm_fs_cache_block *block = cache->ring.newer; !cache->unused && block != &cache->ring;
         block = block->newer)
        if (!block->users) {
            lose(cache, block);
            break;
        }
    struct fm_fs_cache_block *block = cache->unused;
    if (!block)
        return NULL;
    cache->unused = block->next;
    struct fm_fs_cache_block **list = list_of(cache, ino, index);
    *block = (struct fm_fs_cache_block){
        .next = *list, .ino = ino, .index = index, .version = version, .found = 1, .bytes = block->bytes};
    *list = block;
    push_newest(cache, block);
    cache->in_use++;
    return block;
}

static void leave(fm_fs_cache *cache, struct fm_fs_cache_view *view)
{
    for (unsigned i = 0; i < view->count; i++) {
        struct fm_fs_cache_block *block = view->pieces[i].block;
        if (--block->users == 0 && !block->found)
            put_back(cache, block);
    }
    view->count = 0;
}

// The pages of block `index` that the range touches.
static uint64_t pages_of(uint64_t index, uint64_t offset, size_t size)
{
    const uint64_t begin = index * FM_FS_CACHE_BLOCK;
    uint64_t first = offset > begin ? (offset - begin) / FM_FS_CACHE_PAGE : 0;
    uint64_t end = (offset + size - begin + FM_FS_CACHE_PAGE - 1) / FM_FS_CACHE_PAGE;
    uint64_t below_end = end >= 64 ? UINT64_MAX : ((uint64_t)1 << end) - 1;
    return below_end & UINT64_MAX << first;
}

// The range's blocks, each in use. 0: there is no room.
static int gather(fm_fs_cache *cache, uint64_t ino, uint64_t version, uint64_t offset, size_t size,
                  struct fm_fs_cache_view *view)
{
    view->count = 0;
    for (uint64_t index = offset / FM_FS_CACHE_BLOCK; index * FM_FS_CACHE_BLOCK < offset + size; index++) {
        struct fm_fs_cache_block *block = find(cache, ino, index);
        if (block && block->version != version) {
            lose(cache, block);
            block = NULL;
        }
        if (block) {
            unlink_from_ring(block);
            push_newest(cache, block);
        } else {
            block = make(cache, ino, index, version);
        }
        if (!block) {
            leave(cache, view);
            return 0;
        }
        block->users++;
        view->pieces[view->count].block = block;
        view->pieces[view->count].bytes = block->bytes;
        view->pieces[view->count++].offset = index * FM_FS_CACHE_BLOCK;
    }
    return 1;
}

int fm_fs_cache_take(fm_fs_cache *cache, uint64_t ino, uint64_t version, uint64_t offset, size_t size,
                     struct fm_fs_cache_view *out_view)
{
    int taken;
    uint64_t others;
    pthread_mutex_lock(&cache->lock);
    for (;;) {
        taken = gather(cache, ino, version, offset, size, out_view);
        others = 0;
        for (unsigned i = 0; i < out_view->count; i++) {
            const struct fm_fs_cache_block *block = out_view->pieces[i].block;
            out_view->pieces[i].missing = pages_of(block->index, offset, size) & ~block->valid;
            others |= block->filling & out_view->pieces[i].missing;
        }
        if (!others)
            break;
        // Nothing is claimed while it waits, so nobody waits for it.
        leave(cache, out_view);
        pthread_cond_wait(&cache->filled, &cache->lock);
    }
    out_view->missing = 0;
    for (unsigned i = 0; i < out_view->count; i++) {
        out_view->pieces[i].block->filling |= out_view->pieces[i].missing;
        out_view->missing |= out_view->pieces[i].missing != 0;
    }
    pthread_mutex_unlock(&cache->lock);
    return taken;
}

void fm_fs_cache_filled(fm_fs_cache *cache, struct fm_fs_cache_view *view, int read)
{
    pthread_mutex_lock(&cache->lock);
    for (unsigned i = 0; i < view->count; i++) {
        struct fm_fs_cache_block *block = view->pieces[i].block;
        block->filling &= ~view->pieces[i].missing;
        block->valid |= read ? view->pieces[i].missing : 0;
        view->pieces[i].missing = 0;
    }
    view->missing = 0;
    pthread_cond_broadcast(&cache->filled);
    pthread_mutex_unlock(&cache->lock);
}

void fm_fs_cache_leave(fm_fs_cache *cache, struct fm_fs_cache_view *view)
{
    pthread_mutex_lock(&cache->lock);
    leave(cache, view);
    pthread_mutex_unlock(&cache->lock);
}

void fm_fs_cache_drop(fm_fs_cache *cache, uint64_t ino, uint64_t offset, uint64_t size)
{
    const uint64_t first = offset / FM_FS_CACHE_BLOCK;
    const uint64_t last = size ? (offset + size - 1) / FM_FS_CACHE_BLOCK : first;
    struct fm_fs_cache_block *newer;
    pthread_mutex_lock(&cache->lock);
    if (last - first < cache->in_use) {
        for (uint64_t index = first; index <= last; index++) {
            struct fm_fs_cache_block *block = find(cache, ino, index);
            if (block)
                lose(cache, block);
        }
    } else {
        for (struct fm_fs_cache_block *block = cache->ring.newer; block != &cache->ring; block = newer) {
            newer = block->newer;
            if (block->ino == ino && block->index >= first && block->index <= last)
                lose(cache, block);
        }
    }
    pthread_mutex_unlock(&cache->lock);
}

uint64_t fm_fs_cache_bytes(fm_fs_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    uint64_t bytes = (uint64_t)cache->in_use * FM_FS_CACHE_BLOCK;
    pthread_mutex_unlock(&cache->lock);
    return bytes;
}
