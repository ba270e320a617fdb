// The journal: records gather while a batch is on its way; one batch at a time is written and flushed, so that many
// changes share a flush.
#include "chunk_store_private.h"

enum {
    IDLE,
    WRITING,
    SYNCING,
    // Records that nobody waits for are flushed when so many bytes have gathered.
    LAZY_BYTES = 64 << 10
};

static void flushed(fm_fs_disk_io *io);

static unsigned journal_file(const fm_fs_store *store)
{
    return (unsigned)(store->generation & 1);
}

fm_status fm_fs_journal_add(fm_fs_store *store, const uint8_t *record, size_t size, uint64_t *out_lsn)
{
    if (store->broken)
        return fm_base_error_set(store->broken, "the chunk store stopped after a failed flush");
    FM_TRY(fm_fs_store_bytes_add(&store->batch, record, size));
    store->batch_records++;
    store->lsn++;
    if (out_lsn)
        *out_lsn = store->lsn;
    return FM_OK;
}

fm_status fm_fs_journal_add_patch(fm_fs_store *store, const uint8_t *record, size_t size,
                                  const struct fm_fs_patch *patch, uint64_t *out_lsn)
{
    FM_TRY(fm_fs_store_bytes_room(&store->batch, size + patch->bytes->size));
    FM_TRY(fm_fs_journal_add(store, record, size, out_lsn));
    return fm_fs_store_bytes_add(&store->batch, patch->bytes->data, patch->bytes->size);
}

static void submit(fm_fs_store *store, enum fm_fs_disk_kind kind, int step)
{
    store->flush_step = step;
    store->flush_io =
        (fm_fs_disk_io){.kind = kind, .file = journal_file(store), .done = flushed, .context = store};
    if (kind == FM_FS_DISK_WRITE) {
        store->flush_io.offset = store->journal_at;
        store->flush_io.data = store->flush_bytes->data;
        store->flush_io.size = store->flush_bytes->room;
    }
    fm_fs_disk_submit(store->disk, &store->flush_io);
}

// Whole records up to FM_FS_BATCH_BYTES, at least one.
static size_t cut(const fm_fs_store *store, uint32_t *out_records)
{
    size_t size = 0;
    uint32_t records = 0;
    while (size < store->batch.size) {
        size_t next = size + 3 + fm_get_le16(store->batch.data + size + 1);
        if (next > FM_FS_BATCH_BYTES)
            break;
        size = next;
        records++;
    }
    *out_records = records;
    return size;
}

static fm_status write_batch(fm_fs_store *store)
{
    struct fm_fs_batch batch = {
        .generation = store->generation, .first = store->durable + 1, .durable = store->durable};
    size_t size = cut(store, &batch.records);
    batch.bytes = (uint32_t)size;
    store->flush_bytes = fm_fs_buffer_new(FM_FS_BATCH_HEADER + size);
    if (!store->flush_bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch of the journal");
    memcpy(store->flush_bytes->data + FM_FS_BATCH_HEADER, store->batch.data, size);
    fm_fs_batch_seal(store->flush_bytes->data, &batch);
    store->batch.size -= size;
    memmove(store->batch.data, store->batch.data + size, store->batch.size);
    store->batch_records -= batch.records;
    store->flushing = store->durable + batch.records;
    submit(store, FM_FS_DISK_WRITE, WRITING);
    return FM_OK;
}

static int is_wanted(const fm_fs_store *store)
{
    return store->waiting_first || store->flushes || store->checkpoint_need > store->durable ||
           store->batch.size >= LAZY_BYTES ||
           (store->freed_count > 0 && store->batch.size > 0 &&
            store->used_bytes > store->disk->capacity_bytes / 8 * 7);
}

void fm_fs_journal_kick(fm_fs_store *store)
{
    if (store->flush_step || store->broken || !store->open || !is_wanted(store))
        return;
    if (!store->checkpoint_step && store->journal_at >= store->options.journal_bytes) {
        store->generation++;
        store->journal_at = 0;
        fm_fs_store_checkpoint(store, store->durable);
        if (store->broken)
            return;
    }
    if (store->batch_records) {
        fm_status status = write_batch(store);
        if (status < 0)
            fm_fs_journal_fail(store, status);
    } else {
        store->flushing = store->durable;
        submit(store, FM_FS_DISK_SYNC, SYNCING);
    }
}

// Tells those who wait for a record up to `lsn`.
static void tell(fm_fs_store *store, uint64_t lsn, fm_status status)
{
    while (store->waiting_first && store->waiting_first->lsn <= lsn) {
        fm_fs_apply *apply = store->waiting_first;
        store->waiting_first = apply->next;
        fm_fs_store_apply_end(store, apply, status);
    }
    fm_fs_flush *kept = NULL;
    fm_fs_flush *flush = store->flushes;
    store->flushes = NULL;
    while (flush) {
        fm_fs_flush *next = flush->next;
        if (flush->lsn <= lsn) {
            flush->status = status;
            flush->done(flush);
        } else {
            flush->next = kept;
            kept = flush;
        }
        flush = next;
    }
    while (kept) {
        fm_fs_flush *next = kept->next;
        kept->next = store->flushes;
        store->flushes = kept;
        kept = next;
    }
}

void fm_fs_journal_fail(fm_fs_store *store, fm_status status)
{
    store->broken = status;
    tell(store, UINT64_MAX, status);
}

static void flushed(fm_fs_disk_io *io)
{
    fm_fs_store *store = io->context;
    if (store->flush_step == WRITING) {
        store->journal_at += store->flush_bytes->room;
        fm_fs_buffer_drop(store->flush_bytes);
        store->flush_bytes = NULL;
    }
    if (io->status < 0) {
        store->flush_step = IDLE;
        fm_fs_journal_fail(store, io->status);
        return;
    }
    if (store->flush_step == WRITING) {
        submit(store, FM_FS_DISK_SYNC, SYNCING);
        return;
    }
    store->flush_step = IDLE;
    store->durable = store->flushing;
    fm_fs_store_block_release(store);
    tell(store, store->durable, FM_OK);
    fm_fs_store_checkpoint_poll(store);
    fm_fs_store_land(store);
    fm_fs_journal_kick(store);
}

void fm_fs_store_flush(fm_fs_store *store, fm_fs_flush *flush)
{
    flush->lsn = store->lsn;
    flush->next = store->flushes;
    store->flushes = flush;
    fm_fs_journal_kick(store);
}
