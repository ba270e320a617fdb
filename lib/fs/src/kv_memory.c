/*
 * The key-value store in memory: one array of items in ascending order of keys, and one lock that a
 * transaction holds from its first read to its commit. That lock is the global order, so nothing here ever
 * conflicts by itself; conflicts and lost answers are drawn from the seed.
 *
 * An insertion moves what lies behind it, 8 bytes an item: fine up to some 10^5 items.
 */
#include "kv_backend.h"

#include <pthread.h>
#include <string.h>

#include "fathom/rng.h"

struct item {
    fm_fs_kv_bytes key;
    fm_fs_kv_bytes value;
    uint8_t bytes[]; // the key's, then the value's
};

struct memory {
    fm_fs_kv base;
    pthread_mutex_t lock;
    fm_rng rng;
    double conflict_rate;
    double maybe_rate;
    void (*pause)(void *context, uint64_t ns);
    void *pause_context;
    struct item **items;
    size_t count;
    size_t capacity;
};

static fm_status memory_open(const char *where, const fm_fs_kv_options *options, fm_fs_kv **out_kv)
{
    if (*where)
        return fm_base_error_set(FM_ERR_ARG, "memory:%s: expected nothing behind \"memory:\"", where);
    struct memory *memory = fm_base_mem_zalloc(1, sizeof *memory);
    if (!memory)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a store");
    pthread_mutex_init(&memory->lock, NULL);
    memory->rng = fm_base_rng_begin(options->seed, 1); // stream 0 is the pauses'
    memory->conflict_rate = options->conflict_rate;
    memory->maybe_rate = options->maybe_rate;
    memory->pause = options->pause;
    memory->pause_context = options->pause_context;
    *out_kv = &memory->base;
    return FM_OK;
}

static void memory_close(fm_fs_kv *kv)
{
    struct memory *memory = (struct memory *)kv;
    for (size_t i = 0; i < memory->count; i++)
        fm_base_mem_free(memory->items[i]);
    fm_base_mem_free(memory->items);
    pthread_mutex_destroy(&memory->lock);
    fm_base_mem_free(memory);
}

