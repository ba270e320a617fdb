// Where each block of the cache lies: a hash table of entries, which are also listed by their segments.
#include "kvcache.h"

#include <string.h>

// Keys may be any bytes that the caller chose, so their bits are mixed (the finaliser of MurmurHash3).
static size_t bucket_of(const fm_fs_kvcache *cache, const fm_fs_kvcache_key *key)
{
    uint64_t h = fm_get_le64(key->bytes) ^ fm_get_le64(key->bytes + 8) ^ fm_get_le64(key->bytes + 16) ^
                 fm_get_le64(key->bytes + 24);
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdU;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53U;
    return (size_t)(h ^ h >> 33) & (cache->bucket_count - 1);
}

struct fm_fs_kvcache_entry *fm_fs_kvcache_find(const fm_fs_kvcache *cache, const fm_fs_kvcache_key *key)
{
    if (!cache->bucket_count)
        return NULL;
    struct fm_fs_kvcache_entry *entry = cache->buckets[bucket_of(cache, key)];
    while (entry && memcmp(&entry->key, key, sizeof *key) != 0)
        entry = entry->next;
    return entry;
}

static fm_status grow(fm_fs_kvcache *cache)
{
    size_t old_count = cache->bucket_count;
    size_t count = old_count ? 2 * old_count : 1024;
    struct fm_fs_kvcache_entry **old = cache->buckets;
    struct fm_fs_kvcache_entry **buckets = fm_base_mem_zalloc(count, sizeof(void *));
    if (!buckets)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an index of %zu blocks", count);
    cache->buckets = buckets;
    cache->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        struct fm_fs_kvcache_entry *next;
        for (struct fm_fs_kvcache_entry *entry = old[i]; entry; entry = next) {
            struct fm_fs_kvcache_entry **bucket = &buckets[bucket_of(cache, &entry->key)];
            next = entry->next;
            entry->next = *bucket;
            *bucket = entry;
        }
    }
    fm_base_mem_free(old);
    return FM_OK;
}

static void unlink_from_bucket(fm_fs_kvcache *cache, const struct fm_fs_kvcache_entry *entry)
{
    struct fm_fs_kvcache_entry **at = &cache->buckets[bucket_of(cache, &entry->key)];
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    cache->info.entries--;
}

void fm_fs_kvcache_forget(fm_fs_kvcache *cache, struct fm_fs_kvcache_entry *entry)
{
    struct fm_fs_kvcache_entry **at = &entry->segment->entries;
    while (*at != entry)
        at = &(*at)->sibling;
    *at = entry->sibling;
    unlink_from_bucket(cache, entry);
    fm_base_mem_free(entry);
}

void fm_fs_kvcache_forget_all(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment)
{
    struct fm_fs_kvcache_entry *sibling;
    for (struct fm_fs_kvcache_entry *entry = segment->entries; entry; entry = sibling) {
        sibling = entry->sibling;
        unlink_from_bucket(cache, entry);
        fm_base_mem_free(entry);
    }
    segment->entries = NULL;
}

fm_status fm_fs_kvcache_insert(fm_fs_kvcache *cache, const struct fm_fs_kvcache_entry *entry)
{
    struct fm_fs_kvcache_entry *made = fm_base_mem_alloc(sizeof *made);
    if (!made)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a block's entry");
    fm_status status = cache->info.entries >= cache->bucket_count ? grow(cache) : FM_OK;
    if (status < 0) {
        fm_base_mem_free(made);
        return status;
    }
    struct fm_fs_kvcache_entry *old = fm_fs_kvcache_find(cache, &entry->key);
    if (old)
        fm_fs_kvcache_forget(cache, old);
    struct fm_fs_kvcache_entry **bucket = &cache->buckets[bucket_of(cache, &entry->key)];
    *made = *entry;
    made->next = *bucket;
    *bucket = made;
    made->sibling = entry->segment->entries;
    entry->segment->entries = made;
    cache->info.entries++;
    return FM_OK;
}
