/*
 * Landing: patches are written to their places in the blocks, many chunks at once, then the files are synced, and then the
 * versions are without them.
 *
 * A chunk's patches land when each version that has the block has them all: the committed one and the pending one that
 * stands on it are the only ones left, nobody reads an older one, and the records that took older ones away are durable. Reads hold the
 * overlay that their version had when they began, so they see neither the writing nor that it has ended. The block stays
 * in use until its writes have completed, whatever becomes of the chunk.
 */
#include "chunk_store_private.h"

enum { AT_ONCE = 64 }; // chunks; keeps a disk busy, and lets the journal's writes through

static void written(fm_fs_disk_io *io);
static void synced(fm_fs_disk_io *io);

// The version whose overlay may land; NULL: none now.
static fm_fs_chunk_copy *landable(const fm_fs_store *store, const struct fm_fs_share *share)
{
    const fm_fs_chunk *chunk = fm_fs_store_find(store, &share->id);
    fm_fs_chunk_copy *copy = chunk ? chunk->committed : NULL;
    if (!copy || copy->share != share || !copy->overlay)
        return NULL;
    unsigned copies = 1 + (chunk->pending && chunk->pending->share == share);
    int is_last = share->copies == copies && share->lsn <= store->durable;
    return is_last || FM_FS_PLANT(FM_FS_PLANT_LAND_EARLY) ? copy : NULL;
}

static void write_next(fm_fs_store *store, struct fm_fs_share *share)
{
    const fm_fs_chunk_copy *copy = share->landing;
    const struct fm_fs_patch *patch = share->overlay->patches[share->at];
    share->io = (fm_fs_disk_io){.kind = FM_FS_DISK_WRITE,
                                .file = 4u + copy->size_class,
                                .offset = ((uint64_t)copy->block << (16 + copy->size_class)) + patch->from,
                                .size = fm_round_up(patch->bytes->size, FM_FS_PAGE),
                                .data = patch->bytes->data,
                                .done = written,
                                .context = share};
    fm_fs_disk_submit(store->disk, &share->io);
}

static void begin(fm_fs_store *store, struct fm_fs_share *share, fm_fs_chunk_copy *copy)
{
    fm_fs_share_unlist(share);
    copy->refs++;
    share->landing = copy;
    share->overlay = fm_fs_overlay_ref(copy->overlay);
    share->at = 0;
    share->failed = 0;
    share->next = store->landing;
    store->landing = share;
    store->landing_writes++;
    store->landing_classes |= 1u << copy->size_class;
    write_next(store, share);
}

void fm_fs_store_land(fm_fs_store *store)
{
    if (store->landing || store->broken || !store->open ||
        (store->owed_bytes < store->options.land_bytes && !store->land_soon))
        return;
    store->land_soon = 0;
    struct fm_fs_share *last = store->owing.before;
    struct fm_fs_share *share = store->owing.after;
    for (int i = 0; i < AT_ONCE && share != &store->owing; i++) {
        struct fm_fs_share *after = share == last ? &store->owing : share->after;
        fm_fs_chunk_copy *copy = landable(store, share);
        if (copy)
            begin(store, share, copy);
        else
            fm_fs_share_list(store, share, 0);
        share = after;
    }
}

// What a landing held is let go. `paid`: its patches are in their places.
static void finish(fm_fs_store *store, struct fm_fs_share *share, int paid)
{
    const fm_fs_chunk *chunk = fm_fs_store_find(store, &share->id);
    fm_fs_chunk_copy *copy = share->landing;
    struct fm_fs_overlay *overlay = share->overlay;
    fm_fs_chunk_copy *committed =
        chunk && chunk->committed && chunk->committed->share == share ? chunk->committed : NULL;
    fm_fs_chunk_copy *pending =
        chunk && chunk->pending && chunk->pending->share == share ? chunk->pending : NULL;
    if (committed && paid)
        fm_fs_overlay_settle(store, committed, overlay);
    if (pending && paid)
        fm_fs_overlay_settle(store, pending, overlay);
    share->landing = NULL;
    share->overlay = NULL;
    if ((committed && committed->overlay) || (pending && pending->overlay))
        fm_fs_share_list(store, share, 0);
    else if (committed && share->copies == 1 && share->lsn <= store->durable &&
             share->reach <= committed->size)
        fm_fs_share_end(committed);
    fm_fs_overlay_drop(store, overlay);
    fm_fs_chunk_copy_drop(store, copy);
}

static void sync_next(fm_fs_store *store)
{
    if (store->landing_classes && !store->broken && !FM_FS_PLANT(FM_FS_PLANT_LAND_UNSYNCED)) {
        unsigned size_class = (unsigned)__builtin_ctz(store->landing_classes);
        store->landing_classes &= store->landing_classes - 1;
        store->landing_io = (fm_fs_disk_io){
            .kind = FM_FS_DISK_SYNC, .file = 4 + size_class, .done = synced, .context = store};
        fm_fs_disk_submit(store->disk, &store->landing_io);
        return;
    }
    struct fm_fs_share *share = store->landing;
    store->landing = NULL;
    store->landing_classes = 0;
    while (share) {
        struct fm_fs_share *next = share->next;
        finish(store, share, !share->failed && !store->broken);
        share = next;
    }
}

static void synced(fm_fs_disk_io *io)
{
    fm_fs_store *store = io->context;
    if (io->status < 0 && !store->broken)
        fm_fs_journal_fail(store, io->status);
    sync_next(store);
}

static void written(fm_fs_disk_io *io)
{
    struct fm_fs_share *share = io->context;
    fm_fs_store *store = share->store;
    share->failed = io->status < 0;
    // Those of one chunk may overlap, and keep their order.
    if (!share->failed && !store->broken && ++share->at < share->overlay->count) {
        write_next(store, share);
        return;
    }
    if (--store->landing_writes == 0)
        sync_next(store);
}

void fm_fs_store_land_free(fm_fs_store *store)
{
    while (store->landing) {
        struct fm_fs_share *share = store->landing;
        store->landing = share->next;
        finish(store, share, 0);
    }
}