static size_t place_of(const struct memory *memory, fm_fs_kv_bytes key)
{
    size_t low = 0;
    size_t high = memory->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (fm_fs_kv_compare(memory->items[middle]->key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int is_at(const struct memory *memory, size_t place, fm_fs_kv_bytes key)
{
    return place < memory->count && fm_fs_kv_compare(memory->items[place]->key, key) == 0;
}

static struct item *new_item(fm_fs_kv_bytes key, fm_fs_kv_bytes value)
{
    struct item *item = fm_base_mem_alloc(sizeof *item + key.size + value.size);
    if (!item)
        return NULL;
    memcpy(item->bytes, key.data, key.size);
    if (value.size)
        memcpy(item->bytes + key.size, value.data, value.size);
    item->key = (fm_fs_kv_bytes){item->bytes, key.size};
    item->value = (fm_fs_kv_bytes){item->bytes + key.size, value.size};
    return item;
}

// Allocates all that the writes need: one item for each put, and room for all of them.
static fm_status prepare(struct memory *memory, const fm_fs_kv_tx *tx, struct item **fresh)
{
    if (memory->count + tx->write_count > memory->capacity) {
        size_t capacity = 2 * memory->capacity + FM_FS_KV_OPS_MAX;
        struct item **items = fm_base_mem_realloc(memory->items, capacity, sizeof(void *));
        if (!items) {
            fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu items", capacity);
            return FM_ERR_NOMEM;
        }
        memory->items = items;
        memory->capacity = capacity;
    }
    for (size_t i = 0; i < tx->write_count; i++) {
        fresh[i] = NULL;
        if (tx->writes[i].kind != FM_FS_KV_PUT ||
            (fresh[i] = new_item(tx->writes[i].key, tx->writes[i].value)))
            continue;
        while (i-- > 0)
            fm_base_mem_free(fresh[i]);
        fm_base_error_set(FM_ERR_NOMEM, "no memory for an item");
        return FM_ERR_NOMEM;
    }
    return FM_OK;
}

static fm_status apply(struct memory *memory, const fm_fs_kv_tx *tx)
{
    struct item *fresh[FM_FS_KV_OPS_MAX];
    FM_TRY(prepare(memory, tx, fresh));
    for (size_t i = 0; i < tx->write_count; i++) {
        const struct fm_fs_kv_write *own = &tx->writes[i];
        size_t place = place_of(memory, own->key);
        struct item **at = &memory->items[place];
        int there = is_at(memory, place, own->key);
        if (own->kind == FM_FS_KV_PUT && !there) {
            memmove(at + 1, at, (memory->count - place) * sizeof(void *));
            memory->count++;
            *at = fresh[i];
        } else if (own->kind == FM_FS_KV_PUT) {
            fm_base_mem_free(*at);
            *at = fresh[i];
        } else if (own->kind == FM_FS_KV_DELETE && there) {
            fm_base_mem_free(*at);
            memory->count--;
            memmove(at, at + 1, (memory->count - place) * sizeof(void *));
        }
    }
    return FM_OK;
}

static fm_status commit(struct memory *memory, const fm_fs_kv_tx *tx)
{
    double draw = memory->conflict_rate + memory->maybe_rate > 0 ? fm_rng_double(&memory->rng) : 1;
    if (draw < memory->conflict_rate)
        return fm_base_error_set(FM_ERR_FS_CONFLICT, "an injected conflict");
    if (draw >= memory->conflict_rate + memory->maybe_rate || tx->write_count == 0)
        return apply(memory, tx);
    if (fm_base_rng_below(&memory->rng, 2))
        FM_TRY(apply(memory, tx));
    return fm_base_error_set(FM_ERR_FS_MAYBE, "an injected loss of the answer to a commit");
}

static fm_status memory_attempt(fm_fs_kv *kv, fm_fs_kv_tx *tx)
{
    struct memory *memory = (struct memory *)kv;
    pthread_mutex_lock(&memory->lock);
    fm_status status = fm_fs_kv_tx_body(tx);
    if (status == FM_OK)
        status = commit(memory, tx);
    pthread_mutex_unlock(&memory->lock);
    return status;
}

static fm_status memory_get(fm_fs_kv_tx *tx, fm_fs_kv_item **items, size_t count, fm_fs_kv_lock lock)
{
    struct memory *memory = (struct memory *)tx->kv;
    (void)lock;
    for (size_t i = 0; i < count; i++) {
        size_t place = place_of(memory, items[i]->key);
        if (!is_at(memory, place, items[i]->key))
            continue;
        items[i]->value = memory->items[place]->value;
        items[i]->found = 1;
    }
    return FM_OK;
}

static fm_status memory_range(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, size_t limit,
                              unsigned flags, fm_fs_kv_item *items, size_t *count)
{
    struct memory *memory = (struct memory *)tx->kv;
    size_t first = place_of(memory, lo);
    size_t end = place_of(memory, hi);
    *count = end - first < limit ? end - first : limit;
    for (size_t i = 0; i < *count; i++) {
        const struct item *item = memory->items[flags & FM_FS_KV_REVERSE ? end - 1 - i : first + i];
        items[i] = (fm_fs_kv_item){item->key, item->value, 1};
    }
    return FM_OK;
}

static void memory_pause(fm_fs_kv *kv, uint64_t ns)
{
    struct memory *memory = (struct memory *)kv;
    if (memory->pause)
        memory->pause(memory->pause_context, ns);
}

const struct fm_fs_kv_ops fm_fs_kv_memory_ops = {
    .name = "memory",
    .open = memory_open,
    .close = memory_close,
    .attempt = memory_attempt,
    .get = memory_get,
    .range = memory_range,
    .pause = memory_pause,
};
