// The chunks in order: a treap (Aragon and Seidel, "Randomized search trees", 1989) whose priorities are hashes of
// the ids, so that its shape follows from what is in it. And the versions that hang in it.
#include "chunk_store_private.h"

#include "fathom/crc.h"

static uint64_t priority_of(const fm_fs_chunk_id *id)
{
    // The finaliser of splitmix64 over both halves.
    uint64_t x = fm_get_le64(id->bytes) * 0x9E3779B97F4A7C15u ^ fm_get_le64(id->bytes + 8);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

// An id as a number, in memcmp()'s order. To the left or to the right is then no branch, which would be guessed wrongly at each
// second chunk on the way.
static inline unsigned __int128 number_of(const fm_fs_chunk_id *id)
{
    return (unsigned __int128)__builtin_bswap64(fm_get_le64(id->bytes)) << 64 |
           __builtin_bswap64(fm_get_le64(id->bytes + 8));
}

fm_fs_chunk *fm_fs_store_get(const fm_fs_store *store, const fm_fs_chunk_id *id)
{
    const unsigned __int128 number = number_of(id);
    fm_fs_chunk *chunk = store->root;
    while (chunk) {
        const unsigned __int128 other = number_of(&chunk->id);
        if (other == number)
            return chunk;
        chunk = chunk->child[number > other];
    }
    return NULL;
}

const fm_fs_chunk *fm_fs_store_find(const fm_fs_store *store, const fm_fs_chunk_id *id)
{
    return fm_fs_store_get(store, id);
}

const fm_fs_chunk *fm_fs_store_after(const fm_fs_store *store, const fm_fs_chunk_id *id)
{
    const fm_fs_chunk *chunk = store->root;
    const fm_fs_chunk *best = NULL;
    while (chunk) {
        if (!id || fm_fs_chunk_id_compare(&chunk->id, id) > 0) {
            best = chunk;
            chunk = chunk->child[0];
        } else {
            chunk = chunk->child[1];
        }
    }
    return best;
}

fm_fs_chunk *fm_fs_store_make(fm_fs_store *store, const fm_fs_chunk_id *id)
{
    fm_fs_chunk *chunk = fm_fs_store_get(store, id);
    if (chunk)
        return chunk;
    chunk = fm_base_mem_zalloc(1, sizeof *chunk);
    if (!chunk)
        return NULL;
    chunk->id = *id;
    chunk->priority = priority_of(id);
    fm_fs_chunk **at = &store->root;
    while (*at && (*at)->priority >= chunk->priority)
        at = &(*at)->child[fm_fs_chunk_id_compare(id, &(*at)->id) > 0];
    // What hangs here is split into the two sides of the new chunk.
    fm_fs_chunk *rest = *at;
    fm_fs_chunk **low = &chunk->child[0];
    fm_fs_chunk **high = &chunk->child[1];
    while (rest) {
        if (fm_fs_chunk_id_compare(&rest->id, id) < 0) {
            *low = rest;
            low = &rest->child[1];
            rest = rest->child[1];
        } else {
            *high = rest;
            high = &rest->child[0];
            rest = rest->child[0];
        }
    }
    *low = NULL;
    *high = NULL;
    *at = chunk;
    return chunk;
}

void fm_fs_store_drop(fm_fs_store *store, fm_fs_chunk *chunk)
{
    fm_fs_chunk **at = &store->root;
    while (*at != chunk)
        at = &(*at)->child[fm_fs_chunk_id_compare(&chunk->id, &(*at)->id) > 0];
    fm_fs_store_set_committed(store, chunk, NULL);
    // What hung below is joined, the higher priority above.
    fm_fs_chunk *low = chunk->child[0];
    fm_fs_chunk *high = chunk->child[1];
    while (low && high) {
        if (low->priority >= high->priority) {
            *at = low;
            at = &low->child[1];
            low = *at;
        } else {
            *at = high;
            at = &high->child[0];
            high = *at;
        }
    }
    *at = low ? low : high;
    fm_base_mem_free(chunk);
}

void fm_fs_store_tree_free(fm_fs_store *store)
{
    // The left child is rotated up until there is none, so no recursion is needed.
    fm_fs_chunk *chunk = store->root;
    while (chunk) {
        fm_fs_chunk *left = chunk->child[0];
        if (left) {
            chunk->child[0] = left->child[1];
            left->child[1] = chunk;
            chunk = left;
            continue;
        }
        fm_fs_chunk *right = chunk->child[1];
        fm_fs_chunk_copy_drop(store, chunk->committed);
        fm_fs_chunk_copy_drop(store, chunk->pending);
        fm_base_mem_free(chunk);
        chunk = right;
    }
    store->root = NULL;
}

unsigned fm_fs_chunk_class(uint32_t size)
{
    unsigned size_class = 0;
    while (((uint64_t)FM_FS_CHUNK_CLASS_MIN << size_class) < size)
        size_class++;
    return size_class;
}

fm_fs_chunk_copy *fm_fs_chunk_copy_new(uint32_t size, unsigned size_class)
{
    uint32_t grain = fm_fs_chunk_grain(size_class);
    uint32_t grains = (size + grain - 1) / grain;
    fm_fs_chunk_copy *copy = fm_base_mem_zalloc(1, sizeof *copy + grains * sizeof(uint32_t));
    if (!copy)
        return NULL;
    copy->refs = 1;
    copy->size = size;
    copy->size_class = (uint8_t)size_class;
    copy->grains = grains;
    return copy;
}

void fm_fs_chunk_copy_drop(fm_fs_store *store, fm_fs_chunk_copy *copy)
{
    if (!copy || --copy->refs)
        return;
    fm_fs_overlay_drop(store, copy->overlay);
    if (copy->size && fm_fs_share_leave(store, copy))
        fm_fs_store_block_free(store, copy->size_class, copy->block);
    fm_base_mem_free(copy);
}

void fm_fs_chunk_copy_sum(fm_fs_chunk_copy *copy, const uint8_t *bytes)
{
    uint32_t grain = fm_fs_chunk_grain(copy->size_class);
    uint8_t stored[4 * FM_FS_CHUNK_GRAINS_MAX];
    for (uint32_t i = 0; i < copy->grains; i++) {
        uint32_t left = copy->size - i * grain;
        if (bytes)
            copy->grain_crc[i] = fm_base_crc32c(0, bytes + (size_t)i * grain, left < grain ? left : grain);
        fm_put_le32(stored + (size_t)4 * i, copy->grain_crc[i]);
    }
    copy->crc = fm_base_crc32c(0, stored, (size_t)4 * copy->grains);
}

int fm_fs_chunk_copy_matches(const fm_fs_chunk_copy *copy, const uint8_t *bytes)
{
    uint32_t grain = fm_fs_chunk_grain(copy->size_class);
    for (uint32_t i = 0; i < copy->grains; i++) {
        uint32_t left = copy->size - i * grain;
        if (fm_base_crc32c(0, bytes + (size_t)i * grain, left < grain ? left : grain) != copy->grain_crc[i])
            return 0;
    }
    return 1;
}

fm_status fm_fs_chunk_copy_check(const fm_fs_chunk_copy *copy, const uint8_t *bytes, uint32_t from,
                                 uint32_t size)
{
    uint32_t grain = fm_fs_chunk_grain(copy->size_class);
    for (uint32_t i = from / grain; size > 0; i++) {
        uint32_t part = size < grain ? size : grain;
        uint32_t crc = fm_base_crc32c(0, bytes, part);
        if (crc != copy->grain_crc[i] && !FM_FS_PLANT(FM_FS_PLANT_NO_CHECKSUM))
            return fm_base_error_set(FM_ERR_FS_ROT,
                                     "block %u of size class %u, grain %u: CRC32C is %08x, stored was %08x",
                                     copy->block, copy->size_class, i, crc, copy->grain_crc[i]);
        bytes += part;
        size -= part;
    }
    return FM_OK;
}

static int is_creating(const fm_fs_chunk *chunk)
{
    return chunk->pending && !fm_fs_chunk_is_there(chunk);
}

void fm_fs_store_set_pending(fm_fs_store *store, fm_fs_chunk *chunk, fm_fs_chunk_copy *copy)
{
    fm_fs_chunk_copy *old = chunk->pending;
    store->pending_count += copy != NULL;
    store->pending_count -= old != NULL;
    store->creating_count -= (size_t)is_creating(chunk);
    chunk->pending = copy;
    store->creating_count += (size_t)is_creating(chunk);
    fm_fs_chunk_copy_drop(store, old);
}

// The pending version becomes the committed one.
void fm_fs_store_promote(fm_fs_store *store, fm_fs_chunk *chunk, uint32_t chain_version)
{
    fm_fs_chunk_copy *copy = chunk->pending;
    copy->refs++;
    fm_fs_store_set_pending(store, chunk, NULL);
    copy->chain_version = chain_version;
    fm_fs_store_set_committed(store, chunk, copy);
}

void fm_fs_store_set_committed(fm_fs_store *store, fm_fs_chunk *chunk, fm_fs_chunk_copy *copy)
{
    fm_fs_chunk_copy *old = chunk->committed;
    store->live_count -= old && !old->removed;
    store->live_count += copy && !copy->removed;
    store->creating_count -= (size_t)is_creating(chunk);
    chunk->committed = copy;
    store->creating_count += (size_t)is_creating(chunk);
    if (copy && copy->removed)
        fm_fs_store_removed_add(store, chunk);
    fm_fs_chunk_copy_drop(store, old);
}
