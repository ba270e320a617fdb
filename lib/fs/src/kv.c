// The key-value store's front end: arguments and limits, the writes of a transaction and their view in its
// reads, and the loop that runs conflicts again.
#include "kv_backend.h"

#include <string.h>

#include "fathom/clock.h"
#include "fathom/rng.h"

enum {
    RUNS_MAX = 128,           // with the pauses below, some 1.5 s of trying
    PAUSE_MIN_NS = 50 * 1000, // about one transaction of a fast engine
    PAUSE_DOUBLINGS = 9,      // to 25.6 ms: about one of an engine whose disk is slow
    MAP_BYTES_BITS = 36,      // 64 GiB: metadata of 10^8 files
    CONNECTIONS = 16,         // what a PostgreSQL server of one machine was measured to gain from
    CONNECTIONS_MAX = 1000
};

static const struct fm_fs_kv_ops *const engines[] = {
    &fm_fs_kv_memory_ops,
#ifdef FM_HAVE_LMDB
    &fm_fs_kv_lmdb_ops,
#endif
#ifdef FM_HAVE_POSTGRESQL
    &fm_fs_kv_postgresql_ops,
#endif
};

// Behind every key: the end of a range without one.
static const uint8_t behind_all[FM_FS_KV_KEY_MAX + 1] = {[0 ... FM_FS_KV_KEY_MAX] = 0xff};

// Whether this thread runs a closure.
static _Thread_local int inside;

int fm_fs_kv_compare(fm_fs_kv_bytes a, fm_fs_kv_bytes b)
{
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static fm_status find_engine(const char *spec, const struct fm_fs_kv_ops **out_ops, const char **out_where)
{
    const char *colon = strchr(spec, ':');
    size_t length = colon ? (size_t)(colon - spec) : 0;
    for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++)
        if (strlen(engines[i]->name) == length && memcmp(engines[i]->name, spec, length) == 0) {
            *out_ops = engines[i];
            *out_where = colon + 1;
            return FM_OK;
        }
    fm_base_error_set(FM_ERR_UNSUPPORTED,
                      "%s: not a store of this build; expected \"memory:\""
#ifdef FM_HAVE_LMDB
                      ", \"lmdb:DIR\""
#endif
#ifdef FM_HAVE_POSTGRESQL
                      ", \"postgresql:CONNINFO\""
#endif
                      ,
                      spec);
    return FM_ERR_UNSUPPORTED;
}

static fm_status complete_options(const fm_fs_kv_options *given, fm_fs_kv_options *out_options)
{
    fm_fs_kv_options options = {.size = sizeof options};
    if (given && (given->size < sizeof given->size || given->size > sizeof options))
        return fm_base_error_set(FM_ERR_ARG,
                                 "options->size is %zu; expected sizeof(fm_fs_kv_options), at most %zu",
                                 given->size, sizeof options);
    if (given)
        memcpy(&options, given, given->size);
    if (!options.map_bytes)
        options.map_bytes = (uint64_t)1 << MAP_BYTES_BITS;
    if (!options.connections)
        options.connections = CONNECTIONS;
    if (options.connections > CONNECTIONS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "connections is %u; expected 1 to %d", options.connections,
                                 CONNECTIONS_MAX);
    if (!(options.conflict_rate >= 0 && options.maybe_rate >= 0 &&
          options.conflict_rate + options.maybe_rate <= 1))
        return fm_base_error_set(
            FM_ERR_ARG, "conflict_rate is %g and maybe_rate %g; expected two that add up to at most 1",
            options.conflict_rate, options.maybe_rate);
    *out_options = options;
    return FM_OK;
}

fm_status fm_fs_kv_open(const char *spec, const fm_fs_kv_options *options, fm_fs_kv **out_kv)
{
    const struct fm_fs_kv_ops *ops = NULL;
    const char *where = NULL;
    fm_fs_kv_options complete;
    if (!spec)
        return fm_base_error_set(FM_ERR_ARG, "spec is NULL");
    FM_TRY(complete_options(options, &complete));
    FM_TRY(find_engine(spec, &ops, &where));
    fm_fs_kv *kv;
    FM_TRY(ops->open(where, &complete, &kv));
    kv->ops = ops;
    // A simulator wants the same pauses again; everyone else other ones than his neighbour.
    kv->seed = ops == &fm_fs_kv_memory_ops ? complete.seed : fm_base_clock_unix_ns() ^ (uintptr_t)kv;
    atomic_init(&kv->pauses, 0);
    *out_kv = kv;
    return FM_OK;
}

