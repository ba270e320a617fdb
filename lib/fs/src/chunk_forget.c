/*
 * Removed chunks, and how they are forgotten.
 *
 * What the entry of a removed chunk tells is its version: a later chunk of that id goes on from there, a late message
 * about an earlier one is known by it, and a reader who has seen that version knows that he is told nothing older. The floor
 * tells the same of all chunks that are not there, by one number. So an entry that is not above the floor is forgotten without
 * a record: after a crash the journal brings it back, and the floor drops it again. storage_forget.c says when a chain may raise
 * its floor.
 */
#include "chunk_store_private.h"

enum { ROOM_MIN = 64 };

uint64_t fm_fs_store_version(const fm_fs_store *store, const fm_fs_chunk *chunk)
{
    uint64_t version = chunk && chunk->committed ? chunk->committed->version : 0;
    if (fm_fs_chunk_is_there(chunk) || version > store->floor || FM_FS_PLANT(FM_FS_PLANT_NO_FLOOR))
        return version;
    return store->floor;
}

uint64_t fm_fs_store_floor(const fm_fs_store *store)
{
    return store->floor;
}

size_t fm_fs_store_removed_count(const fm_fs_store *store)
{
    return store->removed_count;
}

uint64_t fm_fs_store_removed_max(const fm_fs_store *store)
{
    return store->removed_max;
}

static fm_status make_room(fm_fs_store *store)
{
    size_t room = store->removed_room ? 2 * store->removed_room : ROOM_MIN;
    fm_fs_chunk_id *removed = fm_base_mem_alloc(room * sizeof *removed);
    if (!removed)
        return FM_ERR_NOMEM;
    for (size_t i = 0; i < store->removed_count; i++)
        removed[i] = store->removed[(store->removed_first + i) % store->removed_room];
    fm_base_mem_free(store->removed);
    store->removed = removed;
    store->removed_first = 0;
    store->removed_room = room;
    return FM_OK;
}

void fm_fs_store_removed_add(fm_fs_store *store, const fm_fs_chunk *chunk)
{
    if (chunk->committed->version > store->removed_max)
        store->removed_max = chunk->committed->version;
    if (store->removed_count == store->removed_room && make_room(store) < 0)
        return; // it keeps its entry until the store is opened again
    size_t last = (store->removed_first + store->removed_count++) % store->removed_room;
    store->removed[last] = chunk->id;
}

static int is_forgettable(const fm_fs_chunk *chunk, uint64_t version)
{
    return chunk && !chunk->pending && chunk->committed && chunk->committed->removed &&
           chunk->committed->version <= version;
}

size_t fm_fs_store_forget(fm_fs_store *store, uint64_t version, size_t limit)
{
    size_t count = store->removed_count < limit ? store->removed_count : limit;
    size_t forgotten = 0;
    if (version > store->floor)
        version = store->floor;
    for (size_t i = 0; i < count; i++) {
        fm_fs_chunk_id id = store->removed[store->removed_first];
        store->removed_first = (store->removed_first + 1) % store->removed_room;
        store->removed_count--;
        fm_fs_chunk *chunk = fm_fs_store_get(store, &id);
        int forgets = is_forgettable(chunk, version);
        forgotten += (size_t)forgets;
        if (forgets)
            fm_fs_store_drop(store, chunk);
        else if (chunk && chunk->committed && chunk->committed->removed)
            fm_fs_store_removed_add(store, chunk); // there is room: this one has just left
    }
    if (!store->removed_count) {
        fm_base_mem_free(store->removed);
        store->removed = NULL;
        store->removed_room = store->removed_first = 0;
        store->removed_max = store->floor;
    }
    return forgotten;
}

void fm_fs_store_floor_replay(fm_fs_store *store, uint64_t version)
{
    if (version < store->floor)
        fm_fs_store_forget(store, store->floor, SIZE_MAX);
    store->floor = version;
    if (version > store->removed_max)
        store->removed_max = version;
}

fm_status fm_fs_store_floor_set(fm_fs_store *store, uint64_t version)
{
    uint8_t record[FM_FS_RECORD_MAX];
    FM_TRY(fm_fs_journal_add(store, record, fm_fs_record_floor(record, version), NULL));
    fm_fs_store_floor_replay(store, version);
    return FM_OK;
}
