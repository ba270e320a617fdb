// Which blocks are in use: a bitmap for each size class, the lowest free one first, so that files stay short.
#include "chunk_store_private.h"

enum { WORD_BITS = 64 };

static uint64_t block_bytes(unsigned size_class)
{
    return (uint64_t)FM_FS_CHUNK_CLASS_MIN << size_class;
}

static fm_status grow(struct fm_fs_store_class *blocks, uint32_t words)
{
    if (words <= blocks->words)
        return FM_OK;
    uint32_t room = blocks->words ? blocks->words : 4;
    while (room < words)
        room *= 2;
    uint64_t *used = fm_base_mem_realloc(blocks->used, room, sizeof *used);
    if (!used)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a bitmap of %u words", room);
    memset(used + blocks->words, 0, (room - blocks->words) * sizeof *used);
    blocks->used = used;
    blocks->words = room;
    return FM_OK;
}

fm_status fm_fs_store_block_take(fm_fs_store *store, unsigned size_class, uint32_t *out_block)
{
    struct fm_fs_store_class *blocks = &store->classes[size_class];
    if (store->used_bytes + block_bytes(size_class) > store->disk->capacity_bytes)
        return fm_base_error_set(FM_ERR_SPACE, "the target is full: %llu of %llu bytes are used",
                                 (unsigned long long)store->used_bytes,
                                 (unsigned long long)store->disk->capacity_bytes);
    uint32_t word = blocks->hint;
    while (word < blocks->words && blocks->used[word] == UINT64_MAX)
        word++;
    FM_TRY(grow(blocks, word + 1));
    blocks->hint = word;
    unsigned bit = (unsigned)__builtin_ctzll(~blocks->used[word]);
    blocks->used[word] |= (uint64_t)1 << bit;
    store->used_bytes += block_bytes(size_class);
    *out_block = word * WORD_BITS + bit;
    return FM_OK;
}

fm_status fm_fs_store_block_mark(fm_fs_store *store, unsigned size_class, uint32_t block)
{
    struct fm_fs_store_class *blocks = &store->classes[size_class];
    FM_TRY(grow(blocks, block / WORD_BITS + 1));
    uint64_t bit = (uint64_t)1 << block % WORD_BITS;
    if (blocks->used[block / WORD_BITS] & bit)
        return fm_base_error_set(FM_ERR_FORMAT, "two chunks have block %u of size class %u", block,
                                 size_class);
    blocks->used[block / WORD_BITS] |= bit;
    store->used_bytes += block_bytes(size_class);
    return FM_OK;
}

static void release(fm_fs_store *store, unsigned size_class, uint32_t block)
{
    struct fm_fs_store_class *blocks = &store->classes[size_class];
    uint32_t word = block / WORD_BITS;
    blocks->used[word] &= ~((uint64_t)1 << block % WORD_BITS);
    if (word < blocks->hint)
        blocks->hint = word;
    store->used_bytes -= block_bytes(size_class);
}

void fm_fs_store_block_release(fm_fs_store *store)
{
    size_t n = 0;
    while (n < store->freed_count && store->freed[n].lsn <= store->durable) {
        release(store, store->freed[n].size_class, store->freed[n].block);
        n++;
    }
    store->freed_count -= n;
    if (n)
        memmove(store->freed, store->freed + n, store->freed_count * sizeof *store->freed);
}

void fm_fs_store_block_free(fm_fs_store *store, unsigned size_class, uint32_t block)
{
    if (!store->open) // while the journal is replayed blocks are not counted
        return;
    if (store->durable >= store->lsn) {
        release(store, size_class, block);
        return;
    }
    if (store->freed_count == store->freed_room) {
        size_t room = store->freed_room ? 2 * store->freed_room : 64;
        struct fm_fs_store_freed *freed = fm_base_mem_realloc(store->freed, room, sizeof *freed);
        if (!freed)
            return; // the block stays out of use until the store is opened again
        store->freed = freed;
        store->freed_room = room;
    }
    store->freed[store->freed_count++] = (struct fm_fs_store_freed){(uint8_t)size_class, block, store->lsn};
}