void fm_fs_kv_close(fm_fs_kv *kv)
{
    if (kv)
        kv->ops->close(kv);
}

const char *fm_fs_kv_engine(const fm_fs_kv *kv)
{
    return kv->ops->name;
}

fm_status fm_fs_kv_tx_body(fm_fs_kv_tx *tx)
{
    fm_base_arena_clear(&tx->arena);
    tx->failed = FM_OK;
    tx->ops = tx->bytes = tx->write_count = 0;
    inside = 1;
    fm_status status = tx->closure(tx, tx->context);
    inside = 0;
    if (status > 0)
        return fm_base_error_set(FM_ERR_ARG, "the closure returned %d; expected FM_OK or a failure", status);
    return tx->failed ? tx->failed : status;
}

static void pause_before(fm_fs_kv *kv, unsigned run)
{
    uint64_t most = (uint64_t)PAUSE_MIN_NS << (run < PAUSE_DOUBLINGS ? run : PAUSE_DOUBLINGS);
    uint64_t draw = fm_base_rng_at(kv->seed, 0, atomic_fetch_add(&kv->pauses, 1));
    kv->ops->pause(kv, (uint64_t)(fm_rng_to_double(draw) * (double)most));
}

fm_status fm_fs_kv_run(fm_fs_kv *kv, unsigned flags, fm_fs_kv_closure closure, void *context)
{
    if (!kv || !closure || (flags & ~(unsigned)(FM_FS_KV_READ_ONLY | FM_FS_KV_NO_SYNC)))
        return fm_base_error_set(
            FM_ERR_ARG, "store %p, closure %s, flags 0x%x; expected none to be NULL and flags of run",
            (void *)kv, closure ? "given" : "NULL", flags);
    if (inside)
        return fm_base_error_set(FM_ERR_STATE,
                                 "fm_fs_kv_run() inside a closure; expected one transaction at a time");
    fm_fs_kv_tx tx;
    memset(&tx, 0, offsetof(fm_fs_kv_tx, writes));
    tx.kv = kv;
    tx.flags = flags;
    tx.closure = closure;
    tx.context = context;
    fm_status status = kv->ops->attempt(kv, &tx);
    for (unsigned run = 1; status == FM_ERR_FS_CONFLICT && run < RUNS_MAX; run++) {
        pause_before(kv, run - 1);
        status = kv->ops->attempt(kv, &tx);
    }
    fm_base_arena_clear(&tx.arena);
    return status;
}

// Every call on a transaction ends here when it fails.
static fm_status spoil(fm_fs_kv_tx *tx, fm_status status)
{
    if (status < 0 && !tx->failed)
        tx->failed = status;
    return status;
}

static fm_status check_key(fm_fs_kv_bytes key)
{
    if (!key.data || key.size == 0)
        return fm_base_error_set(FM_ERR_ARG, "a key is empty; expected 1 to %d bytes", FM_FS_KV_KEY_MAX);
    if (key.size > FM_FS_KV_KEY_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a key has %zu bytes; expected 1 to %d", key.size,
                                 FM_FS_KV_KEY_MAX);
    return FM_OK;
}

