#include <sys/mman.h>

#include "fathom/crc.h"
#include "fs_runtime.h"

enum {
    SLAB_BYTES = 2 << 20, // a huge page
    SLABS_MAX = 16,       // of each size
    SIZES = 10            // 4 KiB << 0 ... 2 MiB
};

struct slab {
    struct slab *next;
    uint8_t *data;
    fm_fs_buffer buffers[]; // that it is cut into
};

struct fm_fs_pool {
    unsigned users; // buffers that are out, and 1 for its owner
    struct slab *slabs;
    unsigned slab_count[SIZES];
    fm_fs_buffer *unused[SIZES];
};

fm_fs_pool *fm_fs_pool_new(void)
{
    fm_fs_pool *pool = fm_base_mem_zalloc(1, sizeof *pool);
    if (pool)
        pool->users = 1;
    return pool;
}

static void pool_leave(fm_fs_pool *pool)
{
    if (--pool->users)
        return;
    while (pool->slabs) {
        struct slab *slab = pool->slabs;
        pool->slabs = slab->next;
        munmap(slab->data, SLAB_BYTES);
        fm_base_mem_free(slab);
    }
    fm_base_mem_free(pool);
}

void fm_fs_pool_free(fm_fs_pool *pool)
{
    if (pool)
        pool_leave(pool);
}

// Fresh from the kernel: memory that was in use before lies in small pages already.
static uint8_t *map_slab(void)
{
    uint8_t *map =
        mmap(NULL, (size_t)2 * SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    size_t before = (SLAB_BYTES - (uintptr_t)map % SLAB_BYTES) % SLAB_BYTES;
    if (before)
        munmap(map, before);
    munmap(map + before + SLAB_BYTES, SLAB_BYTES - before);
    (void)madvise(map + before, SLAB_BYTES, MADV_HUGEPAGE); // small pages do as well
    return map + before;
}

static void pool_grow(fm_fs_pool *pool, unsigned size)
{
    size_t count = (SLAB_BYTES / FM_FS_PAGE) >> size;
    struct slab *slab = fm_base_mem_alloc(sizeof *slab + count * sizeof slab->buffers[0]);
    uint8_t *data = slab ? map_slab() : NULL;
    if (!data) {
        fm_base_mem_free(slab);
        return;
    }
    slab->data = data;
    slab->next = pool->slabs;
    pool->slabs = slab;
    pool->slab_count[size]++;
    for (size_t i = 0; i < count; i++) {
        slab->buffers[i] = (fm_fs_buffer){
            .data = data + i * ((size_t)FM_FS_PAGE << size), .pool = pool, .next = pool->unused[size]};
        pool->unused[size] = &slab->buffers[i];
    }
}

static unsigned size_of(size_t bytes)
{
    unsigned size = 0;
    while (size < SIZES && (size_t)FM_FS_PAGE << size < bytes)
        size++;
    return size;
}

fm_fs_buffer *fm_fs_buffer_from(fm_fs_pool *pool, size_t bytes)
{
    unsigned size = size_of(bytes);
    if (!pool || size == SIZES)
        return fm_fs_buffer_new(bytes);
    if (!pool->unused[size] && pool->slab_count[size] < SLABS_MAX)
        pool_grow(pool, size);
    fm_fs_buffer *buffer = pool->unused[size];
    if (!buffer)
        return fm_fs_buffer_new(bytes);
    pool->unused[size] = buffer->next;
    pool->users++;
    buffer->refs = 1;
    buffer->summed = 0;
    buffer->size = bytes;
    buffer->room = bytes ? fm_round_up(bytes, FM_FS_PAGE) : FM_FS_PAGE;
    memset(buffer->data + bytes, 0, buffer->room - bytes);
    return buffer;
}

fm_fs_buffer *fm_fs_buffer_new(size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    fm_fs_buffer *buffer = fm_base_mem_alloc(sizeof *buffer);
    if (!buffer)
        return NULL;
    size_t room = size ? fm_round_up(size, FM_FS_PAGE) : FM_FS_PAGE;
    *buffer =
        (fm_fs_buffer){.refs = 1, .size = size, .room = room, .data = fm_base_mem_aligned(room, FM_FS_PAGE)};
    if (!buffer->data) {
        fm_base_mem_free(buffer);
        return NULL;
    }
    memset(buffer->data + size, 0, room - size);
    return buffer;
}

void fm_fs_buffer_drop(fm_fs_buffer *buffer)
{
    if (!buffer || --buffer->refs)
        return;
    fm_fs_pool *pool = buffer->pool;
    if (pool) {
        // By the room, which a cut of `size` leaves as it is.
        unsigned size = size_of(buffer->room);
        buffer->next = pool->unused[size];
        pool->unused[size] = buffer;
        pool_leave(pool);
        return;
    }
    fm_base_mem_free(buffer->data);
    fm_base_mem_free(buffer);
}

uint32_t fm_fs_buffer_crc(fm_fs_buffer *buffer)
{
    if (!buffer)
        return 0;
    if (!buffer->summed)
        fm_fs_buffer_summed(buffer, fm_base_crc32c(0, buffer->data, buffer->size));
    return buffer->crc;
}