// The place of `key` among the writes, or where it belongs.
static size_t place_of(const fm_fs_kv_tx *tx, fm_fs_kv_bytes key)
{
    size_t low = 0;
    size_t high = tx->write_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (fm_fs_kv_compare(tx->writes[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int is_at(const fm_fs_kv_tx *tx, size_t place, fm_fs_kv_bytes key)
{
    return place < tx->write_count && fm_fs_kv_compare(tx->writes[place].key, key) == 0;
}

static fm_status check_get(const fm_fs_kv_item *items, size_t count)
{
    if (count > FM_FS_KV_OPS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a get of %zu keys; expected at most %d", count,
                                 FM_FS_KV_OPS_MAX);
    if (count && !items)
        return fm_base_error_set(FM_ERR_ARG, "items is NULL");
    for (size_t i = 0; i < count; i++)
        FM_TRY(check_key(items[i].key));
    return FM_OK;
}

fm_status fm_fs_kv_get(fm_fs_kv_tx *tx, fm_fs_kv_item *items, size_t count, fm_fs_kv_lock lock)
{
    fm_fs_kv_item *stored[FM_FS_KV_OPS_MAX];
    size_t stored_count = 0;
    if (tx->failed)
        return tx->failed;
    FM_TRY(spoil(tx, check_get(items, count)));
    for (size_t i = 0; i < count; i++) {
        size_t place = place_of(tx, items[i].key);
        const struct fm_fs_kv_write *own = is_at(tx, place, items[i].key) ? &tx->writes[place] : NULL;
        items[i].value = (fm_fs_kv_bytes){0};
        items[i].found = 0;
        if (!own || own->kind == FM_FS_KV_GUARD)
            stored[stored_count++] = &items[i];
        else if (own->kind == FM_FS_KV_PUT) {
            items[i].value = own->value;
            items[i].found = 1;
        }
    }
    return stored_count ? spoil(tx, tx->kv->ops->get(tx, stored, stored_count, lock)) : FM_OK;
}

// Merges `count` stored items with the writes [first, end) in the range's direction; returns how many came out.
static size_t merge(const fm_fs_kv_tx *tx, size_t first, size_t end, int reverse, const fm_fs_kv_item *stored,
                    size_t count, fm_fs_kv_item *items, size_t limit)
{
    size_t at = 0;
    size_t out = 0;
    size_t left = end - first;
    while (out < limit && (at < count || left > 0)) {
        const struct fm_fs_kv_write *own =
            left == 0 ? NULL : &tx->writes[reverse ? first + left - 1 : end - left];
        int order = !own ? -1 : at == count ? 1 : fm_fs_kv_compare(stored[at].key, own->key);
        if (reverse && own && at < count)
            order = -order;
        if (order < 0 || (order == 0 && own->kind == FM_FS_KV_GUARD))
            items[out++] = stored[at];
        else if (own->kind == FM_FS_KV_PUT)
            items[out++] = (fm_fs_kv_item){own->key, own->value, 1};
        at += order <= 0;
        left -= order >= 0;
    }
    return out;
}

static fm_status range(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, size_t limit, unsigned flags,
                       fm_fs_kv_item *items, size_t *out_count)
{
    const struct fm_fs_kv_ops *ops = tx->kv->ops;
    size_t first = place_of(tx, lo);
    size_t end = place_of(tx, hi);
    if (first == end)
        return ops->range(tx, lo, hi, limit, flags, items, out_count);
    // A stored item is kept from the result by a delete alone, so with as many items more there are enough.
    size_t wanted = limit;
    for (size_t i = first; i < end; i++)
        wanted += tx->writes[i].kind == FM_FS_KV_DELETE;
    fm_fs_kv_item *stored = fm_base_arena_alloc(&tx->arena, wanted * sizeof *stored);
    size_t count = 0;
    if (!stored)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a range of %zu items", wanted);
    FM_TRY(ops->range(tx, lo, hi, wanted, flags, stored, &count));
    *out_count = merge(tx, first, end, (flags & FM_FS_KV_REVERSE) != 0, stored, count, items, limit);
    return FM_OK;
}

fm_status fm_fs_kv_range(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, size_t limit, unsigned flags,
                         fm_fs_kv_item *items, size_t *out_count)
{
    size_t count = 0;
    if (tx->failed)
        return tx->failed;
    if (!items || !out_count || limit < 1 || (flags & ~(unsigned)FM_FS_KV_REVERSE) || (lo.size && !lo.data) ||
        (hi.size && !hi.data))
        return spoil(
            tx, fm_base_error_set(FM_ERR_ARG,
                                  "a range with limit %zu and flags 0x%x; expected pointers, a limit from 1 "
                                  "and at most FM_FS_KV_REVERSE",
                                  limit, flags));
    // An end may lie one byte behind the longest key: where the page after it begins.
    if (limit > FM_FS_KV_PAGE_MAX || lo.size > FM_FS_KV_KEY_MAX + 1 || hi.size > FM_FS_KV_KEY_MAX + 1)
        return spoil(
            tx, fm_base_error_set(FM_ERR_LIMIT,
                                  "a range of %zu items between ends of %zu and %zu bytes; expected at most "
                                  "%d items, %d bytes",
                                  limit, lo.size, hi.size, FM_FS_KV_PAGE_MAX, FM_FS_KV_KEY_MAX + 1));
    static const uint8_t before_all[1] = {0};
    if (lo.size == 0) // the least key
        lo = (fm_fs_kv_bytes){before_all, 1};
    if (hi.size == 0)
        hi = (fm_fs_kv_bytes){behind_all, sizeof behind_all};
    if (fm_fs_kv_compare(lo, hi) < 0)
        FM_TRY(spoil(tx, range(tx, lo, hi, limit, flags, items, &count)));
    *out_count = count;
    return FM_OK;
}

static fm_status check_write(const fm_fs_kv_tx *tx, fm_fs_kv_bytes key, fm_fs_kv_bytes value)
{
    FM_TRY(check_key(key));
    if (tx->flags & FM_FS_KV_READ_ONLY)
        return fm_base_error_set(FM_ERR_STATE, "a write in a transaction with FM_FS_KV_READ_ONLY");
    if (value.size && !value.data)
        return fm_base_error_set(FM_ERR_ARG, "a value of %zu bytes is NULL", value.size);
    if (value.size > FM_FS_KV_VALUE_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a value has %zu bytes; expected at most %d", value.size,
                                 FM_FS_KV_VALUE_MAX);
    if (tx->ops == FM_FS_KV_OPS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "more than %d writes in a transaction", FM_FS_KV_OPS_MAX);
    if (tx->bytes + key.size + value.size > FM_FS_KV_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a transaction writes more than %d bytes", FM_FS_KV_BYTES_MAX);
    return FM_OK;
}

static fm_status copy(fm_fs_kv_tx *tx, fm_fs_kv_bytes from, fm_fs_kv_bytes *out_copy)
{
    void *data = fm_base_arena_alloc(&tx->arena, from.size ? from.size : 1);
    if (!data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a write of %zu bytes", from.size);
    if (from.size)
        memcpy(data, from.data, from.size);
    *out_copy = (fm_fs_kv_bytes){data, from.size};
    return FM_OK;
}

static fm_status keep_write(fm_fs_kv_tx *tx, enum fm_fs_kv_write_kind kind, fm_fs_kv_bytes key,
                            fm_fs_kv_bytes value)
{
    struct fm_fs_kv_write own = {.kind = kind};
    FM_TRY(check_write(tx, key, value));
    tx->ops++;
    tx->bytes += key.size + value.size;
    size_t place = place_of(tx, key);
    int there = is_at(tx, place, key);
    if (there && kind == FM_FS_KV_GUARD)
        return FM_OK; // what it does to the key already conflicts
    FM_TRY(copy(tx, key, &own.key));
    FM_TRY(copy(tx, value, &own.value));
    if (!there) {
        memmove(&tx->writes[place + 1], &tx->writes[place], (tx->write_count - place) * sizeof own);
        tx->write_count++;
    }
    tx->writes[place] = own;
    return FM_OK;
}

fm_status fm_fs_kv_put(fm_fs_kv_tx *tx, fm_fs_kv_bytes key, fm_fs_kv_bytes value)
{
    return tx->failed ? tx->failed : spoil(tx, keep_write(tx, FM_FS_KV_PUT, key, value));
}

fm_status fm_fs_kv_delete(fm_fs_kv_tx *tx, fm_fs_kv_bytes key)
{
    return tx->failed ? tx->failed : spoil(tx, keep_write(tx, FM_FS_KV_DELETE, key, (fm_fs_kv_bytes){0}));
}

fm_status fm_fs_kv_guard(fm_fs_kv_tx *tx, fm_fs_kv_bytes key)
{
    return tx->failed ? tx->failed : spoil(tx, keep_write(tx, FM_FS_KV_GUARD, key, (fm_fs_kv_bytes){0}));
}
